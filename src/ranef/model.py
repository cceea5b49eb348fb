"""`Model`: the formula, family and priors of a mixed-effects model, which `Model.fit` fits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from ranef import habits, markup, registry
from ranef.data.complete_cases import complete
from ranef.data.parquet import batches
from ranef.data.tables import column_names, read
from ranef.errors import MethodError, OptionError, whole_number
from ranef.families.base import Family
from ranef.families.mixture_spec import Mixture
from ranef.fit import Fit, restore_networks
from ranef.fit.base import LOG
from ranef.fit.refitting import ASKED_FOR, refit_options
from ranef.formula.formula import Formula
from ranef.inference.base import Method
from ranef.inference.unbounded_likelihood import not_finite, refuse_degenerate
from ranef.names import FamilyName, MethodName, MethodOptions
from ranef.priors import Prior, Priors, checked
from ranef.program import learning, posterior_variables, streaming
from ranef.program.problem import Problem
from ranef.program.problem_builder import build_problem
from ranef.program.program import Program
from ranef.program.training import Training
from ranef.storage import networks as network_copies


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

    @habits.refusing(habits.MODEL, "rf.Model")
    def __init__(
        self,
        formula: str,
        family: FamilyName | Mixture = "gaussian",
        priors: Mapping[str, Prior | float] | None = None,
        networks: Mapping[str, object] | None = None,
        missing: Sequence[str] = (),
    ) -> None:
        if not isinstance(missing, (list, tuple)) or not all(isinstance(m, str) for m in missing):
            raise OptionError(f"missing must be a list of texts such as ('NA',), not {missing!r}")
        if networks is not None and not isinstance(networks, Mapping):
            raise OptionError(f"networks must be a dict of Keras models by name, not {networks!r}")
        if _is_data(family):
            raise OptionError(
                "the second argument of rf.Model is the family, such as 'poisson', and the table "
                "goes to fit: write rf.Model(formula).fit(data)"
            )
        name = family.name if isinstance(family, Mixture) else family
        registry.load("family", name)  # refuses an unknown family
        self.formula = formula
        self.program = Program(
            Formula.parse(formula), name, checked(priors), dict(networks or {}), missing
        )

    def __repr__(self) -> str:
        return f"<ranef.Model {self.formula!r}, {self._said_of_family()}>"

    def _said_of_family(self) -> str:
        family = self.program.family.name
        said = "; of two texts the second in order is the success" if family == "bernoulli" else ""
        return f"family {family}{said}"

    def _repr_html_(self) -> str:
        about = markup.lines(self.formula, self._said_of_family())
        given = self.program.user_priors
        return about + (markup.named(given, ("parameter", "prior")) if given else "")

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[object, ...]]:
        program = self.program
        kept = network_copies.stored(*program.starting_networks())
        family, missing = program.family.name, program.missing
        return _restored, (self.formula, family, program.user_priors, kept, missing)

    def priors_for(self, data: object) -> Priors:
        """The prior of every parameter for this table, whether given or by default.

        Args:
            data: as for `fit`.

        Returns:
            Parameter name to prior.

        Raises:
            RanefError: as `fit`, for a table that does not fit the model.
        """
        program, training = self._learned(data, streams=True)
        return Priors(posterior_variables.stated(program, training.state))

    def fit(
        self,
        data: object,
        method: MethodName = "auto",
        seed: int = 0,
        draws: int = 1000,
        progress: bool = True,
        **options: Unpack[MethodOptions],
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
        habits.refuse(options, habits.FIT, "fit()")
        draws, seed = whole_number("draws", draws, least=2), whole_number("seed", seed, least=0)
        candidates, why = _candidates(method, options)
        began = time.perf_counter()
        LOG.info("fitting %r", self)
        choice = self._first_that_fits(candidates, why, data, progress)
        with _finite(choice.program.family):
            found = choice.method.run(choice.problem, seed=seed, draws=draws, progress=progress)
        seconds = time.perf_counter() - began
        LOG.info("fitted by %s in %.3g s: %s", choice.method.name, seconds, found.message)
        found = replace(found, seed=seed, settings=refit_options(options, found.settings))
        fit = Fit(choice.program, choice.training, found, choice.method.name, choice.why, seconds)
        restore_networks(fit)
        return fit

    def _first_that_fits(
        self, candidates: Sequence[Method], why: str, data: object, progress: bool
    ) -> _Choice:
        """The first method that does not refuse the model, with the rows read as it takes them.

        Args:
            candidates: the methods to ask, in this order; at least one.
            why: the reason for using the first.
            data: as for `fit`.
            progress: whether to show a progress bar.

        Raises:
            MethodError: if all refuse, with the reason of the last.
        """
        choice: _Choice | None = None
        reason = ""
        for method in candidates:
            # A method that does not read in batches needs all rows, even if the method before it
            # has read them in batches.
            streamed = choice is not None and choice.problem.windows > 0
            if choice is None or (streamed and not method.reads_batches(choice.problem)):
                choice = self._prepared(method, data, progress)
            choice = replace(choice, method=method, why=why)
            with _finite(choice.program.family):
                refusal = method.refuses(choice.problem)
            if refusal is None:
                LOG.info("%s; method %s, because %s", choice.training.rows, method.name, choice.why)
                return choice
            reason, why = refusal, f"method {method.name!r} {refusal}"
            LOG.info("%s is not used: it %s", method.name, refusal)
        raise MethodError(candidates[-1].name, reason)

    def _prepared(self, method: Method, data: object, progress: bool) -> _Choice:
        """The problem of a method, with rows read in batches if the method fits it so."""
        program, training = self._learned(data, streams=method.streams, progress=progress)
        problem = build_problem(program, training)
        if problem.windows and not method.reads_batches(problem):
            program, training = self._learned(data, progress=progress)
            problem = build_problem(program, training)
        if training.stream is None:
            refuse_degenerate(problem)
        return _Choice(method, program, training, problem)

    def _learn(self, data: object) -> Training:
        """What the program learns from the rows before a fit."""
        return self._learned(data)[1]

    def _learned(
        self, data: object, *, streams: bool = False, progress: bool = False
    ) -> tuple[Program, Training]:
        """The program adapted to the response, and what it learns from the rows before a fit.

        Args:
            data: as for `fit`.
            streams: whether the rows may be read in batches.
            progress: whether to show a progress bar.
        """
        program = self.program
        if program.formula.dots:
            program = program.with_columns(column_names(data))
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


def _is_data(value: object) -> bool:
    """Whether a value is a table or a path where a family is expected."""
    if isinstance(value, str):
        return value.lower().endswith((".csv", ".txt", ".parquet", ".pq"))
    return isinstance(value, (Mapping, os.PathLike)) or hasattr(value, "columns")


def _restored(
    formula: str,
    family: FamilyName,
    priors: Mapping[str, Prior | float],
    kept: Iterable[network_copies.StoredNetwork],
    missing: Sequence[str],
) -> Model:
    """A model from the values that a copy or a pickle holds."""
    return Model(formula, family, priors, network_copies.restored(kept), missing)


@dataclass(frozen=True)
class _Choice:
    """A method, why it is used, and what it is run on."""

    method: Method
    program: Program
    training: Training
    problem: Problem
    why: str = ""


@contextmanager
def _finite(family: Family) -> Iterator[None]:
    """Turns an error of the arithmetic into one that says what is too large.

    Raises:
        DataError: in place of the error.
    """
    try:
        yield
    except (ArithmeticError, np.linalg.LinAlgError):
        raise not_finite(family) from None


def _candidates(method: str, options: Mapping[str, object]) -> tuple[list[Method], str]:
    """The methods to try, in this order, and the reason for using the first."""
    if method != "auto":
        return [registry.load("method", method)(**options)], ASKED_FOR
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
