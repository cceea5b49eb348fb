"""One contract for every registered term: run by ``tests/terms/test_contract.py``.

To put a new term under it, add formulas that use it to `EXAMPLES`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from ranef.data.complete_cases import complete
from ranef.data.tables import read
from ranef.formula.formula import Formula
from ranef.program import learning, posterior_variables
from ranef.program.program import Program
from ranef.program.training import Training
from ranef.terms.base import CENTRED, Run, RunOptions

EXAMPLES = {
    "common": ["y ~ x*f + poly(z, 2)", "y ~ 0 + scale(x) + C(h)"],
    "group": ["y ~ 1 + (1 | g)", "y ~ 1 + (1 + x | g)", "y ~ 1 + (x || g) + (1 | g:h)"],
    "nn": [
        "y ~ 1 + nn(x, z, hidden=[3])",
        "y ~ 1 + nn(poly(x, 2), scale(z), hidden=[4, 2])",
        "y ~ 1 + nn(f, x, C(h), hidden=[3])",
    ],
    "offset": ["y ~ 1 + offset(log(w))"],
    "gp": [
        "y ~ 1 + gp(x, m=9)",
        "y ~ 1 + gp(log(w), z, m=[4, 3], kernel=matern32) + gp(x, by=g, m=5, kernel=sqexp)",
    ],
    "s": ["y ~ s(x) + s(log(w), k=8)"],
    "mi": ["y ~ mi(x) + z; mi(x) ~ z + (1 | g); sigma ~ mi(x)"],
    "mf": ["y ~ (1 | g) + mf(g, h, rank=3)"],
}


def learn(formula: str, table: dict, family: str = "gaussian") -> tuple[Program, Training]:
    program = Program(Formula.parse(formula), family, {}, {}, ())
    return program, learning.prepare(program, read(table, list(program.needs())))


def values_at(program: Program, training: Training, designs, seed: int, **replay) -> dict:
    """Parameters of the response with every site near its start."""

    def near_start(site):
        """A fixed place off the start; a Cholesky factor stays there, to remain one."""
        if site["type"] != "sample" or site["is_observed"] or site["name"].endswith("_new"):
            return None
        begin = site["infer"]["start"]
        away = 0.1 * jnp.sin(1.0 + jnp.arange(np.size(begin))).reshape(np.shape(begin))
        return begin if site["name"].endswith("/cholesky") else begin + away

    run = numpyro.handlers.substitute(
        numpyro.handlers.seed(program, seed), substitute_fn=near_start
    )
    return run(training.state, designs, replay=RunOptions(training=False, rows=1, **replay))


def check_rows_stand_alone(formula: str, table: dict) -> None:
    """Every leaf has the rows as leading axis, and a minibatch gives those rows' values."""
    program, training = learn(formula, table)
    n = training.rows.used
    assert all(np.shape(leaf)[0] == n for leaf in jax.tree.leaves(training.designs))
    rows = np.array([5, 0, 17, 5])
    part = jax.tree.map(lambda a: a[rows], training.designs)
    whole = values_at(program, training, training.designs, 0)["mu"]
    np.testing.assert_allclose(
        values_at(program, training, part, 0)["mu"], whole[rows], rtol=2e-4, atol=2e-5
    )


def check_batches_learn_what_the_whole_teaches(formula: str, table: dict) -> None:
    """Scanning in batches gives the design that scanning at once gives."""
    program, training = learn(formula, table)
    frame, _ = complete(read(table, list(program.needs())), program.needs())
    first = np.arange(frame.n) < frame.n // 3
    for _, term in program.all_terms():
        seen = term.scan(term.scan(None, frame.keep(first)), frame.keep(~first))
        whole = term.finish(term.scan(None, frame))
        again = term.finish(seen)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8),
            term.design(whole, frame),
            term.design(again, frame),
        )


def check_new_rows_replay_training(formula: str, table: dict) -> None:
    """The design of some training rows as new data is those rows of the training design."""
    program, training = learn(formula, table)
    some = {name: values[40:60] for name, values in table.items()}
    designs = program.designs(training.state, read(some, list(program.needs(response=False))))
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old[40:60], atol=1e-8),
        designs,
        dict(training.designs),
    )


def check_names_agree(formula: str, table: dict) -> None:
    """Parameters with priors, sites of the program and variables of the posterior agree."""
    program, training = learn(formula, table)
    variables = posterior_variables.variables(program, training.state)
    trace = _trace(program, training)
    latent = {
        name for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]
    }
    draws = {name: np.asarray(trace[name]["value"])[None] for name in latent}
    derived = latent | set(posterior_variables.derived(program, training.state, draws))
    for name in training.state.priors:
        assert name in derived or name.endswith(CENTRED)
    for name in posterior_variables.stated(program, training.state):
        assert name in variables or "[" in name  # a level that is the reference in the formula
    for name, variable in variables.items():
        assert len(variable.dims) == len(variable.coords)
        assert name in derived


def check_block_is_the_term(formula: str, table: dict) -> None:
    """A linear term's block gives its part of eta, and its Gaussian the coefficients' prior."""
    program, training = learn(formula, table)
    trace = _trace(program, training)
    values = {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    blocks = program.blocks(training.state, training.designs, values)
    for parameter, term in program.all_terms():
        block = blocks.get(term.label)
        if block is None:
            continue
        state, design = training.state.terms[term.label], training.designs[term.label]
        own = numpyro.handlers.substitute(numpyro.handlers.seed(term.eta, 0), data=values)
        scale = training.state.scales[parameter.name]
        eta = own(Run(state, design, training.state.priors, scale))
        held = [np.reshape(values[name], (block.levels, -1)) for name, _ in block.sites]
        coefficients = np.concatenate(held, axis=1)
        flat = coefficients if block.codes is not None else coefficients[0]
        np.testing.assert_allclose(block.predict(jnp.asarray(flat)), eta, rtol=2e-4, atol=2e-4)
        factor = np.asarray(block.factor, dtype=np.float64)
        root = factor if factor.ndim == 2 else np.diag(factor)
        noise = np.linalg.solve(root, (coefficients - np.asarray(block.mean)).T)
        k = len(root)
        expected = -0.5 * (noise**2).sum() - block.levels * (
            np.log(np.diag(root)).sum() + 0.5 * k * np.log(2 * np.pi)
        )
        got = sum(float(trace[n]["fn"].log_prob(values[n])) for n, _ in block.sites)
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def _trace(program: Program, training: Training) -> dict:
    seeded = numpyro.handlers.seed(program, 3)
    return numpyro.handlers.trace(seeded).get_trace(
        training.state, training.designs, training.response
    )


CHECKS = [
    check_rows_stand_alone,
    check_batches_learn_what_the_whole_teaches,
    check_new_rows_replay_training,
    check_names_agree,
    check_block_is_the_term,
]
