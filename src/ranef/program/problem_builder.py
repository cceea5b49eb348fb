"""Builds the `Problem` that inference methods take, from a program and its training rows.

It asks the program for what it computes and the terms for what they are made of, so that methods
need to know neither.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, ArrayLike
from ranef.program.networks import ForwardPass, Networks
from ranef.program.problem import Batch, Changes, Points, Problem
from ranef.program.program import Program
from ranef.program.relabelling import relabel
from ranef.program.training import Designs, Rows, Training, TrainingState, length
from ranef.terms.base import RunOptions, Term
from ranef.terms.blocks import Bilinear, LinearBlock
from ranef.terms.capabilities import (
    HasBilinear,
    HasNetwork,
    Incomplete,
    MutableState,
    Sites,
    VariesByLevel,
)


def build_problem(model: Program, training: Training, networks: Networks | None = None) -> Problem:
    """The program on the training rows, in the form that inference methods take.

    Args:
        model: the program.
        training: the training rows.
        networks: networks with known point estimates; None while these are unknown.
    """
    state = training.state
    known = networks or Networks(
        ForwardPass(lambda designs, how: model.bases(state, designs, how)),
        inner=ForwardPass(lambda designs, how: model.features(state, designs, how)),
    )

    def run(data: Rows, rows: int | None = None) -> dict[str, Array]:
        return known.within(lambda: model(state, data.designs, data.response, rows=rows))()

    def blocks(hyperparameters: Sites) -> dict[str, LinearBlock]:
        return model.blocks(state, training.designs, hyperparameters)

    def unit_blocks(designs: Designs) -> dict[str, LinearBlock | None]:
        bases = known.bases(designs)
        return {
            term.label: _unit_block(state, designs, term, bases.get(term.label))
            for _, term in model.all_terms()
        }

    def network_columns(designs: Designs, training: bool = True) -> dict[str, Array]:
        return model.bases(state, designs, RunOptions(training=training, rows=length(designs)))

    def batch(rows: Rows) -> Batch:
        return Batch(model.family.normal(rows.response), unit_blocks(rows.designs))

    def window(seed: int, number: int) -> Rows:
        assert training.stream is not None
        return training.stream.window(seed, number)

    def final_state(points: Points, carried: MutableState, data: Rows) -> MutableState:
        return {**carried, **_settled(model, state, data.designs, known.at(points, carried))}

    family = model.family.bind(state.family)
    return Problem(
        run=run,
        data=training.in_memory,
        n=training.rows.used,
        blocks=blocks,
        residual_scale=model.family.row_scale(state.family),
        family_name=model.family.name,
        normal=lambda: model.family.normal(training.response),
        unit_blocks=lambda: unit_blocks(training.designs),
        batches=lambda: map(batch, training.parts()),
        predicts={term.label: parameter.name for parameter, term in model.all_terms()},
        location=model.location,
        priors=state.priors,
        network_columns=network_columns,
        batch=batch,
        windows=training.stream.windows if training.stream else 0,
        window=window,
        final_state=final_state,
        family=family,
        predictor_scales=state.scales,
        parameter_starts={p.name: family.start(state.family, p) for p in family.free_parameters()},
        conditioned_on=lambda points, carried: build_problem(
            model, training, known.at(points, carried)
        ),
        relabel=lambda values: relabel(family, state.priors, values),
        residual_scales={
            p.prefix + p.location: p.family.row_scale(p.family_state(state)) for p in model.programs
        },
        incomplete=tuple(term.label for _, term in model.terms_with(Incomplete)),
        bilinear=_bilinear(model, state, training.designs),
        carriable=_carriable(model, state),
        idle_networks={
            site: value
            for _, term in model.terms_with(HasNetwork)
            for site, value in term.without().items()
        },
        features=known.features,
        shifted_networks=lambda points, changes: _moved(model, state, points, changes),
    )


def _bilinear(model: Program, state: TrainingState, designs: Designs) -> dict[str, Bilinear]:
    """The bilinear terms, by label."""
    return {
        term.label: term.bilinear(state.terms[term.label], designs[term.label])
        for _, term in model.terms_with(HasBilinear)
    }


def _moved(
    model: Program, state: TrainingState, points: Points, changes: Changes
) -> dict[str, ArrayLike]:
    """Point estimates with which the networks' outputs change by `changes`."""
    out = dict(points)
    for parameter, term in model.terms_with(HasNetwork):
        if term.label in changes:
            own, scale = state.terms[term.label], state.scales[parameter.name]
            out |= term.moved(own, scale, out, changes[term.label])
    return out


def _carriable(model: Program, state: TrainingState) -> dict[str, tuple[int, ...]]:
    """By term label, the places of group-effect columns that a network could represent.

    A network in the same predictor represents a column whose table columns are all among the
    network's inputs.
    """
    out: dict[str, tuple[int, ...]] = {}
    for parameter, term in model.terms_with(VariesByLevel):
        inputs = [
            other.free_function_of()
            for own, other in model.terms_with(HasNetwork)
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


def _settled(
    model: Program, state: TrainingState, designs: Designs, known: Networks
) -> MutableState:
    """State that the program carries once the search for point estimates has ended, by site."""
    out: dict[str, Mapping[str, ArrayLike]] = {}
    for parameter, term in model.terms_with(HasNetwork):
        label, scale = term.label, state.scales[parameter.name]
        out |= term.settled(state.terms[label], designs[label], scale, known.within)
    return out


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
