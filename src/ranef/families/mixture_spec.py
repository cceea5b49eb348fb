"""`Mixture`, which names the components of a mixture family without importing array libraries."""

from dataclasses import dataclass

from ranef import registry
from ranef.errors import OptionError, suggestion

# Largest number of components; data rarely identify more.
MOST = 20


@dataclass(frozen=True, init=False)
class Mixture:
    """A finite mixture: p(y_i) = sum_k w_ik p_k(y_i), w_i = softmax(0, mix2_i, ..., mixK_i).

    Mixture("gaussian", k=2) has two normal components, Mixture("gaussian", "student") one of each
    family. The parameters are numbered by component: mu1, sigma1, mu2, sigma2, ...; mix2 is the
    log odds of the second component against the first. Links and default priors are those of the
    components; the default prior of `mix2_Intercept` is Normal(0, 1.75).

    Args:
        *families: names of the components' families.
        k: number of components, if one family is given for all.

    Attributes:
        families: names of the components' families, one for each component.

    Raises:
        OptionError: for fewer than two components, more than 20, or an unknown family.
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
        """Name in the registry and in files, as "mixture(gaussian, student)"."""
        return f"mixture({', '.join(self.families)})"
