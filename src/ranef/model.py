"""`Model`: the formula, family and priors of a mixed-effects model, which `Model.fit` fits."""

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
from ranef.fit import Fit, restore_networks
from ranef.formula.formula import Formula
from ranef.inference.base import Method
from ranef.inference.unbounded_likelihood import not_finite, refuse_degenerate
from ranef.priors import Prior, checked
from ranef.program import learning, streaming
from ranef.program.problem import Problem
from ranef.program.program import Program
from ranef.program.training import Training


class Model:
    """A Bayesian mixed-effects model, to be fitted to a table by `fit`.

        y_i ~ Family(link^-1(eta_i), ...),    eta = common effects + group effects + other terms

    Common effects (fixed effects) are shared by all rows; group effects (random effects) vary by
    the levels of a grouping. Other terms are smooth functions, Gaussian processes, matrix
    factorizations and Keras networks.

    Args:
        formula: the model in Wilkinson notation, such as "y ~ x + (1 | g)".
        family: the distribution of the response, such as "gaussian", "student", "bernoulli" or
            "poisson"; `ranef.registry.FAMILIES` lists all. `ranef.Mixture` makes a mixture of
            several. A response of two texts, or of true and false, is bernoulli by default. Its
            success is the second text in the order that the column declares, or in sorted order
            if it declares none; summaries say which text it is.
        priors: parameter name to prior, such as {"x": rf.Normal(0, 1)}. A number fixes the
            parameter, and rf.PointEstimate() estimates it without a posterior. The name
            "common" stands for all common effects of the mean except the intercept; in
            categorical models these are the effects on every category's log odds, in mixtures
            those on every component's mean. By default, priors are weakly informative and
            scaled to the data; `priors_for` returns them.
        networks: name to Keras model, for terms nn(..., net=name). The models are Sequential or
            functional and have one output. The arguments of nn() go to the inputs of the same
            name, or to the inputs in order. Levels of text columns are passed as codes 1, 2, ...
            of the training levels, and as 0 if they did not occur in training. Every fit starts
            from the weights that the networks have when the `Model` is made, and leaves its own
            weights in them.
        missing: texts that stand for a missing level, such as ("NA",). By default "NA" is a level
            like any other.

    Raises:
        FormulaError: for a formula that does not parse, with a caret below the position.
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
        registry.load("family", name)  # refuses an unknown family
        self.formula = formula
        self.program = Program(
            Formula.parse(formula), name, checked(priors), dict(networks or {}), missing
        )

    def __repr__(self) -> str:
        family = self.program.family.name
        said = "; of two texts the second in order is the success" if family == "bernoulli" else ""
        return f"<ranef.Model {self.formula!r}, family {family}{said}>"

    def priors_for(self, data: Any) -> dict[str, Prior]:
        """The prior of every parameter for this table, whether given or by default.

        Args:
            data: as for `fit`.

        Returns:
            Parameter name to prior.

        Raises:
            RanefError: as `fit`, for a table that does not fit the model.
        """
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
        """Fit the model to a table.

        Args:
            data: a pandas, polars or pyarrow table, a dict of arrays, or the path of a CSV or
                Parquet file. Rows with a missing value in a column that the model uses are
                dropped (complete cases), and `Fit.rows` counts them. Parquet files of more than a
                million rows, or fewer with many columns, are read in batches by "exact", and by
                "svi" for networks in a Gaussian model; the fit then keeps a sample of the rows.
                In all other cases all rows are held in memory.
            method: "exact" for Gaussian responses with terms that are linear in their
                coefficients, "laplace" for other families with such terms, "svi" for stochastic
                variational inference, "nuts" for Hamiltonian Monte Carlo, or "auto" for the first
                of exact, laplace and svi that applies. `Fit.why` says why it was used.
            seed: seed of all random numbers. The same seed gives the same bytes on the same
                machine with the same versions.
            draws: number of posterior draws, in each chain.
            progress: whether to show a progress bar on standard error.
            options: options of the method.
                svi: guide ("structured" or "meanfield"), optimizer (any of optax), samples,
                steps, batch_size, checkpoint (a path).
                nuts: chains, tune, target_accept, coefficients ("integrated" or "sampled").
                laplace: quadrature (number of nodes, for models with one grouping and one
                effect for each of its levels).

        Returns:
            The fit. The networks of the model hold its weights.

        Raises:
            RanefError: one of its subclasses, with one sentence that says what is wrong and what
                to do.
        """
        draws, seed = whole_number("draws", draws, least=2), whole_number("seed", seed, least=0)
        runners, why = _candidates(method, options)
        began = time.perf_counter()
        program: Program = self.program
        training: Training | None = None
        problem: Problem | None = None
        how = {"seed": seed, "draws": draws, "progress": progress}
        for runner in runners:
            # A method that does not read in batches needs all rows, even if the method before it
            # has read them in batches.
            reread = problem is not None and problem.windows and not runner.streams
            if training is None or problem is None or reread:
                streams = runner.streams
                program, training = self._learned(data, streams=streams, progress=progress)
                problem = program.problem(training)
                if training.stream is None:
                    refuse_degenerate(problem)
            try:
                try:
                    found = runner.run(problem, **how)
                except RowsNeededError:
                    program, training = self._learned(data, progress=progress)
                    problem = program.problem(training)
                    found = runner.run(problem, **how)
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
            restore_networks(fit)
            return fit
        raise OptionError(f"there is no method to try for {method!r}")

    def _learn(self, data: Any) -> Training:
        """What the program learns from the rows before a fit."""
        return self._learned(data)[1]

    def _learned(
        self, data: Any, *, streams: bool = False, progress: bool = False
    ) -> tuple[Program, Training]:
        """The program adapted to the response, and what it learns from the rows before a fit.

        Args:
            data: as for `fit`.
            streams: whether the rows may be read in batches.
            progress: whether to show a progress bar.
        """
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
        return program, streaming.prepare(program, source, progress=progress)


def _candidates(method: str, options: Mapping[str, Any]) -> tuple[list[Method], str]:
    """The methods to try, in this order, and the reason for using the first."""
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
