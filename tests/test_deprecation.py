"""An old name does what the new one does, and says what to write and by when."""

import warnings

import pytest

from ranef.deprecation import renamed


class Fitted:
    def share(self, factor: str, *, digits: int = 2) -> tuple[str, int]:
        """The share of variance of a grouping."""
        return factor, digits

    icc = renamed(share, "icc", until="0.3")


def test_an_old_name_warns_where_it_is_used_and_does_what_the_new_one_does():
    told = "^icc is now called share, and the old name goes in ranef 0.3$"
    with pytest.warns(DeprecationWarning, match=told) as caught:
        assert Fitted().icc("g", digits=3) == ("g", 3)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_new_name_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Fitted().share("g") == ("g", 2)


def test_help_shows_the_old_name_with_the_documentation_of_the_new_one():
    assert (Fitted.icc.__name__, Fitted.icc.__qualname__) == ("icc", "Fitted.icc")
    assert Fitted.icc.__doc__ == Fitted.share.__doc__
