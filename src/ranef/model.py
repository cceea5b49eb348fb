"""`Model`: a formula, a family and priors, ready to be fitted to any table."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ranef import registry
from ranef.data.complete_cases import complete
from ranef.data.parquet import batches
from ranef.data.tables import read
from ranef.errors import MethodError, OptionError, RowsNeededError, whole_number
from ranef.families.mixture_spec import Mixture
from ranef.fit import Fit
from ranef.formula.formula import Formula
from ranef.inference.base import Method
from ranef.inference.unbounded_likelihood import not_finite, refuse_degenerate
from ranef.priors import Prior, checked
from ranef.program import learning, streaming
from ranef.program.program import Program
from ranef.program.training import Training


class Model:
    """A mixed-effects model: eta = common + group + network terms, y ~ Family(eta, ...).

    Args:
        formula: Wilkinson notation, such as "y ~ x + (1 | g)".
        family: of the response, such as "gaussian", "student", "bernoulli" or "poisson"; all are
            in `ranef.registry.FAMILIES`; `ranef.Mixture` mixes several. A response of two texts,
            or of true and false, is bernoulli by default. The success is the second of the texts
            in the order that the column declares, else sorted; summaries say which it is.
        priors: parameter name to prior, such as {"x": rf.Normal(0, 1)}; a number fixes the
            parameter, rf.PointEstimate() estimates it without a posterior, "common" stands
            for all common effects of the mean but the intercept: of every category's log
            odds, and of every component's mean. Without: weakly informative ones scaled to
            the data, which `priors_for` shows.
        networks: name to Keras model, Sequential or functional with one output, for
            nn(..., net=name). Arguments go to the input of their name, else in order. Text
            reaches it as codes of the training levels, 1, 2, ..., and 0 for any other. Every
            fit begins with the weights that it has now, and leaves it with those of the fit.
        missing: texts that mean a missing level, such as ("NA",); by default "NA" is a level.

    Raises:
        FormulaError: for a formula that does not parse, with a caret under the place.
        OptionError: for an unknown family, prior or network.
    """

    def __init__(
        self,
        formula: str,
        family: str | Mixture = "gaussian",
        priors: Mapping[str, Prior | float] | None = None,
        networks: Mapping[str, Any] | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        if not isinstance(missing, (list, tuple)) or not all(isinstance(m, str) for m in missing):
            raise OptionError(f"missing must be a list of texts such as ('NA',), not {missing!r}")
        if networks is not None and not isinstance(networks, Mapping):
            raise OptionError(f"networks must be a dict of Keras models by name, not {networks!r}")
        name: Any = getattr(family, "name", family)
        registry.load("family", name)  # refuses what is no family's name
        self.formula = formula
        self.program = Program(
            Formula.parse(formula), name, checked(priors), dict(networks or {}), missing
        )

    def __repr__(self) -> str:
        family = self.program.family.name
        said = "; of two texts the second in order is the success" if family == "bernoulli" else ""
        return f"<ranef.Model {self.formula!r}, family {family}{said}>"

    def priors_for(self, data: Any) -> dict[str, Prior]:
        """The prior of every parameter on this table, given or default."""
        program, training = self._learned(data, streams=True)
        return program.stated(training.state)

    def fit(
        self,
        data: Any,
        method: str = "auto",
        seed: int = 0,
        draws: int = 1000,
        progress: bool = True,
        **options: Any,
    ) -> Fit:
        """Fit to a table.

        Args:
            data: a pandas, polars or pyarrow table, a dict of arrays, or a path to CSV or
                Parquet. Rows with a gap in a used column are dropped; `Fit.rows` counts them.
                Parquet of more than a million rows is read in batches, and a sample kept, by
                exact and by svi with networks in a Gaussian model; else all rows are held.
            method: "exact", "laplace", "svi", "nuts", or "auto": exact wherever it applies, then
                laplace, else svi; `Fit.why` says why.
            seed: the same seed gives the same bytes on the same machine and versions.
            draws: of the posterior, in each chain.
            progress: whether to show a bar on standard error.
            options: of the method. svi: guide ("structured" or "meanfield"), optimizer (any
                of optax), samples, steps, batch_size, checkpoint (a path). nuts: chains,
                tune, target_accept, coefficients ("integrated" or "sampled"). laplace:
                quadrature (nodes; one grouping with one effect for each level).

        Raises:
            RanefError: one of its kinds, with one sentence that says what is wrong and what
                to do.
        """
        draws, seed = whole_number("draws", draws, least=2), whole_number("seed", seed, least=0)
        runners, why = _candidates(method, options)
        began = time.perf_counter()
        program: Program = self.program
        training: Training | None = None
        for runner in runners:
            # Rows that one method has read in batches the next may need all at once.
            if training is None or (training.stream is not None and not runner.streams):
                streams = runner.streams
                program, training = self._learned(data, streams=streams, progress=progress)
            if training.stream is None:
                refuse_degenerate(program.problem(training))
            how = {"seed": seed, "draws": draws, "progress": progress}
            try:
                try:
                    found = runner.run(program.problem(training), **how)
                except RowsNeededError:
                    program, training = self._learned(data, progress=progress)
                    found = runner.run(program.problem(training), **how)
            except MethodError as error:
                if runner is runners[-1]:
                    raise
                why = f"method {error.method!r} {error.reason}"
                continue
            except (ArithmeticError, np.linalg.LinAlgError):
                raise not_finite(program.family) from None
            seconds = time.perf_counter() - began
            found = replace(found, seed=seed)
            fit = Fit(program, training, found, runner.name, why, seconds)
            for name in program.networks:
                fit.network(name)  # leaves the weights in the user's object
            return fit
        raise OptionError(f"there is no method to try for {method!r}")

    def _learn(self, data: Any) -> Training:
        return self._learned(data)[1]

    def _learned(
        self, data: Any, *, streams: bool = False, progress: bool = False
    ) -> tuple[Program, Training]:
        """The program once it knows its response, and what the rows say before the fit."""
        program = self.program
        source = batches(data, list(program.needs()), program.missing) if streams else None
        if source is None:
            frame = read(data, list(program.needs()), program.missing)
            program = program.with_inferred_family(frame)
            if program.family.categorised:
                program = program.with_categories([complete(frame, program.needs())[0]])
            return program, learning.prepare(program, frame)
        first = next(iter(source), None)
        if first is not None:
            program = program.with_inferred_family(first)
        if program.family.categorised:
            program = program.with_categories(
                streaming.complete_rows(program, source, progress=progress)
            )
        return program, streaming.learn(program, source, progress=progress)


def _candidates(method: str, options: Mapping[str, Any]) -> tuple[list[Method], str]:
    """The methods to try in order, and why the first comes first."""
    if method != "auto":
        return [registry.load("method", method)(**options)], "it was asked for"
    linear = [registry.load("method", name) for name in ("exact", "laplace")]
    runners = [registry.load("method", name) for name in ("svi", "nuts")]
    having = [runner for runner in runners if set(options) <= set(runner.options)]
    able = [runner for runner in linear if set(options) <= set(runner.options)]
    unknown = sorted(set(options) - set(linear[0].options))
    why = (
        f"it has the option {unknown[0]!r}"
        if unknown
        else "the response is gaussian and every term linear in its coefficients, which therefore "
        "integrate out in closed form"
    )
    other = [] if unknown and able else [(having or runners)[0](**options)]
    return [*(runner(**options) for runner in able), *other], why
