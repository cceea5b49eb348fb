"""What terms doubt of themselves once they are fitted, such as a basis that is too coarse."""

from collections.abc import Iterator

from ranef.check.symptom import Symptom
from ranef.posterior.posterior import Posterior


def smooth(posterior: Posterior) -> Iterator[Symptom]:
    """Of every term."""
    state = posterior.training.state
    for _, term in posterior.program.all_terms():
        for sign, meaning, remedy, weight in term.doubts(
            state.terms[term.label], posterior.draws.sites
        ):
            yield Symptom(sign, meaning, remedy, weight)
