"""Every registered plug-in exists; what is planned is refused by name."""

import pytest

from ranef import registry
from ranef.errors import OptionError


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_name_loads(kind):
    for name in registry.KINDS[kind]:
        assert isinstance(registry.load(kind, name), type)


def test_planned_and_unknown_names_are_told_apart():
    with pytest.raises(OptionError, match="term 'mi' is not built yet; built are: common"):
        registry.load("term", "mi")
    with pytest.raises(OptionError, match="no method 'svy'; did you mean 'svi'"):
        registry.load("method", "svy")
