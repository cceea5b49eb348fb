"""Small Cholesky factors against NumPy, on either side of where they are written out."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from ranef.numerics.jax_cholesky import cholesky, product, solve, solve_columns, square
from ranef.priors.sites import BatchedNormal

LEVELS = 4


@pytest.mark.parametrize("k", [1, 3, 6, 7, 40, 65])
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
        columns = solve_columns(got, jnp.stack([given, -given], axis=-1))
    np.testing.assert_allclose(matrix, root @ root.swapaxes(-1, -2), rtol=1e-12)
    np.testing.assert_allclose(got, np.linalg.cholesky(matrix), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        down, np.linalg.solve(root, right[..., None])[..., 0], rtol=1e-7, atol=1e-12
    )
    np.testing.assert_allclose(columns, np.stack([down, -down], axis=-1), rtol=1e-12)
    np.testing.assert_allclose(back[0], right, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(back[1], right, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("transposed", [False, True])
def test_derivatives_of_loops_are_those_of_lapack(transposed):
    """In both directions of differentiation, where each matrix of a batch has its own."""
    k = 8
    rng = np.random.default_rng(k)
    half, right = rng.normal(size=(LEVELS, k, k)), rng.normal(size=(LEVELS, k))

    def by_loops(half, right):
        root = cholesky(half @ half.T + jnp.eye(k))
        return jnp.sum(jnp.sin(solve(root, right, transposed=transposed))) + jnp.sum(root**3)

    def by_lapack(half, right):
        root = jnp.linalg.cholesky(half @ half.T + jnp.eye(k))
        found = jax.scipy.linalg.solve_triangular(root, right, lower=True, trans=int(transposed))
        return jnp.sum(jnp.sin(found)) + jnp.sum(root**3)

    with jax.enable_x64(True):
        for how in (jax.grad, lambda f, argnums: jax.jacfwd(f, argnums)):
            ours = jax.vmap(how(by_loops, argnums=(0, 1)))(half, right)
            theirs = jax.vmap(how(by_lapack, argnums=(0, 1)))(half, right)
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_many_columns_are_taken_by_halves():
    """150 columns in four parts, of matrices whose factors round alike in any order."""
    k = 150
    rng = np.random.default_rng(k)
    half, right = rng.normal(size=(LEVELS, k, k)), rng.normal(size=(LEVELS, k))
    square_of = half @ half.swapaxes(-1, -2)
    matrix = square_of + k * np.eye(k)

    def log_det(t):
        return 2 * jnp.log(jnp.diagonal(cholesky(matrix[0] + t * square_of[0]))).sum()

    with jax.enable_x64(True):
        root, vectors = cholesky(jnp.asarray(matrix)), jnp.asarray(right)
        down, up = solve(root, vectors), solve(root, vectors, transposed=True)
        columns = solve_columns(root, jnp.asarray(half))
        # d log |A| = tr A^-1 dA
        slope = jax.grad(log_det)(0.0)
    exact = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(root, exact, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(down, np.linalg.solve(exact, right[..., None])[..., 0], rtol=1e-9)
    turned = np.linalg.solve(exact.swapaxes(-1, -2), right[..., None])[..., 0]
    np.testing.assert_allclose(up, turned, rtol=1e-9)
    np.testing.assert_allclose(columns, np.linalg.solve(exact, half), rtol=1e-8, atol=1e-10)
    trace = np.trace(np.linalg.solve(matrix[0], square_of[0]))
    np.testing.assert_allclose(slope, trace, rtol=1e-10)


@pytest.mark.parametrize("k", [7, 40, 100])
def test_no_batch_of_matrices_waits_for_the_threads_of_lapack(k):
    """Two of them at once are waited for without end on a machine of two cores."""

    def run(matrix, right):
        return jnp.sum(solve(cholesky(matrix), right))

    matrices, vectors = jnp.zeros((LEVELS, k, k)), jnp.zeros((LEVELS, k))
    program = jax.jit(jax.vmap(jax.grad(run, argnums=(0, 1)))).lower(matrices, vectors)
    assert "lapack" not in program.as_text()


@pytest.mark.parametrize("k", [1, 2, 9])
def test_normal_vectors_have_numpyros_density_without_lapack(k):
    """So that svi, whose samples of group effects are a batch, does not wait for threads."""
    rng = np.random.default_rng(k)
    root, values = np.tril(rng.normal(size=(k, k))) + 3 * np.eye(k), rng.normal(size=(5, k))

    def density(of, root, values):
        law = of(jnp.zeros((5, k)), scale_tril=jnp.tril(root))
        return law.to_event(1).log_prob(values)

    with jax.enable_x64(True):
        found = jax.value_and_grad(density, argnums=(1, 2))(BatchedNormal, root, values)
        exact = jax.value_and_grad(density, argnums=(1, 2))(dist.MultivariateNormal, root, values)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
        batch = jax.jit(jax.vmap(lambda root, values: density(BatchedNormal, root, values)))
        program = batch.lower(np.stack([root] * 2), np.stack([values] * 2))
    assert "lapack" not in program.as_text()
