"""Every registered plug-in exists; what is not is refused by name."""

import pytest

from ranef import registry
from ranef.errors import OptionError


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_name_loads(kind):
    for name in registry.KINDS[kind]:
        assert isinstance(registry.load(kind, name), type)


def test_an_unknown_name_is_refused_with_what_may_be_meant():
    with pytest.raises(OptionError, match="no method 'svy'; did you mean 'svi'"):
        registry.load("method", "svy")
