"""Fixtures: the reference data, small published tables, and a cache of compiled programs."""

import gc
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent

# A test file may import Keras before it imports ranef.
os.environ.setdefault("KERAS_BACKEND", "jax")

# Annotations are checked at run time in tests, but for the modules whose own work it is to
# refuse what users pass: model, fit, priors, formula, tables.
CHECKED = ("terms", "families", "inference", "numerics", "datasets", "program")
GROUND = (
    "check.approximation",
    "check.cells",
    "check.chain_coordinates",
    "check.convergence",
    "check.groupings",
    "check.identifiability",
    "check.joint_density",
    "check.model_matrices",
    "check.networks",
    "check.prior_conflict",
    "check.reference",
    "check.reference_chains",
    "check.reference_coordinates",
    "check.reference_exact",
    "check.reference_hyperparameters",
    "check.reference_importance",
    "check.separation",
    "priors.log_density",
    "priors.sites",
    "data.complete_cases",
    "data.frame",
    "data.level_codes",
    "data.level_names",
    "data.levels",
    "data.moments",
    "data.number_texts",
    "formula.expression",
    "formula.grammar",
    "formula.model_matrix",
    "formula.transforms",
    "posterior.group_predictive",
    "posterior.level_batches",
    "posterior.level_likelihood",
    "posterior.predictive",
    "posterior.predictive_distribution",
    "posterior.program_replay",
)
install_import_hook([f"ranef.{name}" for name in (*CHECKED, *GROUND)], "type_checker.checked")

# Compiling is most of the suite's time: programs that run for a moment are not made the fastest,
# and they are kept between runs, in the repository's own ignored folder.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Files that take a minute or more. They go first, so that none runs alone at the end.
_LONG = (
    "test_zillow.py",
    "test_fit_file.py",
    "test_networks.py",
    "test_main.py",
    "test_equivariance.py",
)


def pytest_collection_modifyitems(items):
    """The longest files first; `long` on every test that `long_tests.txt` names."""
    items.sort(key=lambda item: item.path.name not in _LONG)
    named = set((ROOT / "tests" / "long_tests.txt").read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in named:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Thousands of compiled programs slow each collection of garbage, and so every later test."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of published data; it is not part of the repository."""
    folder = Path(os.environ.get("RANEF_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        if os.environ.get("RANEF_REQUIRE_DATA"):
            pytest.fail(f"the reference data is missing: {folder}")
        pytest.skip(f"the reference data is not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def dyestuff() -> dict[str, np.ndarray]:
    """Yield of 5 samples from each of 6 batches (Davies and Goldsmith, 1972)."""
    yields = [
        *(1545, 1440, 1440, 1520, 1580),
        *(1540, 1555, 1490, 1560, 1495),
        *(1595, 1550, 1605, 1510, 1560),
        *(1445, 1440, 1595, 1465, 1545),
        *(1595, 1630, 1515, 1635, 1625),
        *(1520, 1455, 1450, 1480, 1445),
    ]
    return {"Batch": np.repeat(list("ABCDEF"), 5), "Yield": np.array(yields, dtype=float)}


@pytest.fixture(scope="session")
def grouped() -> dict[str, np.ndarray]:
    """300 rows in 12 groups: y = 1 + 2 x + (1 + x | g) + noise, with a factor f."""
    rng = np.random.default_rng(5)
    codes = np.r_[np.arange(12), rng.integers(0, 12, 288)]
    x = rng.normal(size=300)
    b = rng.normal(size=(12, 2)) * [1.0, 0.5]
    y = 1 + 2 * x + b[codes, 0] + b[codes, 1] * x + 0.5 * rng.normal(size=300)
    return {
        "y": y,
        "x": x,
        "z": rng.normal(3.0, 2.0, 300),
        "w": rng.uniform(0.5, 2.0, 300),
        "f": np.array(list("abc"))[rng.integers(0, 3, 300)],
        "g": np.array([f"g{c}" for c in codes]),
        "h": np.array([f"h{c % 4}" for c in codes]),
        "hit": np.where(y > 1, "yes", "no"),
        "count": np.floor(np.exp(np.clip(y / 2, -2, 3))),
        "trials": np.full(300, 30.0),
        "kind": np.array(list("abc"))[np.digitize(y, [0.0, 2.0])],
        "grade": np.digitize(y, [0.0, 2.0]) + 1,
    }
