"""A model as one NumPyro program: terms, response distribution and priors.

Each family parameter p has a linear predictor, the sum of its terms, or is one number for all rows:

    eta_ip = sum_t f_t(x_i),   y_i ~ Family(link_1^-1(eta_i1), link_2^-1(eta_i2), ...)

`Program` holds what follows from the formula alone. `TrainingState` holds what is learned from the
training rows before the fit, such as levels, scales and default priors.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ranef import registry
from ranef.data.frame import Frame
from ranef.errors import ColumnError, FormulaError, OptionError
from ranef.families.base import Family
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.responses import is_boolean, is_text
from ranef.families.state import FamilyState, ResponseScan
from ranef.formula.equation import Line
from ranef.formula.expression import Column
from ranef.formula.formula import Formula
from ranef.formula.imputation_models import ColumnModel
from ranef.formula.response import ResponseCall
from ranef.lazy import Array, ArrayLike, jnp, numpyro
from ranef.priors import Prior, sites
from ranef.program import predictors as assignment
from ranef.program.equations import response_equations
from ranef.program.missing_value_integrals import FAMILIES, Selected, column
from ranef.program.missing_values import ConditionalDensity, MissingDataLikelihood
from ranef.program.training import Designs, Training, TrainingState, length
from ranef.terms.base import LevelSites, Run, RunOptions, Term, clean_name
from ranef.terms.blocks import LinearBlock, RowPlaces
from ranef.terms.capabilities import (
    Capability,
    Curve,
    FittedDraws,
    HasNetwork,
    Incomplete,
    Sites,
    VariesByLevel,
)

_RESERVED = ("chain", "draw")

# A grouping by which a term varies: the label of the term, and the place of the grouping among the
# groupings of that term (a matrix factorization has two).
Varying = tuple[str, int]

# Each family parameter on the scale of its link, as a function of completed columns, (m,) by name,
# and of the places of these m rows among all rows.
Predictors = Callable[[Mapping[str, Selected], RowPlaces], dict[str, Array]]

_Capability = TypeVar("_Capability", bound=Capability)

# Site of the observed response. No column can clash with it, because `clean_name` replaces "/" in
# column names.
RESPONSE_SITE = "/response"


class Program:
    """The model that a formula and a family describe.

    A column inside mi() has a model of its own, of which it is the response. It is a second
    `Program`, held in `columns`.

    Args:
        formula: the parsed formula.
        family: registered name of the family.
        priors: the user's priors by parameter name; "common" stands for all common (fixed)
            effects but the intercept.
        networks: Keras models by name.
        missing: texts that mean a missing level.
        column: the incomplete column that is the response of this program; "" for the response
            of the formula.

    Attributes:
        family: the response distribution.
        prefix: stands before the names of the program's parameters; "" for the main program.
        user_priors: the user's priors, by the names of the posterior's variables.
        terms: family parameter to the terms of its predictor.
        columns: incomplete column to the program that models it.
        networks: the Keras models that terms use, by name.

    Raises:
        FormulaError, OptionError: for a predictor of a parameter that the family does not have,
            and for unknown terms or families.
        ColumnError: for a column named like a dimension of the posterior.
    """

    def __init__(
        self,
        formula: Formula,
        family: str,
        priors: Mapping[str, Prior],
        networks: Mapping[str, object],
        missing: Sequence[str],
        column: str = "",
    ) -> None:
        self.formula = formula
        self.column = column
        self.prefix = f"{clean_name(column)}_" if column else ""
        self.family: Family = registry.load("family", family)(formula.response)
        # Users may write names as tables show them, such as I(x / 2), or as the posterior does.
        self.user_priors = {clean_name(name): prior for name, prior in priors.items()}
        self.missing = tuple(missing)
        self._given_networks = networks
        self.terms = self._terms(networks)
        self.columns = {
            name: self._predicting(name, model, networks) for name, model in formula.columns.items()
        }
        self.networks = self._named_networks()
        used = [name for name in self.needs() if name in _RESERVED]
        if used:
            raise ColumnError(
                f"a column cannot be named {used[0]!r}, which names a dimension of the posterior; "
                "rename it"
            )

    @property
    def location(self) -> str:
        """Name of the family's first parameter, which the first part of the formula predicts."""
        return self.family.parameters[0].name

    @property
    def programs(self) -> "tuple[Program, ...]":
        """This program, followed by those of the incomplete columns."""
        return (self, *self.columns.values())

    @property
    def point_networks(self) -> tuple[str, ...]:
        """Labels of the terms with networks whose weights are all point estimates.

        Those in models of incomplete columns are left out.
        """
        terms = (term for terms in self.terms.values() for term in terms)
        return tuple(
            term.label for term in terms if isinstance(term, HasNetwork) and term.has_point_weights
        )

    def family_state(self, state: TrainingState) -> FamilyState:
        """The state of this program's family."""
        return state.columns[self.column] if self.column else state.family

    def _predicting(
        self, name: str, model: ColumnModel, networks: Mapping[str, object]
    ) -> "Program":
        """The program that models an incomplete column as its response.

        Raises:
            FormulaError: for a family over whose missing values no integral is implemented.
        """
        if model.family not in FAMILIES:
            raise FormulaError(
                f"mi({name}, family={model.family}) must be one of {', '.join(FAMILIES)}"
            )
        response = ResponseCall(Column(name))
        formula = Formula(self.formula.text, response, {"": model.predictor})
        return Program(formula, model.family, {}, networks, self.missing, name)

    def with_columns(self, names: Sequence[str]) -> "Program":
        """The program whose formula has these columns of a table in place of each dot."""
        formula = self.formula.with_columns(names)
        return self if formula is self.formula else self._with(self.family.name, formula)

    def with_inferred_family(self, frame: Frame) -> "Program":
        """The program with the family that the type of the response implies.

        A response of texts or booleans makes the default family "gaussian" a "bernoulli" one.
        """
        value = self.formula.response.value
        of_two = is_text(value, frame) or is_boolean(value, frame)
        plain = self.formula.response.form == "plain"
        default = self.family.name == "gaussian"
        return self._with("bernoulli") if plain and of_two and default else self

    def with_categories(self, frames: Iterable[Frame]) -> "Program":
        """The program bound to the categories of the response, from batches of complete rows.

        Families without categories return the program unchanged and read no rows.
        """
        if not self.family.categorised:
            return self
        seen = ResponseScan()
        for frame in frames:
            seen = self.family.scan(seen, frame)
        return self.bind(self.family.finish(seen))

    def bind(self, state: FamilyState) -> "Program":
        """The program with its family bound to the state that was learned from the response."""
        family = self.family.bind(state)
        if family is self.family:
            return self
        out = self._with(family.name)
        out.family = family
        out.terms = out._terms(self._given_networks)
        out.networks = out._named_networks()
        return out

    def _with(self, family: str, formula: Formula | None = None) -> "Program":
        formula = formula or self.formula
        return Program(formula, family, self.user_priors, self._given_networks, self.missing)

    def _terms(self, networks: Mapping[str, object]) -> dict[str, tuple[Term, ...]]:
        """The terms of every predictor, by family parameter."""
        assigned = assignment.predictors(self.family, self.formula.predictors)
        return {
            name: tuple(
                registry.load("term", call.kind)(
                    call, self.prefix + own.prefix, networks, main=own.main and not self.prefix
                )
                for call in own.calls
            )
            for name, own in assigned.items()
        }

    def _named_networks(self) -> dict[str, object]:
        """The Keras networks that terms use, by their names in the formula.

        Raises:
            OptionError: for one network in two terms that are not written alike.
        """
        out: dict[str, object] = {}
        users: dict[int, list[HasNetwork]] = {}
        for _, term in self.terms_with(HasNetwork):
            name = term.call.options.get("net")
            if name is None:
                continue
            network = term.networks[name]
            users.setdefault(id(network), []).append(term)
            out[name] = network
        for terms in users.values():
            other = next((t for t in terms if t.call.label != terms[0].call.label), None)
            if other is not None:
                raise OptionError(
                    f"{terms[0].label} and {other.label} have one network, and terms share one "
                    "where they are written alike; give one of them a copy, as by "
                    "keras.models.clone_model"
                )
            for term in terms:
                term.shared(tuple(t.label for t in terms))
        return out

    def starting_networks(self) -> tuple[Mapping[str, object], dict[str, Mapping[str, NDArray]]]:
        """All networks that were given, and the values from which fits start, by name."""
        initial = {
            str(term.call.options["net"]): term.initial
            for _, term in self.terms_with(HasNetwork)
            if term.call.options.get("net") is not None
        }
        return self._given_networks, initial

    def all_terms(self) -> Iterator[tuple[FamilyParameter, Term]]:
        """Every term, those of incomplete columns included, with the parameter that it predicts.

        The parameter's name has the prefix of its program, so that it is unique in the model.
        """
        for parameter in self.family.parameters:
            for term in self.terms.get(parameter.name, ()):
                yield replace(parameter, name=self.prefix + parameter.name), term
        for program in self.columns.values():
            yield from program.all_terms()

    def terms_with(
        self, capability: type[_Capability]
    ) -> Iterator[tuple[FamilyParameter, _Capability]]:
        """The terms with a capability, as `all_terms` lists them.

        Args:
            capability: a class of ``terms/capabilities.py``.
        """
        for parameter, term in self.all_terms():
            if isinstance(term, capability):
                yield parameter, term

    def groupings(self) -> list[str]:
        """The groupings by which terms vary, as the formula writes them, without repetition."""
        each = (name for _, term in self.terms_with(VariesByLevel) for name in term.groupings)
        return list(dict.fromkeys(each))

    def limited_to(self, groupings: Collection[str]) -> "Program":
        """The program without terms that vary by other groupings than the given ones.

        Their effects are then zero, which is their mean under the prior. A saved state and draws
        of the whole program serve the limited one too.
        """

        def kept(term: Term) -> bool:
            return not isinstance(term, VariesByLevel) or set(term.groupings) <= set(groupings)

        out = copy.copy(self)
        out.terms = {name: tuple(filter(kept, terms)) for name, terms in self.terms.items()}
        out.columns = {name: own.limited_to(groupings) for name, own in self.columns.items()}
        return out

    def needs(self, *, response: bool = True, companion: bool = True) -> dict[str, set[str]]:
        """Columns that the program reads, each with the ways in which it is used.

        Args:
            response: whether to include the columns of the response.
            companion: whether to include the columns of its standard errors, weights or trials.
        """
        out: dict[str, set[str]] = {}
        sources = [term.needs() for _, term in self.all_terms()]
        sources.append(self.family.needs(response=response, companion=companion))
        for name, use in (pair for source in sources for pair in source.items()):
            out.setdefault(name, set()).add(use)
        return out

    def terms_of(self, parameter: str) -> list[Term]:
        """The terms of a family parameter; its name has the prefix of its program."""
        return [term for own, term in self.all_terms() if own.name == parameter]

    def observed(self, frame: Frame) -> Frame:
        """The rows in which the response of this program is observed."""
        return frame.keep(~frame.is_missing(self.column)) if self.column else frame

    def designs(self, state: TrainingState, frame: Frame) -> Designs:
        """The design of every term on the rows of `frame`, training or new, by label."""
        return {t.label: t.design(state.terms[t.label], frame) for _, t in self.all_terms()}

    def trained(
        self, training: Training, draws: FittedDraws
    ) -> dict[str, tuple[Any, dict[str, NDArray]]]:
        """Each network with the values of its variables after a fit, by the label of its term."""
        state = training.state
        scales = {term.label: state.scales[own.name] for own, term in self.all_terms()}
        return {
            term.label: term.trained(state.terms[term.label], draws, scales)
            for _, term in self.terms_with(HasNetwork)
        }

    def left_out(self, draws: FittedDraws) -> list[str]:
        """Labels of the terms that a search left out because they did not improve predictions."""
        return [
            term.label
            for _, term in self.terms_with(HasNetwork)
            for site, value in term.without().items()
            if _holds(draws.carried.get(site, {}), value)
        ]

    def bases(self, state: TrainingState, designs: Designs, replay: RunOptions) -> dict[str, Array]:
        """Columns (n, k) that depend on point estimates, by term label; runs within a handler."""
        replay = replace(replay, made={})
        return {
            term.label: term.basis(_run(state, designs, term, parameter.name, replay))
            for parameter, term in self.terms_with(HasNetwork)
        }

    def features(
        self, state: TrainingState, designs: Designs, replay: RunOptions
    ) -> dict[str, Array]:
        """Inputs (n, k) of the networks' last layers, by term label; runs within a handler."""
        out, replay = {}, replace(replay, made={})
        for parameter, term in self.terms_with(HasNetwork):
            found = term.features(_run(state, designs, term, parameter.name, replay))
            if found is not None:
                out[term.label] = found
        return out

    def __call__(
        self,
        state: TrainingState,
        designs: Designs,
        response: ResponseDesign | None = None,
        *,
        rows: int | None = None,
        replay: RunOptions | None = None,
    ) -> dict[str, Array]:
        """Run the program within a NumPyro handler.

        Args:
            state: what was learned from the training rows.
            designs: designs of the rows, or of a minibatch of them.
            response: the response on the same rows; None to predict.
            rows: the number of rows that the minibatch stands for.
            replay: how to run; training by default.

        Returns:
            Each family parameter on its own scale, (n,), or () for one number for all rows. The
            dict is empty for a model with incomplete columns whose response is given: its
            likelihood integrates missing values out, so no parameter has one value per row.
        """
        replay = replay or RunOptions(rows=rows or length(designs))
        if self.columns and response is not None:
            found = self.incomplete(state, designs, response, replay)
            # The bound counts the incomplete rows of all batches: a minibatch may hold them all.
            with numpyro.handlers.scale(scale=replay.rows / found.n):
                numpyro.factor(RESPONSE_SITE, found.log_likelihood(state.gaps))
            return {}
        predictors = self.predictors(state, designs, replay)
        if response is not None:
            with numpyro.handlers.scale(scale=replay.rows / jnp.shape(response.value)[0]):
                numpyro.sample(
                    RESPONSE_SITE,
                    self.family.given(response, **predictors).to_event(1),
                    obs=jnp.asarray(response.value),
                )
        return self.family.on_own_scale(**predictors)

    def predictors(
        self, state: TrainingState, designs: Designs, replay: RunOptions
    ) -> dict[str, Array]:
        """Each family parameter on the scale of its link; runs within a NumPyro handler.

        Missing values of a row are drawn given its other columns.

        Returns:
            Arrays (n,) for parameters with a predictor, () for one number for all rows, and (k,)
            for a vector.
        """
        at = self._curves(state, designs, replay)
        if not self.columns:
            return at({}, slice(None))
        rows = self._incomplete(state, designs, replay)
        return at(rows.at(slice(None)).drawn(numpyro.prng_key()), slice(None))

    def incomplete(
        self, state: TrainingState, designs: Designs, response: ResponseDesign, replay: RunOptions
    ) -> MissingDataLikelihood:
        """The likelihood with missing values integrated out; runs within a NumPyro handler."""
        at = self._curves(state, designs, replay)
        own = ConditionalDensity(self.family, at, self._is_straight, response)
        rows = self._incomplete(state, designs, replay)
        return replace(rows, densities={"": own, **rows.densities})

    def _incomplete(
        self, state: TrainingState, designs: Designs, replay: RunOptions
    ) -> MissingDataLikelihood:
        """The joint density of the incomplete columns, without that of the response."""
        densities = {
            name: ConditionalDensity(
                program.family, program._curves(state, designs, replay), program._is_straight
            )
            for name, program in self.columns.items()
        }
        # Several terms may hold the same column; any of them supplies its values.
        of = {term.column: term for _, term in self.terms_with(Incomplete)}
        arrays = {name: designs[term.label].arrays for name, term in of.items()}
        known = {name: state.terms[term.label] for name, term in of.items()}
        return MissingDataLikelihood(
            tuple(
                column(name, program.family.name, known[name].sd, known[name].largest)
                for name, program in self.columns.items()
            ),
            {name: jnp.asarray(own["value"]) for name, own in arrays.items()},
            {name: jnp.asarray(own["missing"]) for name, own in arrays.items()},
            densities,
        )

    @property
    def _is_straight(self) -> bool:
        """Whether incomplete columns enter the predictor of the location alone."""
        others = [terms for name, terms in self.terms.items() if name != self.location]
        return not any(isinstance(term, Incomplete) for terms in others for term in terms)

    def imputed(
        self, state: TrainingState, designs: Designs, response: ResponseDesign, replay: RunOptions
    ) -> dict[str, Array]:
        """Incomplete columns, (n,) by name, with missing values drawn given the response.

        It runs within a NumPyro handler with a PRNG key.
        """
        rows = self.incomplete(state, designs, response, replay)
        return rows.at(slice(None)).drawn(numpyro.prng_key())

    def _curves(self, state: TrainingState, designs: Designs, replay: RunOptions) -> Predictors:
        """Sample all sites and return predictors as a function of completed columns.

        It runs within a NumPyro handler. The function takes the completed columns of m rows and
        their places among all rows, and returns each family parameter on the scale of its link.
        """
        replay = replace(replay, made={})
        curves: dict[str, list[Curve]] = {}
        constants: dict[str, Array] = {}
        for parameter in self.family.free_parameters():
            name = parameter.name
            if name in self.terms:
                curves[name] = [
                    _curve(term, _run(state, designs, term, self.prefix + name, replay))
                    for term in self.terms[name]
                ]
            else:
                value = sites.parameter(
                    self.prefix + name,
                    state.priors[self.prefix + name],
                    shape=(len(parameter.labels),) if parameter.labels else (),
                    support=parameter.support,
                    start=self.family.start(self.family_state(state), parameter),
                )
                constants |= self.family.on_link_scale(**{name: value})

        def at(completed: Mapping[str, Selected], rows: RowPlaces) -> dict[str, Array]:
            sums = {
                name: jnp.asarray(sum((curve(completed, rows) for curve in own), 0.0))
                for name, own in curves.items()
            }
            return {**sums, **constants}

        return at

    def blocks(
        self, state: TrainingState, designs: Designs, hyperparameters: Sites
    ) -> dict[str, LinearBlock]:
        """The linear blocks of every predictor at given hyperparameters, by term label.

        Args:
            state: what was learned from the training rows.
            designs: designs of the rows.
            hyperparameters: values of the scale and correlation sites.
        """
        substituted = numpyro.handlers.substitute(
            self._blocks, data=cast(dict[str, Array], dict(hyperparameters))
        )
        seeded = cast(Callable[..., dict[str, LinearBlock]], numpyro.handlers.seed(substituted, 0))
        return seeded(state, designs)

    def _blocks(self, state: TrainingState, designs: Designs) -> dict[str, LinearBlock]:
        """`blocks` within a NumPyro handler that supplies the hyperparameters."""
        out = {}
        for parameter, term in self.all_terms():
            block = term.linear_block(_run(state, designs, term, parameter.name, RunOptions()))
            if block is not None:
                out[term.label] = block
        return out

    def equations(self, state: TrainingState) -> list[Line]:
        """The model in mathematical notation, one equation per line.

        The lines are the distribution of the response, the predictors, the distributions of their
        effects and notes on the coding; then the same for every incomplete column.
        """
        return [
            line
            for program in self.programs
            for line in response_equations(
                program.family,
                program.family_state(state),
                program.terms,
                state.terms,
                program.column,
            )
        ]

    def level_sites(self, state: TrainingState) -> dict[Varying, LevelSites]:
        """The sites that vary by level, by term label and place of the grouping in the term."""
        return {
            (term.label, place): grouped
            for _, term in self.terms_with(VariesByLevel)
            for place, grouped in enumerate(term.level_sites(state.terms[term.label]))
        }

    def narrowed(self, state: TrainingState, levels: Mapping[Varying, int]) -> TrainingState:
        """The state cut to the first levels of each grouping; `levels` says how many."""
        terms = dict(state.terms)
        for _, term in self.terms_with(VariesByLevel):
            own = tuple(size for (label, _), size in levels.items() if label == term.label)
            if own:
                terms[term.label] = term.narrowed(terms[term.label], own)
        return replace(state, terms=terms)


def _run(
    state: TrainingState,
    designs: Designs,
    term: Term | Capability,
    parameter: str,
    options: RunOptions,
) -> Run:
    """What a term of this family parameter gets to know in one run."""
    label = term.label
    return Run(state.terms[label], designs[label], state.priors, state.scales[parameter], options)


def _curve(term: Term, run: Run) -> Curve:
    """The term's eta as a function of completed columns; runs within a NumPyro handler."""
    if isinstance(term, Incomplete):
        return term.sample_given(run)
    eta = term.eta(run)
    return lambda completed, rows: eta[rows]


def _holds(carried: Mapping[str, ArrayLike], state: Mapping[str, ArrayLike]) -> bool:
    """Whether what the program carries at a site has all values of `state`."""
    return all(n in carried and np.array_equal(carried[n], v) for n, v in state.items())
