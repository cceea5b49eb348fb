"""Variables of the posterior: names and dimensions, values by draw, and priors in their words.

A site is a named random variable of the NumPyro program. A variable is what users see: a site, or
a quantity computed from sites.
"""

import numpy as np
from numpy.typing import NDArray

from ranef.errors import ColumnError
from ranef.priors import Prior, RescaledDefault
from ranef.program.program import Program
from ranef.program.training import Designs, TrainingState
from ranef.terms.base import CENTRED, Variable
from ranef.terms.capabilities import Centred, Reparametrized, Sites


def variables(model: Program, state: TrainingState) -> dict[str, Variable]:
    """The variables of the posterior, in the order of the formula.

    Raises:
        ColumnError: if two variables, or a variable and a dimension, have the same name.
    """
    out: dict[str, Variable] = {}
    for _, term in model.all_terms():
        for name, variable in term.variables(state.terms[term.label]).items():
            if name in out:
                raise name_clash(name)
            out[name] = variable
    for program in model.programs:
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


def codes(model: Program, designs: Designs, state: TrainingState) -> dict[str, NDArray[np.int32]]:
    """Level codes of the rows, (n,), for every variable with one value per level."""
    return {
        name: designs[term.label].arrays["codes"]
        for _, term in model.all_terms()
        for name, variable in term.variables(state.terms[term.label]).items()
        if variable.role == "group"
    }


def derived(model: Program, state: TrainingState, values: Sites) -> dict[str, NDArray]:
    """Variables of the posterior that are computed from the sites, with a leading draw axis.

    Terms and default priors may use centred columns. The constants that centring moves into the
    intercept or into thresholds are moved back here.
    """
    out: dict[str, NDArray] = {}
    for _, term in model.terms_with(Reparametrized):
        out.update(term.derived(state.terms[term.label], values))
    for terms in (own for program in model.programs for own in program.terms.values()):
        centred = [term for term in terms if isinstance(term, Centred)]
        left = [term.taken_off(state.terms[term.label], values) for term in centred]
        total = sum(each for each in left if each is not None)
        if np.ndim(total):
            for term in centred:
                out |= term.put_back(state.terms[term.label], out, total)
    for program in model.programs:
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


def site_labels(model: Program, state: TrainingState) -> dict[str, tuple[str, ...]]:
    """Labels of the elements of sites that are no variables of the posterior, for messages."""
    out: dict[str, tuple[str, ...]] = {}
    for _, term in model.terms_with(Reparametrized):
        out |= term.site_labels(state.terms[term.label])
    return out


def stated(model: Program, state: TrainingState) -> dict[str, Prior]:
    """The prior of every parameter of the formula, by its title.

    A default prior that is set on other coordinates appears as the marginal prior that it
    implies, followed by words that say to what it refers.
    """
    out: dict[str, Prior] = {}
    for _, term in model.terms_with(Reparametrized):
        out |= term.stated(state.terms[term.label], state.priors)
    for parameter in model.family.free_parameters():
        name = model.prefix + parameter.name
        if parameter.support == "ordered" and name not in model.user_priors:
            out[name] = RescaledDefault(state.priors[name], "where all columns are at their means")
    own = {n: p for n, p in state.priors.items() if "/" not in n}
    titles = {n: v.title or n for n, v in variables(model, state).items()}
    return {titles.get(n, n): prior for n, prior in {**own, **out}.items()}


def name_clash(name: str) -> ColumnError:
    """The error for two parts of the model with the same name."""
    return ColumnError(
        f"two parts of the model are named {name.removesuffix(CENTRED)!r}; rename the column, or "
        "merge the terms"
    )
