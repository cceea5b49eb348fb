"""A model as one NumPyro program: terms, response distribution and priors.

Each family parameter p has a linear predictor, the sum of its terms, or is one number for all rows:

    eta_ip = sum_t f_t(x_i),   y_i ~ Family(link_1^-1(eta_i1), link_2^-1(eta_i2), ...)

`Program` holds what follows from the formula alone. `TrainingState` holds what is learned from the
training rows before the fit, such as levels, scales and default priors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from ranef.formula.equation import Line, Sub, joined
from ranef.formula.expression import Column
from ranef.formula.formula import Formula
from ranef.formula.imputation_models import ColumnModel
from ranef.formula.response import ResponseCall
from ranef.lazy import Array, ArrayLike, jnp, numpyro
from ranef.priors import Prior, RescaledDefault, sites
from ranef.program import predictors as assignment
from ranef.program.missing_values import (
    FAMILIES,
    ConditionalDensity,
    MissingDataLikelihood,
    Selected,
    column,
)
from ranef.program.networks import ForwardPass, Networks
from ranef.program.problem import Batch, Changes, Points, Problem
from ranef.program.relabelling import relabel
from ranef.program.training import Designs, Rows, Training, TrainingState, length
from ranef.terms.base import CENTRED, LevelSites, Run, RunOptions, Term, Variable, clean_name
from ranef.terms.blocks import Bilinear, LinearBlock, RowPlaces
from ranef.terms.capabilities import (
    Capability,
    Centred,
    Curve,
    FittedDraws,
    HasBilinear,
    HasNetwork,
    Incomplete,
    MutableState,
    Reparametrized,
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

# Name of the intercept of the location. For a family with thresholds it is fixed at zero rather
# than left out, so that factors keep their treatment coding.
INTERCEPT = "Intercept"

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

    def _with(self, family: str) -> "Program":
        return Program(self.formula, family, self.user_priors, self._given_networks, self.missing)

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

    def problem(self, training: Training, networks: Networks | None = None) -> Problem:
        """The program on the training rows, in the form that inference methods take.

        Args:
            training: the training rows.
            networks: networks with known point estimates; None while these are unknown.
        """
        state = training.state
        known = networks or Networks(
            ForwardPass(lambda designs, how: self.bases(state, designs, how)),
            inner=ForwardPass(lambda designs, how: self.features(state, designs, how)),
        )

        def run(data: Rows, rows: int | None = None) -> dict[str, Array]:
            return known.within(lambda: self(state, data.designs, data.response, rows=rows))()

        def blocks(hyperparameters: Sites) -> dict[str, LinearBlock]:
            return self.blocks(state, training.designs, hyperparameters)

        def unit_blocks(designs: Designs) -> dict[str, LinearBlock | None]:
            bases = known.bases(designs)
            return {
                term.label: _unit_block(state, designs, term, bases.get(term.label))
                for _, term in self.all_terms()
            }

        def network_columns(designs: Designs, training: bool = True) -> dict[str, Array]:
            return self.bases(state, designs, RunOptions(training=training, rows=length(designs)))

        def batch(rows: Rows) -> Batch:
            return Batch(self.family.normal(rows.response), unit_blocks(rows.designs))

        def window(seed: int, number: int) -> Rows:
            assert training.stream is not None
            return training.stream.window(seed, number)

        def final_state(points: Points, carried: MutableState, data: Rows) -> MutableState:
            return {**carried, **self._settled(state, data.designs, known.at(points, carried))}

        family = self.family.bind(state.family)
        return Problem(
            run=run,
            data=training.in_memory,
            n=training.rows.used,
            blocks=blocks,
            residual_scale=self.family.row_scale(state.family),
            family_name=self.family.name,
            normal=lambda: self.family.normal(training.response),
            unit_blocks=lambda: unit_blocks(training.designs),
            batches=lambda: map(batch, training.parts()),
            predicts={term.label: parameter.name for parameter, term in self.all_terms()},
            location=self.location,
            priors=state.priors,
            network_columns=network_columns,
            batch=batch,
            windows=training.stream.windows if training.stream else 0,
            window=window,
            final_state=final_state,
            family=family,
            predictor_scales=state.scales,
            parameter_starts={
                p.name: family.start(state.family, p) for p in family.free_parameters()
            },
            conditioned_on=lambda points, carried: self.problem(
                training, known.at(points, carried)
            ),
            relabel=lambda values: relabel(family, state.priors, values),
            residual_scales={
                p.prefix + p.location: p.family.row_scale(p.family_state(state))
                for p in self.programs
            },
            incomplete=tuple(term.label for _, term in self.terms_with(Incomplete)),
            bilinear=self._bilinear(state, training.designs),
            carriable=self._carriable(state),
            idle_networks={
                site: value
                for _, term in self.terms_with(HasNetwork)
                for site, value in term.without().items()
            },
            features=known.features,
            shifted_networks=lambda points, changes: self._moved(state, points, changes),
        )

    def _bilinear(self, state: TrainingState, designs: Designs) -> dict[str, Bilinear]:
        """The bilinear terms, by label."""
        return {
            term.label: term.bilinear(state.terms[term.label], designs[term.label])
            for _, term in self.terms_with(HasBilinear)
        }

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

    def _moved(
        self, state: TrainingState, points: Points, changes: Changes
    ) -> dict[str, ArrayLike]:
        """Point estimates with which the networks' outputs change by `changes`."""
        out = dict(points)
        for parameter, term in self.terms_with(HasNetwork):
            if term.label in changes:
                own, scale = state.terms[term.label], state.scales[parameter.name]
                out |= term.moved(own, scale, out, changes[term.label])
        return out

    def _carriable(self, state: TrainingState) -> dict[str, tuple[int, ...]]:
        """By term label, the places of group-effect columns that a network could represent.

        A network in the same predictor represents a column whose table columns are all among the
        network's inputs.
        """
        out: dict[str, tuple[int, ...]] = {}
        for parameter, term in self.terms_with(VariesByLevel):
            inputs = [
                other.free_function_of()
                for own, other in self.terms_with(HasNetwork)
                if own.name == parameter.name
            ]
            places = tuple(
                place
                for place, names in enumerate(term.varying_columns(state.terms[term.label]))
                if any(names <= own for own in inputs)
            )
            if places:
                out[term.label] = places
        return out

    def _settled(self, state: TrainingState, designs: Designs, known: Networks) -> MutableState:
        """State that the program carries once the search for point estimates has ended, by site."""
        out: dict[str, Mapping[str, ArrayLike]] = {}
        for parameter, term in self.terms_with(HasNetwork):
            label, scale = term.label, state.scales[parameter.name]
            out |= term.settled(state.terms[label], designs[label], scale, known.within)
        return out

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
                name: jnp.asarray(sum(curve(completed, rows) for curve in own))
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
        return [line for program in self.programs for line in program._equations(state)]

    def _equations(self, state: TrainingState) -> list[Line]:
        """`equations` of this program alone."""
        symbols: dict[str, Line] = {}
        predictors: list[Line] = []
        distributions: list[Line] = []
        for parameter in self.family.free_parameters():
            terms = [t.equation(state.terms[t.label]) for t in self.terms.get(parameter.name, ())]
            of = [self.column] if self.column else []
            index = ",".join([*of, "i"] if terms else of)
            symbols[parameter.name] = (parameter.symbol, *([Sub(index)] if index else []))
            if terms:
                link = "" if parameter.link == "identity" else f"{parameter.link} "
                left: Line = (link, *symbols[parameter.name], " = ")
                predictors.append((*left, *joined([t.text for t in terms], " + ")))
                distributions += [line for t in terms for line in t.distributions]
        response: Line = (str(self.family.response.value), Sub("i"), " ~ ")
        said: list[Line] = [(note,) for note in self.family.notes(self.family_state(state))]
        return [
            (*response, *self.family.distribution_equation(symbols)),
            *predictors,
            *distributions,
            *said,
        ]

    def variables(self, state: TrainingState) -> dict[str, Variable]:
        """The variables of the posterior, in the order of the formula.

        Raises:
            ColumnError: if two variables, or a variable and a dimension, have the same name.
        """
        out: dict[str, Variable] = {}
        for _, term in self.all_terms():
            for name, variable in term.variables(state.terms[term.label]).items():
                if name in out:
                    raise name_clash(name)
                out[name] = variable
        for program in self.programs:
            for parameter in program.family.free_parameters():
                if parameter.name in program.terms:
                    continue
                name, labels = program.prefix + parameter.name, parameter.labels
                if name in out:
                    raise name_clash(name)
                out[name] = Variable(
                    "family", (f"{name}_dim",) if labels else (), (labels,) if labels else ()
                )
        # ArviZ drops a variable that shares a dimension's name.
        for name in {dim for variable in out.values() for dim in variable.dims} & set(out):
            raise name_clash(name)
        return out

    def codes(self, designs: Designs, state: TrainingState) -> dict[str, NDArray[np.int32]]:
        """Level codes of the rows, (n,), for every variable with one value per level."""
        return {
            name: designs[term.label].arrays["codes"]
            for _, term in self.all_terms()
            for name, variable in term.variables(state.terms[term.label]).items()
            if variable.role == "group"
        }

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

    def derived(self, state: TrainingState, values: Sites) -> dict[str, NDArray]:
        """Variables of the posterior that are computed from the sites, with a leading draw axis.

        Terms and default priors may use centred columns. The constants that centring moves into the
        intercept or into thresholds are moved back here.
        """
        out: dict[str, NDArray] = {}
        for _, term in self.terms_with(Reparametrized):
            out.update(term.derived(state.terms[term.label], values))
        for terms in (own for program in self.programs for own in program.terms.values()):
            centred = [term for term in terms if isinstance(term, Centred)]
            left = [term.taken_off(state.terms[term.label], values) for term in centred]
            total = sum(each for each in left if each is not None)
            if np.ndim(total):
                for term in centred:
                    out |= term.put_back(state.terms[term.label], out, total)
        for program in self.programs:
            terms = program.terms.get(program.location, ())
            shifts = [
                term.shift(state.terms[term.label], values)
                for term in terms
                if isinstance(term, Centred)
            ]
            shift = sum(each for each in shifts if each is not None)
            for parameter in program.family.free_parameters():
                name = program.prefix + parameter.name
                if parameter.support == "ordered" and name in values and np.ndim(shift):
                    out[name] = np.asarray(values[name]) + np.asarray(shift)[..., None]
        return out

    def site_labels(self, state: TrainingState) -> dict[str, tuple[str, ...]]:
        """Labels of the elements of sites that are no variables of the posterior, for messages."""
        out: dict[str, tuple[str, ...]] = {}
        for _, term in self.terms_with(Reparametrized):
            out |= term.site_labels(state.terms[term.label])
        return out

    def stated(self, state: TrainingState) -> dict[str, Prior]:
        """The prior of every parameter of the formula, by its title.

        A default prior that is set on other coordinates appears as the marginal prior that it
        implies, followed by words that say to what it refers.
        """
        out: dict[str, Prior] = {}
        for _, term in self.terms_with(Reparametrized):
            out |= term.stated(state.terms[term.label], state.priors)
        for parameter in self.family.free_parameters():
            name = self.prefix + parameter.name
            if parameter.support == "ordered" and name not in self.user_priors:
                out[name] = RescaledDefault(
                    state.priors[name], "where all columns are at their means"
                )
        own = {n: p for n, p in state.priors.items() if "/" not in n}
        titles = {n: v.title or n for n, v in self.variables(state).items()}
        return {titles.get(n, n): prior for n, prior in {**own, **out}.items()}


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


def _unit_block(
    state: TrainingState, designs: Designs, term: Term, basis: NDArray[np.float64] | None
) -> LinearBlock | None:
    """A term's linear block at unit scales; None for a term that is not linear.

    Args:
        state: what was learned from the training rows.
        designs: designs of the rows.
        term: the term.
        basis: the columns of a term with a network, where its point estimates are known.
    """
    own = state.terms[term.label]
    if isinstance(term, HasNetwork):
        return None if basis is None else term.structure_given(own, basis)
    return term.structure(own, designs[term.label], state.priors)


def _holds(carried: Mapping[str, ArrayLike], state: Mapping[str, ArrayLike]) -> bool:
    """Whether what the program carries at a site has all values of `state`."""
    return all(n in carried and np.array_equal(carried[n], v) for n, v in state.items())


def name_clash(name: str) -> ColumnError:
    """The error for two parts of the model with the same name."""
    return ColumnError(
        f"two parts of the model are named {name.removesuffix(CENTRED)!r}; rename the column, or "
        "merge the terms"
    )
