"""Small Cholesky factors against NumPy, on either side of where they are written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ranef.inference.triangles import cholesky, product, solve, square

LEVELS = 4


@pytest.mark.parametrize("k", [1, 3, 6, 7])
def test_they_factor_and_solve_as_numpy_does(k):
    rng = np.random.default_rng(k)
    root = np.tril(rng.normal(size=(LEVELS, k, k)))
    # As far apart as intercepts and slopes on a column in thousands.
    root[:, range(k), range(k)] = np.logspace(0, 3, k) * rng.uniform(1, 2, (LEVELS, k))
    right = rng.normal(size=(LEVELS, k))
    with jax.enable_x64(True):
        matrix = square(jnp.asarray(root))
        got = cholesky(matrix)
        given = jnp.asarray(right)
        down, up = solve(got, given), solve(got, given, transposed=True)
        back = product(got, down), product(jnp.swapaxes(got, -1, -2), up)
    np.testing.assert_allclose(matrix, root @ root.swapaxes(-1, -2), rtol=1e-12)
    np.testing.assert_allclose(got, np.linalg.cholesky(matrix), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        down, np.linalg.solve(root, right[..., None])[..., 0], rtol=1e-7, atol=1e-12
    )
    np.testing.assert_allclose(back[0], right, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(back[1], right, rtol=1e-9, atol=1e-10)
