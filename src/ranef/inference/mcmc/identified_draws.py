"""Identified functions of parameters, for convergence diagnostics across chains.

The factors of a matrix factorization are identified only up to signs and the order of their
components, so that chains can differ in them although they agree on the posterior.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.terms.blocks import Bilinear

# Maximal number of rows, evenly spaced, whose products of factors are compared.
_ROWS = 200


def comparable(
    values: Mapping[str, NDArray], products: Mapping[str, Bilinear]
) -> dict[str, NDArray]:
    """Draws of identified quantities by name.

    For each product of factors these are the products u'v in some rows, in place of the factors,
    and the scales of the components in ascending order. All other sites stay as they are.

    Args:
        values: draws by site, (chain, draw, ...).
        products: terms that are products of factors, by label.
    """
    hidden = {site for term in products.values() for site in term.sites}
    out = {name: values[name] for name in values if name not in hidden}
    for label, term in products.items():
        if not all(site in values for site in term.sites):
            continue
        rows = np.unique(np.linspace(0, len(term.codes[0]) - 1, _ROWS).astype(int))
        u, v = (
            values[site][:, :, np.asarray(codes)[rows]]
            for site, codes in zip(term.sites, term.codes, strict=True)
        )
        out[label] = (u * v).sum(axis=-1)
        if term.scale in out:
            out[term.scale] = np.sort(out[term.scale], axis=-1)
    return out
