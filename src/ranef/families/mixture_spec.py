"""`Mixture`: which families a response is mixed of, in words, so that nothing heavy is loaded."""

from dataclasses import dataclass

from ranef import registry
from ranef.errors import OptionError, suggestion

# Components at most; what tells more of them apart is rarely in the rows.
MOST = 20


@dataclass(frozen=True, init=False)
class Mixture:
    """A response of several kinds: p(y_i) = sum_k w_ik p_k(y_i), w_i = softmax(0, mix2_i, ...).

    Mixture("gaussian", k=2) has two normal components, Mixture("gaussian", "student") one of
    each. Parameters are numbered by component: mu1, sigma1, mu2, sigma2, and mix2 for the log odds
    of the second component against the first.

    Args:
        families: of the components, by name.
        k: how many components there are, all of the one family that is given.

    Raises:
        OptionError: for fewer than two components, more than twenty, or what is no family.
    """

    families: tuple[str, ...]

    def __init__(self, *families: str, k: int | None = None) -> None:
        for name in families:
            if not isinstance(name, str) or name not in registry.FAMILIES:
                hint = suggestion(str(name), registry.FAMILIES)
                raise OptionError(f"there is no family {name!r} to mix; {hint}")
        if k is not None:
            if len(families) != 1 or isinstance(k, bool) or not isinstance(k, int):
                raise OptionError(
                    "k is the number of components of one family, as in Mixture('gaussian', k=2), "
                    f"not {k!r} beside {len(families)} families"
                )
            families = families * max(k, 0)
        if not 2 <= len(families) <= MOST:
            raise OptionError(
                f"a mixture has from 2 to {MOST} components, as in Mixture('gaussian', k=2), and "
                f"this one has {len(families)}"
            )
        object.__setattr__(self, "families", tuple(families))

    @property
    def name(self) -> str:
        """As the registry knows it, and a file."""
        return f"mixture({', '.join(self.families)})"
