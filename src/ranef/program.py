"""Terms, family and priors as one NumPyro program, and what it learns before a fit.

    eta_p = sum of the terms of parameter p,   y ~ Family(link^-1(eta_p), ...)

`Program` is what the formula says; `State` is what the training rows add to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array

from ranef import registry, sites
from ranef.complete import complete
from ranef.equation import Line, Sub, joined
from ranef.errors import ColumnError, FormulaError, OptionError
from ranef.families.base import Family, FamilyParameter, ResponseDesign
from ranef.families.responses import is_text
from ranef.formula import Formula
from ranef.frame import Frame
from ranef.inference.base import Part, Problem
from ranef.moments import Moments, Scale
from ranef.networks import Networks
from ranef.priors import Fixed, Prior, allowed
from ranef.terms.base import Bilinear, Grouped, LinearBlock, Parameter, Replay, Term, Variable
from ranef.training import Designs, State, Training, evenly, length

_RESERVED = ("chain", "draw")

# A grouping by which a term varies: the label of the term, and its place among those of the term.
Varying = tuple[str, int]

# Of the location. A family with thresholds has it pinned at zero, so that factors keep their
# coding.
INTERCEPT = "Intercept"

# Of the observed response: no column can have this name, "/" being stored otherwise.
RESPONSE_SITE = "/response"


class Program:
    """The model that a formula and a family describe.

    Args:
        formula: parsed.
        family: the family's registered name.
        priors: the user's, by parameter name; "common" stands for all common effects but
            the intercept.
        networks: Keras models by name.
        missing: texts that mean a missing level.

    Raises:
        FormulaError, OptionError: for a predictor of what the family does not have, and for
            terms or families that do not exist.
    """

    def __init__(
        self,
        formula: Formula,
        family: str,
        priors: Mapping[str, Prior],
        networks: Mapping[str, Any],
        missing: Sequence[str],
    ) -> None:
        self.formula = formula
        self.family: Family = registry.load("family", family)(formula.response)
        self.user_priors = dict(priors)
        self.missing = tuple(missing)
        self._given_networks = networks
        self.terms = self._terms(networks)
        self.networks = self._named_networks()
        used = [name for name in self.needs() if name in _RESERVED]
        if used:
            raise ColumnError(
                f"a column cannot be named {used[0]!r}, which names a dimension of the posterior; "
                "rename it"
            )

    @property
    def location(self) -> str:
        """The family parameter that the formula's first part predicts."""
        return self.family.parameters[0].name

    def suited(self, frame: Frame) -> "Program":
        """The program for such rows: a response of texts is Bernoulli unless the user says else."""
        response = self.formula.response
        text = response.form == "plain" and is_text(response.value, frame)
        return self._with("bernoulli") if text and self.family.name == "gaussian" else self

    def known(self, frames: Iterable[Frame]) -> "Program":
        """`bound`, for complete rows that have not been gone through; most families need not."""
        if not self.family.categorised:
            return self
        seen: Any = None
        for frame in frames:
            seen = self.family.scan(seen, frame)
        return self.bound(self.family.finish(seen))

    def bound(self, state: Any) -> "Program":
        """The program once it is known what the response is, by the family's state."""
        family = self.family.bound(state)
        if family is self.family:
            return self
        out = self._with(family.name)
        out.family = family
        out.terms = out._terms(self._given_networks)
        out.networks = out._named_networks()
        return out

    def _with(self, family: str) -> "Program":
        return Program(self.formula, family, self.user_priors, self._given_networks, self.missing)

    def _terms(self, networks: Mapping[str, Any]) -> dict[str, tuple[Term, ...]]:
        parameters = self.family.free_parameters()
        several = [p.name for p in parameters if p.predicted]
        others = [p.name for p in parameters[1:] if not p.labels and not p.predicted]
        out: dict[str, tuple[Term, ...]] = {}
        for name, calls in self.formula.predictors.items():
            if name and name not in others:
                raise FormulaError(
                    f"the family {self.family.name} has no parameter {name!r} to predict; it "
                    f"has: {', '.join(sorted(others)) or 'none but the mean'}"
                )
            for parameter in [name] if name else several or [self.location]:
                prefix = f"{parameter}_" if name or several else ""
                out[parameter] = tuple(
                    registry.load("term", call.kind)(call, prefix, networks) for call in calls
                )
        return out

    def _named_networks(self) -> dict[str, Any]:
        """The Keras networks of the formula, by the names it has for them."""
        out: dict[str, Any] = {}
        users: dict[int, str] = {}
        for _, term in self.all_terms():
            name = term.call.options.get("net")
            if name is None:
                continue
            network = term.networks[name]
            if id(network) in users:
                raise OptionError(
                    f"{users[id(network)]} and {term.label} have one network, and each term trains "
                    "its own; give one of them a copy, as by keras.models.clone_model"
                )
            users[id(network)] = term.label
            out[name] = network
        return out

    def all_terms(self) -> Iterator[tuple[FamilyParameter, Term]]:
        for parameter in self.family.parameters:
            for term in self.terms.get(parameter.name, ()):
                yield parameter, term

    def needs(self, *, response: bool = True, companion: bool = True) -> dict[str, set[str]]:
        """Column to the ways it is used; the response and what is beside it if asked for."""
        out: dict[str, set[str]] = {}
        sources = [term.needs() for _, term in self.all_terms()]
        sources.append(self.family.needs(response=response, companion=companion))
        for name, use in (pair for source in sources for pair in source.items()):
            out.setdefault(name, set()).add(use)
        return out

    def learn(self, frame: Frame) -> Training:
        """Everything the training rows say before the fit: states, default priors, designs.

        Raises:
            DataError, ColumnError, OptionError: naming the column, term or parameter at fault.
        """
        frame, rows = complete(frame, self.needs())
        state = self.learned([frame])
        return Training(
            state,
            self.designs(state, frame),
            self.family.design(state.family, frame),
            rows,
            frame.take(evenly(frame.n)),
        )

    def learned(self, frames: Iterable[Frame]) -> State:
        """What batches of complete rows say; they are gone through twice.

        Raises:
            DataError, ColumnError, OptionError: naming the column, term or parameter at fault.
        """
        terms = [term for _, term in self.all_terms()]
        seen: list[Any] = [None] * len(terms)
        response: Any = None
        for frame in frames:
            response = self.family.scan(response, frame)
            seen = [term.scan(a, frame) for term, a in zip(terms, seen, strict=True)]
        family = self.family.finish(response)
        states = {term.label: term.finish(a) for term, a in zip(terms, seen, strict=True)}
        moments = {term.label: Moments() for term in terms}
        measure: Any = None
        for frame in frames:
            measure = self.family.measure(measure, self.family.design(family, frame))
            for term in terms:
                columns = term.columns(states[term.label], frame)
                if columns.size:
                    # What overflows here is refused by name where it is used.
                    with np.errstate(over="ignore", invalid="ignore"):
                        moments[term.label] = moments[term.label].add(columns)
        family = self.family.measured(family, measure)
        for term in terms:
            if moments[term.label].n:
                measures = moments[term.label].measures()
                states[term.label] = term.measured(states[term.label], measures)
        scales = {p.name: self.family.predictor_scale(family, p) for p in self.family.parameters}
        for parameter, term in self.all_terms():
            # An intercept beside log(exposure) is a log rate, and lies where the rates do.
            if term.call.kind == "offset" and parameter.link != "identity":
                known = float(moments[term.label].measures().mean[0])
                scale = scales[parameter.name]
                scales[parameter.name] = replace(scale, location=scale.location - known)
        priors = self._priors(states, family, scales)
        state = State(states, family, priors, scales)
        self.variables(state)  # refuses names that clash
        return state

    def _priors(
        self, states: Mapping[str, Any], family: Any, scales: Mapping[str, Scale]
    ) -> dict[str, Prior]:
        """The user's prior of every parameter, else the default."""
        slots: dict[str, Parameter] = {}
        for parameter, term in self.all_terms():
            for name, slot in term.parameters(states[term.label], scales[parameter.name]).items():
                if name in slots:
                    raise _clash(name)
                if name == INTERCEPT and not self.family.intercept:
                    slot = replace(slot, prior=Fixed(0.0))
                slots[name] = slot
        for parameter in self.family.free_parameters():
            if parameter.name not in self.terms and parameter.default is not None:
                if parameter.name in slots:
                    raise _clash(parameter.name)
                default = parameter.default(family.scale)
                size = max(1, len(parameter.labels))
                slots[parameter.name] = Parameter(default, parameter.support, size=size)
        for name in self.user_priors:
            if name not in slots and name not in {slot.alias for slot in slots.values()}:
                hint = registry.suggestion(name, slots)
                raise OptionError(f"there is no parameter {name!r} to give a prior to; {hint}")
        out = {}
        for name, slot in slots.items():
            default = self.user_priors.get(slot.alias, slot.prior)
            out[name] = allowed(name, self.user_priors.get(name, default), slot.support, slot.size)
        return out

    def designs(self, state: State, frame: Frame) -> Designs:
        """What each term needs of the rows of `frame`, training or new."""
        return {t.label: t.design(state.terms[t.label], frame) for _, t in self.all_terms()}

    def problem(self, training: Training, networks: Networks | None = None) -> Problem:
        """The program on the training rows, as methods take it; networks as far as known."""
        state = training.state
        known = networks or Networks(lambda designs, how: self.bases(state, designs, how))

        def run(data: tuple[Designs, ResponseDesign], rows: int | None = None) -> Any:
            return known.within(lambda: self(state, data[0], data[1], rows=rows))()

        def shape(designs: Designs, training: bool = True) -> dict[str, Array]:
            return self.bases(state, designs, Replay(training=training, rows=length(designs)))

        def blocks(hyperparameters: Mapping[str, Any]) -> dict[str, LinearBlock]:
            return self.blocks(state, training.designs, hyperparameters)

        data = (training.designs, training.response)

        def structure(designs: Designs) -> dict[str, LinearBlock | None]:
            bases = known.bases(designs)
            return {
                term.label: term.structure(
                    state.terms[term.label],
                    designs[term.label],
                    state.priors,
                    bases.get(term.label),
                )
                for _, term in self.all_terms()
            }

        def part(data: tuple[Designs, ResponseDesign]) -> Part:
            return Part(self.family.normal(data[1]), structure(data[0]))

        def window(seed: int, number: int) -> tuple[Designs, ResponseDesign]:
            assert training.stream is not None
            return training.stream.window(seed, number)

        def settled(points: Any, carried: Any, data: tuple[Designs, ResponseDesign]) -> Any:
            return {**carried, **self._settled(state, data[0], known.at(points, carried))}

        law = self.family.bound(state.family)
        return Problem(
            run,
            data,
            training.rows.used,
            blocks,
            self.family.noise(state.family),
            self.family.name,
            lambda: self.family.normal(training.response),
            lambda: structure(training.designs),
            lambda: map(part, training.parts()),
            {term.label: parameter.name for parameter, term in self.all_terms()},
            self.family.parameters[0].name,
            state.priors,
            shape,
            part,
            training.stream.windows if training.stream else 0,
            window,
            settled,
            law,
            state.scales,
            {p.name: law.start(state.family, p) for p in law.free_parameters()},
            lambda points, carried: self.problem(training, known.at(points, carried)),
            self._bilinear(state, training.designs),
        )

    def _bilinear(self, state: State, designs: Designs) -> dict[str, Bilinear]:
        """The terms that are products of coefficients, by label."""
        found = {
            term.label: term.bilinear(state.terms[term.label], designs[term.label])
            for _, term in self.all_terms()
        }
        return {label: term for label, term in found.items() if term is not None}

    def _settled(self, state: State, designs: Designs, known: Networks) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for parameter, term in self.all_terms():
            label, scale = term.label, state.scales[parameter.name]
            out |= term.settled(state.terms[label], designs[label], scale, known.within)
        return out

    def bases(self, state: State, designs: Designs, replay: Replay) -> dict[str, Array]:
        """Within a NumPyro handler: the columns that point estimates shape, by term label."""
        out = {}
        for parameter, term in self.all_terms():
            label, scale = term.label, state.scales[parameter.name]
            basis = term.basis(state.terms[label], designs[label], scale, replay)
            if basis is not None:
                out[label] = basis
        return out

    def __call__(
        self,
        state: State,
        designs: Designs,
        response: ResponseDesign | None = None,
        *,
        rows: int | None = None,
        replay: Replay | None = None,
    ) -> dict[str, Array]:
        """Run within a NumPyro handler; returns each family parameter, (n,) or ().

        Args:
            state: what `learn` returned.
            designs: the rows, or a minibatch of them.
            response: on the same rows; None to predict.
            rows: how many rows the minibatch stands for.
            replay: how to run; training by default.
        """
        replay = replay or Replay(rows=rows or length(designs))
        predictors = self.predictors(state, designs, replay)
        if response is not None:
            with numpyro.handlers.scale(scale=replay.rows / jnp.shape(response.value)[0]):
                numpyro.sample(
                    RESPONSE_SITE,
                    self.family.given(response, **predictors).to_event(1),
                    obs=jnp.asarray(response.value),
                )
        return self.family.on_own_scale(**predictors)

    def predictors(self, state: State, designs: Designs, replay: Replay) -> dict[str, Array]:
        """Within a NumPyro handler: each family parameter on its link's scale.

        (n,) where it has a predictor, () for one number for all rows, and (k,) for a vector.
        """
        predictors: dict[str, Array] = {}
        for parameter in self.family.free_parameters():
            name = parameter.name
            if name in self.terms:
                eta: Any = sum(
                    term.sample(
                        state.terms[term.label],
                        designs[term.label],
                        state.priors,
                        state.scales[name],
                        replay,
                    )
                    for term in self.terms[name]
                )
                predictors[name] = eta
            else:
                value = sites.parameter(
                    name,
                    state.priors[name],
                    shape=(len(parameter.labels),) if parameter.labels else (),
                    support=parameter.support,
                    start=self.family.start(state.family, parameter),
                )
                predictors |= self.family.on_link_scale(**{name: value})
        return predictors

    def blocks(
        self, state: State, designs: Designs, hyperparameters: Mapping[str, Any]
    ) -> dict[str, LinearBlock]:
        """The linear blocks of every predictor, by term label.

        Args:
            state: what `learn` returned.
            designs: the rows.
            hyperparameters: values of the scale and correlation sites.
        """
        substituted = numpyro.handlers.substitute(self._blocks, data=dict(hyperparameters))
        run: Any = numpyro.handlers.seed(substituted, 0)
        return run(state, designs)

    def _blocks(self, state: State, designs: Designs) -> dict[str, LinearBlock]:
        out = {}
        for parameter, term in self.all_terms():
            block = term.linear_block(
                state.terms[term.label],
                designs[term.label],
                state.priors,
                state.scales[parameter.name],
            )
            if block is not None:
                out[term.label] = block
        return out

    def equations(self, state: State) -> list[Line]:
        """The model on paper: the response's law, each predictor, the laws of what is in it."""
        symbols: dict[str, Line] = {}
        predictors: list[Line] = []
        laws: list[Line] = []
        for parameter in self.family.free_parameters():
            terms = [t.equation(state.terms[t.label]) for t in self.terms.get(parameter.name, ())]
            symbols[parameter.name] = (parameter.symbol, Sub("i")) if terms else (parameter.symbol,)
            if terms:
                link = "" if parameter.link == "identity" else f"{parameter.link} "
                left: Line = (link, *symbols[parameter.name], " = ")
                predictors.append((*left, *joined([t.text for t in terms], " + ")))
                laws += [law for t in terms for law in t.laws]
        response: Line = (str(self.family.response.value), Sub("i"), " ~ ")
        return [(*response, *self.family.law(symbols)), *predictors, *laws]

    def variables(self, state: State) -> dict[str, Variable]:
        """The variables of the posterior in the order of the formula."""
        out: dict[str, Variable] = {}
        for _, term in self.all_terms():
            for name, variable in term.variables(state.terms[term.label]).items():
                if name in out:
                    raise _clash(name)
                out[name] = variable
        for parameter in self.family.free_parameters():
            if parameter.name not in self.terms:
                name, labels = parameter.name, parameter.labels
                out[name] = Variable(
                    "family", (f"{name}_dim",) if labels else (), (labels,) if labels else ()
                )
        # ArviZ drops a variable that shares a dimension's name.
        for name in {dim for variable in out.values() for dim in variable.dims} & set(out):
            raise _clash(name)
        return out

    def codes(self, designs: Designs, state: State) -> dict[str, Any]:
        """The level of each row, (n,), for every variable with one value per level."""
        return {
            name: designs[term.label].arrays["codes"]
            for _, term in self.all_terms()
            for name, variable in term.variables(state.terms[term.label]).items()
            if variable.role == "group"
        }

    def grouped(self, state: State) -> dict[Varying, Grouped]:
        """What varies by level, by term and the grouping's place among those of the term."""
        return {
            (term.label, place): grouped
            for _, term in self.all_terms()
            for place, grouped in enumerate(term.grouped(state.terms[term.label]))
        }

    def narrowed(self, state: State, levels: Mapping[Varying, int]) -> State:
        """The state of a program that has so many levels of each grouping, and no others."""
        terms = dict(state.terms)
        for _, term in self.all_terms():
            own = tuple(size for (label, _), size in levels.items() if label == term.label)
            if own:
                terms[term.label] = term.narrowed(terms[term.label], own)
        return replace(state, terms=terms)

    def derived(self, state: State, values: Mapping[str, Any]) -> dict[str, Any]:
        """Variables that are functions of the sites, by draw."""
        out: dict[str, Any] = {}
        for _, term in self.all_terms():
            out.update(term.derived(state.terms[term.label], values))
        return out


def _clash(name: str) -> ColumnError:
    return ColumnError(
        f"two parts of the model are named {name!r}; rename the column, or merge the terms"
    )
