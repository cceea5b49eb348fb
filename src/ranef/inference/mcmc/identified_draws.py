"""Draws of what chains can agree on, where some variables have no sign and no order."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.terms.blocks import Bilinear

# Rows whose products of coefficients are looked at.
_ROWS = 200


def comparable(values: Mapping[str, Any], products: Mapping[str, Bilinear]) -> dict[str, NDArray]:
    """Draws by name of what chains can agree on.

    Of products of coefficients these are the products themselves, in some rows, and the scales in
    their order: the signs and the order of components are free.
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
