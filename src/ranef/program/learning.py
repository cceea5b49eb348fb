"""Preprocessing of the training rows before a fit: states of terms, scales and default priors.

Two passes over the rows suffice. The first learns levels, categories and transforms, the second
means, sds and covariances of the columns and of the response, less the offsets. The scales of the
predictors and the default priors follow from these.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.complete_cases import complete
from ranef.data.frame import Frame
from ranef.data.moments import Moments, Scale
from ranef.errors import OptionError, suggestion
from ranef.families.state import FamilyState, Measures, ResponseScan
from ranef.priors import Fixed, Prior, allowed
from ranef.program import posterior_variables
from ranef.program.offsets import Offsets
from ranef.program.program import Program
from ranef.program.training import Training, TrainingState, evenly
from ranef.terms.base import Parameter, ScanT, StateT, Term
from ranef.terms.capabilities import (
    Constant,
    KnownSummand,
    Measured,
    Renamed,
    Reparametrized,
    SpansConstant,
)

# Term label to the state of the term, whose class only the term knows.
States = Mapping[str, Any]

# Name of the intercept of the location. For a family with thresholds it is fixed at zero rather
# than left out, so that factors keep their treatment coding.
INTERCEPT = "Intercept"


def prepare(model: Program, frame: Frame) -> Training:
    """Prepare a table that is held in memory for a fit.

    Args:
        model: the program.
        frame: the table. Rows with a missing value in a needed column are dropped, except missing
            values of mi() columns.

    Returns:
        The states of terms and family, the priors and the designs of the rows that are used.

    Raises:
        DataError, ColumnError, OptionError: naming the column, term or parameter at fault.
    """
    frame, rows = complete(frame, model.needs())
    state = fit_preprocessing(model, [frame])
    return Training(
        state,
        model.designs(state, frame),
        model.family.design(state.family, frame),
        rows,
        frame.take(evenly(frame.n)),
    )


def fit_preprocessing(model: Program, frames: Iterable[Frame]) -> TrainingState:
    """Learn states, scales and default priors from batches of complete rows.

    Args:
        model: the program.
        frames: batches of complete rows, iterated over twice.

    Raises:
        DataError, ColumnError, OptionError: naming the column, term or parameter at fault.
    """
    terms = [term for _, term in model.all_terms()]
    seen: list[object] = [None] * len(terms)
    responses: list[ResponseScan | None] = [None] * len(model.programs)
    for frame in frames:
        responses = [
            program.family.scan(response, program.observed(frame))
            for program, response in zip(model.programs, responses, strict=True)
        ]
        seen = [term.scan(a, frame) for term, a in zip(terms, seen, strict=True)]
    states = {term.label: term.finish(a) for term, a in zip(terms, seen, strict=True)}
    names = Counter(n for term in terms for n in term.variables(states[term.label]))
    taken = {name for name, count in names.items() if count > 1}
    for _, term in model.terms_with(Renamed):
        states[term.label] = term.renamed(states[term.label], taken)
    scans = [scan for scan in responses if scan is not None]
    families = [p.family.finish(scan) for p, scan in zip(model.programs, scans, strict=True)]
    measured = [term for _, term in model.terms_with(Measured)]
    moments = {term.label: Moments(term.needs_covariance) for term in measured}
    offsets = Offsets(list(model.terms_with(KnownSummand)), states)
    measures: list[Measures | None] = [None] * len(families)
    gaps = 0
    for frame in frames:
        weights: dict[str, NDArray[np.float64] | None] = {}
        for i, program in enumerate(model.programs):
            seen_rows = program.observed(frame)
            design = program.family.design(families[i], seen_rows)
            known = offsets.rows(program.prefix + program.location, seen_rows)
            left = program.family.without(design, known)
            measures[i] = program.family.measure(measures[i], left)
            if not program.column:
                own = (term.label for each in model.terms.values() for term in each)
                weights = dict.fromkeys(own, design.weights)
                offsets.add(frame, design.weights)
        missing = [frame.is_missing(name) for name in model.columns]
        gaps += int(np.any(missing, axis=0).sum()) if missing else 0
        for term in measured:
            columns, own = term.columns(states[term.label], frame), weights.get(term.label)
            if columns.size:
                known = ~np.isnan(columns).any(axis=1)
                # Columns that overflow are refused with their names where they are used.
                with np.errstate(over="ignore", invalid="ignore"):
                    moments[term.label] = moments[term.label].add(
                        columns[known], None if own is None else own[known]
                    )
    known_measures = [measure for measure in measures if measure is not None]
    families = [
        program.family.measured(state, measure)
        for program, state, measure in zip(model.programs, families, known_measures, strict=True)
    ]
    for term in measured:
        if moments[term.label].n:
            columns = moments[term.label].measures()
            states[term.label] = term.measured(states[term.label], columns)
    scales = {
        program.prefix + parameter.name: program.family.predictor_scale(state, parameter)
        for program, state in zip(model.programs, families, strict=True)
        for parameter in program.family.parameters
    }
    links = {parameter.name: parameter.link for parameter, _ in model.all_terms()}
    for name, known in offsets.locations().items():
        # The default prior refers to the predictor less its offset: beside log(exposure), for
        # instance, the intercept is a log rate. Where the response is on the scale of the
        # predictor, the offset has been subtracted from it above.
        if not (model.family.on_scale and links[name] == "identity"):
            scales[name] = replace(scales[name], location=scales[name].location - known)
    families = [
        p.family.beside(state, offsets.mean(p.prefix + p.location))
        for p, state in zip(model.programs, families, strict=True)
    ]
    for parameter, constant in _constants(model, states).items():
        if constant is Constant.NOTHING:
            # A predictor without a constant goes through the origin, so its size is measured
            # about zero: the root mean square in place of the sd.
            scale = scales[parameter]
            size = float(np.hypot(scale.location, scale.sd))
            scales[parameter] = Scale(0.0, size, scale.start)
        for own, term in model.terms_with(Reparametrized):
            if own.name == parameter:
                before = states[term.label]
                states[term.label] = term.placed(before, partial(_has_prior, model), constant)
    priors = _priors(model, states, families, scales)
    columns = dict(zip(model.columns, families[1:], strict=True))
    state = TrainingState(states, families[0], priors, scales, columns, gaps)
    posterior_variables.variables(model, state)  # refuses names that clash
    return state


def _constants(model: Program, states: States) -> dict[str, Constant]:
    """What carries the constant of each predictor, by family parameter."""
    out: dict[str, Constant] = {}
    for program in model.programs:
        for parameter in program.family.parameters:
            name = program.prefix + parameter.name
            terms = program.terms.get(parameter.name, ())
            if not program.family.intercept and parameter.name == program.location:
                outside = (p.name for p in program.family.parameters if p.labels)
                held = any(n in model.user_priors for n in outside)
                out[name] = Constant.FIXED if held else Constant.OUTSIDE
            elif any(
                isinstance(term, SpansConstant) and term.carries_constant(states[term.label])
                for term in terms
            ):
                out[name] = Constant.PREDICTOR
            elif terms:
                out[name] = Constant.NOTHING
    return out


def _has_prior(model: Program, name: str, alias: str) -> bool:
    """Whether a parameter has a prior by the user, or by a family that fixes it at 0."""
    pinned = name == INTERCEPT and not model.family.intercept
    return pinned or name in model.user_priors or bool(alias) and alias in model.user_priors


def _priors(
    model: Program, states: States, families: Sequence[FamilyState], scales: Mapping[str, Scale]
) -> dict[str, Prior]:
    """The prior of every parameter: the user's, or the default one.

    Raises:
        ColumnError: if two parameters have the same name.
        OptionError: for a prior of a parameter that does not exist, or one that does not suit it.
    """
    slots: dict[str, Parameter] = {}
    names: dict[str, None] = {}
    for parameter, term in model.all_terms():
        scale = scales[parameter.name]
        written = term.parameters(_state_as_written(term, states[term.label]), scale)
        names |= {n: None for each, slot in written.items() for n in (each, slot.alias) if n}
        for name, slot in term.parameters(states[term.label], scale).items():
            if name in slots:
                raise posterior_variables.name_clash(name)
            if name == INTERCEPT and not model.family.intercept:
                slot = replace(slot, prior=Fixed(0.0))
            slots[name] = slot
    for program, family in zip(model.programs, families, strict=True):
        for parameter in program.family.free_parameters():
            if parameter.name in program.terms:
                continue
            default = program.family.default(family, parameter)
            if default is None:
                continue
            name = program.prefix + parameter.name
            if name in slots:
                raise posterior_variables.name_clash(name)
            size = max(1, len(parameter.labels))
            slots[name] = Parameter(default, parameter.support, size=size)
    names |= dict.fromkeys(slots)
    for name in model.user_priors:
        if name not in names or "/" in name:
            hint = suggestion(name, [n for n in names if "/" not in n])
            raise OptionError(f"there is no parameter {name!r} to give a prior to; {hint}")
    out = {}
    for name, slot in slots.items():
        default = model.user_priors.get(slot.alias, slot.prior)
        out[name] = allowed(name, model.user_priors.get(name, default), slot.support, slot.size)
    return out


def as_written(model: Program, training: Training) -> Training:
    """The training rows with every parameter in the formula's own coordinates.

    Default priors may be set on centred or orthogonal coordinates. What concerns the likelihood or
    the columns of the formula alone uses this form.
    """
    state = training.state
    states, designs = dict(state.terms), dict(training.designs)
    for _, term in model.terms_with(Reparametrized):
        label = term.label
        designs[label] = term.design_as_written(states[label], designs[label])
        states[label] = term.as_written(states[label])
    families = [state.family, *(state.columns[name] for name in model.columns)]
    written = replace(state, terms=states, priors=_priors(model, states, families, state.scales))
    stream = training.stream and training.stream.of(written)
    return replace(training, state=written, designs=designs, stream=stream)


def _state_as_written(term: Term[ScanT, StateT], state: StateT) -> StateT:
    """The state with all parameters in the coordinates of the formula."""
    return term.as_written(state) if isinstance(term, Reparametrized) else state
