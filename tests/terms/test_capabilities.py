"""Terms derive from the capabilities that they have, and the program finds them by these."""

import pytest

from contract_term import EXAMPLES, learn
from ranef import registry
from ranef.terms import capabilities
from ranef.terms.base import Term
from ranef.terms.capabilities import Capability, HasNetwork, Incomplete, VariesByLevel

KINDS = Capability.__subclasses__()


def methods(kind: type) -> set[str]:
    """The methods that a term with this capability has to write, or may write if there are none."""
    own = {name for name in vars(kind) if not name.startswith("_") and callable(vars(kind)[name])}
    return set(kind.__abstractmethods__) or own


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_terms_that_can_say_so_and_the_docstring_lists_them(kind):
    classes = {name: registry.load("term", name) for name in registry.TERMS}
    having = {name for name, cls in classes.items() if issubclass(cls, kind)}
    assert having
    for name, cls in classes.items():
        able = methods(kind) <= set(dir(cls))
        assert able == (name in having), f"{name} and {kind.__name__}"
    said = (kind.__doc__ or "").replace("(by=...)", "").replace(",", " ").split()
    assert having == having & set(said)


def test_no_capability_is_a_method_of_every_term():
    core = {name for name in vars(Term) if not name.startswith("_")}
    assert not core & {name for kind in KINDS for name in vars(kind) if not name.startswith("_")}
    assert {kind.__module__ for kind in KINDS} == {capabilities.__name__}


def test_the_program_lists_terms_by_capability_in_the_order_of_the_formula(grouped):
    program, _ = learn("y ~ (1 | g) + x + mi(z) + (1 | h); sigma ~ (1 | g)", grouped)
    found = [(p.name, term.label) for p, term in program.terms_with(VariesByLevel)]
    assert found == [("mu", "1 | g"), ("mu", "1 | h"), ("sigma", "sigma_1 | g")]
    assert [term.column for _, term in program.terms_with(Incomplete)] == ["z"]
    assert not list(program.terms_with(HasNetwork))


def test_a_formula_is_parsed_as_the_classes_of_its_terms_say():
    flags = ("takes_factors", "adds_lines", "models_column")
    said = {flag: set() for flag in flags}
    for name in registry.TERMS:
        for flag in flags:
            said[flag] |= {name} if getattr(registry.load("term", name), flag) else set()
    assert said == {"takes_factors": {"nn", "mf"}, "adds_lines": {"s"}, "models_column": {"mi"}}
    assert EXAMPLES.keys() == registry.TERMS.keys()
