"""Fits as files: what comes back is what was saved, and what is no saved fit is refused."""

import datetime
import decimal
import hashlib
import importlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr

import ranef as rf
from ranef import registry
from ranef.check.reference import NoReference
from ranef.data import parquet, tables
from ranef.inference.lmm import coefficient_posterior
from ranef.inference.pwls import solver
from ranef.inference.pwls.effect_draws import EffectSampler
from ranef.storage.effect_checks import refuse_unsound
from ranef.terms.base import Design

# After ranef, which says on which backend it runs.
keras = pytest.importorskip("keras")

QUICK = {"method": "svi", "steps": 60}
LAPLACE = {"method": "laplace"}
CHAINS = {"method": "nuts", "chains": 2, "tune": 60, "draws": 50}
# Formula, what a model is given beside it, what a fit is.
EXAMPLES = {
    "exact": ("y ~ x * f + poly(z, 2) + (1 + x | g) + (1 | h) + offset(w)", {}, {}),
    "point": ("y ~ x + (1 | g:h)", {"priors": {"1|g:h_sigma": rf.PointEstimate()}}, {}),
    "fixed": (
        "y ~ scale(x) + C(f) + (x || g)",
        {"priors": {"sigma": 0.5, "common": rf.Flat(), "x|g_sigma": rf.Exponential(2.0)}},
        {},
    ),
    "variance": (
        "y ~ x + (1 | g)",
        {
            "priors": {
                "sigma": rf.Precision(rf.Gamma(2.0, 1.0)),
                "1|g_sigma": rf.Variance(rf.Uniform(0.0, 4.0)),
            }
        },
        {},
    ),
    "tails": ("y ~ x + f + (1 | g)", {"priors": {"common": rf.StudentT(3, 0, 2)}}, {}),
    "weights": ("weights(y, w) ~ log(w) + (1 | g)", {}, {}),
    "se": ("se(y, w) ~ I(x**2) + (1 | g)", {}, {}),
    "svi": ("y ~ x + (1 + x | g); sigma ~ z", {"family": "student"}, QUICK),
    "trials": ("count / trials ~ x + (1 | g)", {"family": "binomial"}, LAPLACE),
    "grades": ("grade ~ x + (1 | g)", {"family": "ordinal"}, LAPLACE),
    "kinds": ("kind ~ x + (1 | g)", {"family": "categorical"}, LAPLACE),
    "nuts": ("y ~ x + (1 + x | g)", {}, CHAINS),
    "sampled": ("y ~ x + (1 | g)", {"family": "student"}, CHAINS),
    "factors": (
        "y ~ s(x, k=6) + gp(z, m=5) + (1 | g) + mf(g, h, rank=2)",
        {},
        {"method": "svi"},
    ),
    "network": ("y ~ x + nn(x, f, C(h), hidden=[4]) + (1 | g)", {}, QUICK),
    "last": ("y ~ nn(x, f, hidden=[4], weights='last') + (1 | g)", {}, QUICK),
    "missing": ("y ~ mi(x); mi(x) ~ z", {}, {"method": "svi", "steps": 50}),
}
GROUPS = (
    *("posterior_predictive", "log_likelihood", "prior", "surface", "partial_effects"),
    "shrinkage",
)
NO_FLAT = ("prior", "surface")
# Of those whose groups of the DataTree are compared too: one of each kind of state.
WHOLE = ("exact", "svi", "grades", "factors", "network", "missing")


def fitted(formula: str, table, given: dict, options: dict) -> rf.Fit:
    return rf.Model(formula, **given).fit(table, **{"draws": 100, "progress": False, **options})


@pytest.fixture(scope="module")
def small(grouped) -> rf.Fit:
    return fitted("y ~ x + (1 | g)", grouped, {}, {})


@pytest.fixture
def kept(small, tmp_path) -> Path:
    return small.save(tmp_path / "fit.ranef")


def again(fit: rf.Fit, folder: Path) -> rf.Fit:
    return rf.load(fit.save(folder / "fit.ranef"))


def assert_same_table(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def assert_same_tree(a: xr.DataTree, b: xr.DataTree) -> None:
    assert set(a.children) == set(b.children)
    for name in a.children:
        one, other = a[name].to_dataset(), b[name].to_dataset()
        for stamped in (one, other):
            stamped.attrs.pop("created_at", None)
        xr.testing.assert_identical(one, other)


def assert_same_answers(
    fit: rf.Fit, new: rf.Fit, table: dict, groups: tuple[str, ...] = GROUPS
) -> None:
    """Everything that a fit answers, to the last bit."""
    assert repr(fit) == repr(new)
    for name in ("method", "why", "seconds", "rows", "converged", "message", "steps", "priors"):
        assert getattr(fit, name) == getattr(new, name), name
    assert fit.variables == new.variables
    assert fit.equations() == new.equations()
    for tables_of in (rf.Fit.summary, rf.Fit.fixef, rf.Fit.varcorr):
        assert_same_table(tables_of(fit), tables_of(new))
    for factor in {v.factor for v in fit.variables.values() if v.role == "group"}:
        assert_same_table(fit.ranef(factor), new.ranef(factor))
    assert str(fit.check()) == str(new.check())
    rows = {name: values[:40] for name, values in table.items()}
    unseen = {**rows, "g": np.array([*rows["g"][:-3], "new", "other", "new"])}
    assert_same_table(fit.predict(rows), new.predict(rows))
    for kind, levels in (("mean", "zero"), ("response", "sample")):
        asked = {"kind": kind, "new_levels": levels, "seed": 3}
        assert_same_table(fit.predict(unseen, **asked), new.predict(unseen, **asked))
    assert fit.log_score(rows).tobytes() == new.log_score(rows).tobytes()
    flat = any(isinstance(p, rf.Flat) for p in fit.priors.values())
    for one in (fit, new):
        one.extend(*(g for g in groups if not (flat and g in NO_FLAT) and shows(fit, g)))
        one.extend("validation", data=unseen)
    assert_same_tree(fit.idata, new.idata)


def shows(fit: rf.Fit, group: str) -> bool:
    return group != "shrinkage" or any(n.startswith("1|g") for n in fit.posterior)


def test_every_plug_in_is_among_the_examples():
    calls = " ".join(formula for formula, _, _ in EXAMPLES.values())
    assert all(f"{name}(" in calls for name in set(registry.TERMS) - set(registry.NOTATION))
    families = {given.get("family", "gaussian") for _, given, _ in EXAMPLES.values()}
    methods = {options.get("method", "exact") for _, _, options in EXAMPLES.values()}
    # Those with a form, categories or a vector of their own; of the others a file says no more.
    assert families >= {"gaussian", "student", "binomial", "ordinal", "categorical"}
    assert families <= set(registry.FAMILIES)
    assert methods == set(registry.METHODS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_loaded_fit_answers_as_the_fit_did(name, grouped, tmp_path, monkeypatch):
    # A second opinion by sampling takes longer than all else, and is a function of the program.
    module = importlib.import_module("ranef.check.approximation")
    for look in ("sampled", "short_chains", "exact_scales"):
        monkeypatch.setattr(module, look, lambda *of: NoReference("it is not asked for"))
    formula, given, options = EXAMPLES[name]
    with_trouble = {**grouped, "x": np.where(np.arange(300) == 7, np.nan, grouped["x"])}
    fit = fitted(formula, with_trouble, given, options)
    new = again(fit, tmp_path)
    assert_same_answers(fit, new, grouped, GROUPS if name in WHOLE else ())
    assert new.save(tmp_path / "2").read_bytes() == fit.save(tmp_path / "1").read_bytes()


def test_the_likelihood_is_that_of_the_fit(grouped, tmp_path):
    fit = fitted("y ~ x + (1 + x | g)", grouped, {}, {})
    new = again(fit, tmp_path)
    theta = [0.7, 0.1, 0.4]
    assert fit.deviance(theta, reml=True) == new.deviance(theta, reml=True)
    one, other = fit.maximum_likelihood(), new.maximum_likelihood()
    assert one["deviance"] == other["deviance"]
    assert_same_table(one["fixef"], other["fixef"])


def test_the_report_is_the_same_page(small, tmp_path):
    new = again(small, tmp_path)
    small.report(tmp_path / "1.html")
    new.report(tmp_path / "2.html")
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def network(*layers) -> keras.Sequential:
    return keras.Sequential([keras.layers.Input((2,)), *layers, keras.layers.Dense(1)])


def functional() -> keras.Model:
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, activation="silu", kernel_regularizer="l2")(inputs)
    both = keras.layers.Concatenate()([inputs, hidden])
    return keras.Model(inputs, keras.layers.Dense(1)(both))


def several() -> keras.Model:
    """Inputs of numbers, of levels, and of their image, which two embeddings share."""
    numbers, kind = keras.Input((2,), name="numbers"), keras.Input((), dtype="int32", name="f")
    image = keras.Input((2, 2, 1), name="image")
    parts = [
        keras.layers.BatchNormalization()(numbers),
        keras.layers.Embedding(4, 2, embeddings_regularizer="l2")(kind),
        keras.layers.Flatten()(keras.layers.Conv2D(2, 2)(image)),
    ]
    hidden = keras.layers.Dropout(0.1)(keras.layers.Concatenate()(parts))
    return keras.Model(
        {"numbers": numbers, "f": kind, "image": image}, keras.layers.Dense(1)(hidden)
    )


NETWORKS = {
    "sequential": lambda: network(
        keras.layers.Dense(4, activation="tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dropout(0.1),
    ),
    "functional": functional,
    "nested": lambda: network(
        keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3)]),
        keras.layers.LeakyReLU(),
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_users_network_comes_back(kind, grouped, tmp_path):
    given = {"networks": {"f": NETWORKS[kind]()}}
    fit = fitted("y ~ nn(x, z, net=f) + (1 | g)", grouped, given, QUICK)
    new = again(fit, tmp_path)
    assert_same_answers(fit, new, grouped)
    assert_kept_twice(fit, new, grouped, tmp_path)


def assert_kept_twice(fit: rf.Fit, new: rf.Fit, table: dict, folder: Path) -> None:
    """A third one, loaded from what was loaded: names that Keras counts up must not matter."""
    third = again(new, folder)
    assert_same_table(fit.predict(table), third.predict(table))
    assert third.save(folder / "3").read_bytes() == fit.save(folder / "1").read_bytes()


def test_a_network_with_several_inputs_comes_back(grouped, tmp_path):
    table = {**grouped, "image": np.stack([grouped["x"]] * 4, axis=1).reshape(-1, 2, 2)}
    given = {"networks": {"net": several()}}
    fit = fitted("y ~ nn(x, z, f, image, net=net) + (1 | g)", table, given, QUICK)
    new = again(fit, tmp_path)
    assert_same_answers(fit, new, table)
    assert_kept_twice(fit, new, table, tmp_path)
    new.report(tmp_path / "page.html")
    rows = {**{name: values[:2] for name, values in table.items()}, "f": np.array(["z", "a"])}
    assert_same_table(
        *(one.predict(rows, new_levels="zero") for one in (fit, new)),
    )
    for mine, theirs in zip(fit.network("net").weights, new.network("net").weights, strict=True):
        np.testing.assert_array_equal(mine.value, theirs.value)


def test_the_file_holds_the_weights_of_its_fit(grouped, tmp_path):
    """Whatever another fit has left in the network since."""
    model = rf.Model("y ~ nn(x, z, net=f)", networks={"f": network(keras.layers.Dense(2))})
    options = {"draws": 50, "progress": False, **QUICK}
    first = model.fit(grouped, **options)
    before = first.save(tmp_path / "1").read_bytes()
    model.fit({**grouped, "y": -grouped["y"]}, **options)
    assert first.save(tmp_path / "2").read_bytes() == before


def test_a_layer_that_no_file_holds_is_refused_by_name(grouped, tmp_path):
    given = {"networks": {"f": network(keras.layers.Lambda(lambda x: x, name="mine"))}}
    fit = fitted("y ~ nn(x, z, net=f)", grouped, given, QUICK)
    with pytest.raises(rf.OptionError, match=r"Lambda \('mine'\)"):
        fit.save(tmp_path / "fit.ranef")
    assert not list(tmp_path.iterdir())


def test_columns_of_every_kind(tmp_path):
    n = 60
    rng = np.random.default_rng(2)
    day = [datetime.date(2024, 1, 1 + i % 3) for i in range(n)]
    table = pa.table(
        {
            "y": pa.array(rng.normal(size=n), pa.float32()),
            "x": pa.array([None if i == 4 else i % 7 for i in range(n)], pa.int16()),
            "d": pa.array([decimal.Decimal(i % 5) / 4 for i in range(n)], pa.decimal128(8, 2)),
            "b": pa.array([i % 2 == 0 for i in range(n)]),
            "t": pa.array(day, pa.date32()),
            "c": pa.array([f"ü{i % 4}" for i in range(n)]).dictionary_encode(),
            "s": pa.array(["" if i % 3 else "\U0001f600" for i in range(n)], pa.large_string()),
        }
    )
    fit = fitted("y ~ x + d + C(b) + C(t) + c + (1 | s)", table, {}, {})
    new = again(fit, tmp_path)
    rows = table.slice(5)
    assert_same_table(fit.predict(rows), new.predict(rows))
    for one in (fit, new):
        one.extend("partial_effects", "posterior_predictive")
    assert_same_tree(fit.idata, new.idata)


def test_a_fit_of_a_file(grouped, tmp_path):
    tables.write(tmp_path / "rows.csv", {k: pa.array(v) for k, v in grouped.items()})
    fit = fitted("y ~ x + f + (1 | g)", tmp_path / "rows.csv", {"missing": ["g3"]}, {})
    new = again(fit, tmp_path)
    rows = {name: values[grouped["g"] != "g3"] for name, values in grouped.items()}
    assert_same_table(fit.predict(rows), new.predict(rows))
    for one in (fit, new):
        one.extend("partial_effects")
    assert_same_tree(fit.idata, new.idata)


def test_rows_read_in_batches_are_kept_as_a_sample(grouped, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH", 100)
    tables.write(tmp_path / "rows.parquet", {k: pa.array(v) for k, v in grouped.items()})
    fit = fitted("y ~ x + (1 | g)", tmp_path / "rows.parquet", {}, {})
    assert fit.training.stream is not None
    new = again(fit, tmp_path)
    assert_same_table(fit.summary(), new.summary())
    assert_same_table(fit.predict(grouped), new.predict(grouped))
    with pytest.raises(rf.OptionError, match="read its rows in batches"):
        new.deviance([1.0])
    with pytest.raises(rf.OptionError, match="read its rows in batches"):
        new.extend("shrinkage")


LARGE = {
    "nested": "y ~ x + (1 | g) + (x | g:k)",
    "crossed": "y ~ x + (x || g) + (1 | k)",
    "sparse": "y ~ x + (x | g) + (1 | k)",
}


@pytest.fixture
def crossed(grouped) -> dict[str, np.ndarray]:
    return {**grouped, "k": np.array([f"k{i % 7}" for i in range(300)])}


@pytest.fixture(params=LARGE)
def large(request, crossed, monkeypatch) -> rf.Fit:
    """With more group effects than are made at once."""
    monkeypatch.setattr(coefficient_posterior, "_REALISED", 100)
    if request.param == "sparse":
        monkeypatch.setattr(solver, "_DENSE", 0)
        monkeypatch.setattr(solver, "_FULL", 2.0)
    return fitted(LARGE[request.param], crossed, {}, {})


def test_draws_that_memory_does_not_hold_are_made_by_level_as_before(large, crossed, tmp_path):
    expected = large.predict(crossed)
    new = again(large, tmp_path)
    assert_same_table(large.ranef("g"), new.ranef("g"))
    assert_same_table(large.summary(), new.summary())
    assert_same_table(expected, new.predict(crossed))
    for one in (large, new):
        with pytest.raises(rf.OptionError, match="100 draws of .* group effects"):
            _ = one.posterior
    assert new.save(tmp_path / "more").read_bytes() == large.save(tmp_path / "once").read_bytes()


def places(found: EffectSampler, **changes) -> EffectSampler:
    return replace(found, places=(replace(found.places[0], **changes), *found.places[1:]))


def cell(found: EffectSampler, **changes) -> EffectSampler:
    return replace(found, cells=(replace(found.cells[0], **changes), *found.cells[1:]))


def given(found: EffectSampler, **changes) -> EffectSampler:
    return cell(found, conditionals=replace(found.cells[0].conditionals, **changes))


def stage(found: EffectSampler, **changes) -> EffectSampler:
    first, *rest = found.system.stages
    return replace(found, system=replace(found.system, stages=(replace(first, **changes), *rest)))


def cross_blocks(found: EffectSampler, **changes) -> EffectSampler:
    met = replace(found.system.cross_blocks, **changes)
    return replace(found, system=replace(found.system, cross_blocks=met))


UNSOUND = {
    "a site beyond its factor": lambda e: places(e, start=9),
    "a factor there is not": lambda e: places(e, factor=9),
    "fewer levels": lambda e: replace(e, levels=tuple(j - 1 for j in e.levels)),
    "a draw twice": lambda e: cell(e, members=e.cells[0].members + 1),
    "a draw fewer": lambda e: replace(e, cells=e.cells[1:]),
    "chains that do not divide the draws": lambda e: replace(e, chains=7),
    "a sigma too few": lambda e: given(e, sigma=e.cells[0].conditionals.sigma[1:]),
    "a remainder too narrow": lambda e: given(e, last=e.cells[0].conditionals.last[:, 1:]),
    "wide roots": lambda e: given(e, roots=tuple(np.ones((1, 5, 5)) for _ in e.widths)),
    "few cross-products": lambda e: given(
        e, every=tuple(a[..., 1:] for a in e.cells[0].conditionals.every)
    ),
}
OF_STAGES = {
    "a level twice": lambda e: stage(e, order=e.system.stages[0].order * 0),
    "parents too many": lambda e: stage(e, parents=(e.system.stages[0].order,) * 3),
    "a parent there is not": lambda e: stage(
        e, parents=tuple(p + 10**6 for p in e.system.stages[0].parents) or (np.arange(3),)
    ),
}
OF_CROSS_BLOCKS = {
    "a coefficient there is not": lambda e: cross_blocks(
        e, places=e.system.cross_blocks.places + 10**6
    ),
    "a coefficient below none": lambda e: cross_blocks(
        e, places=e.system.cross_blocks.places - 10**6
    ),
    "a level that ends before it starts": lambda e: cross_blocks(
        e, starts=np.roll(e.system.cross_blocks.starts, 1)
    ),
    "values too few": lambda e: cross_blocks(e, values=e.system.cross_blocks.values[:, 1:]),
    "more coefficients than remain": lambda e: cross_blocks(e, r=10**6),
}


def is_sound(found: EffectSampler, fit: rf.Fit, draws: int = 100) -> bool:
    try:
        refuse_unsound(found, fit.program.level_sites(fit.training.state), draws)
    except rf.FileError:
        return False
    return True


def test_effects_that_do_not_fit_together_are_refused(large):
    found = large.draws.effects
    own = OF_CROSS_BLOCKS if hasattr(found.system, "cross_blocks") else OF_STAGES
    assert is_sound(found, large)
    assert not is_sound(found, large, draws=99)
    assert not [
        name for name, change in {**UNSOUND, **own}.items() if is_sound(change(found), large)
    ]


@pytest.mark.parametrize("of", ["elimination.Given", "effects.Cell", "effects.Place"])
def test_a_file_whose_effects_have_been_changed_is_refused(large, tmp_path, of):
    def change(content, _):
        for part in walk(content["draws"]):
            if part.get("of") == f"inference.{of}":
                part["fields"] = {name: moved(value) for name, value in part["fields"].items()}

    refused(rewritten(large.save(tmp_path / "fit.ranef"), change))


def moved(value):
    """A JSON value that says something else."""
    if isinstance(value, (int, str)):
        return 9
    return {"tuple": [moved(v) for v in value["tuple"]]} if "tuple" in value else {"array": "0"}


# What is no saved fit


def rewritten(path: Path, change) -> Path:
    """The file with its content changed and a checksum that says it was meant so."""
    with zipfile.ZipFile(path) as archive:
        content = json.loads(archive.read("model.json"))
        numbers = archive.read("arrays.safetensors")
    numbers = change(content, numbers) or numbers
    content["arrays"] = {"bytes": len(numbers), "sha256": hashlib.sha256(numbers).hexdigest()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.json", json.dumps(content))
        archive.writestr("arrays.safetensors", numbers)
    return path


def refused(path: Path) -> str:
    """The one sentence that a file is refused with."""
    with pytest.raises(rf.FileError) as caught:
        rf.load(path)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    return said


def loaded(path: Path) -> rf.Fit | None:
    """The fit in a file, None where it is refused."""
    try:
        return rf.load(path)
    except rf.FileError:
        return None


def test_a_file_cut_short_anywhere_is_refused(kept):
    whole = kept.read_bytes()
    for end in np.linspace(0, len(whole) - 1, 60).astype(int):
        kept.write_bytes(whole[:end])
        assert "not a saved fit" in refused(kept) or "damaged" in refused(kept)


def test_a_changed_byte_is_refused_or_says_nothing(kept, small, grouped):
    """The zip has some bytes that mean nothing, such as dates; no other can change unseen."""
    whole, answer = kept.read_bytes(), small.predict(grouped)
    rng = np.random.default_rng(0)
    seen = 0
    for place in rng.integers(0, len(whole), 150):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        kept.write_bytes(changed)
        new = loaded(kept)
        if new is None:
            seen += 1
        else:
            assert_same_table(answer, new.predict(grouped))
    assert seen > 140


@pytest.mark.parametrize("content", [b"", b"PK", b"y,x\n1,2\n", b"\x80\x04N.", b"PK\3\4" * 99])
def test_what_is_no_saved_fit_is_refused(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    assert "a saved fit" in refused(tmp_path / "a") or "damaged" in refused(tmp_path / "a")


def test_paths_that_are_not_there(small, tmp_path):
    assert "there is no file" in refused(tmp_path / "none")
    assert "cannot be read" in refused(tmp_path)
    for bad in (tmp_path, tmp_path / "none" / "a", "", "a\0b"):
        with pytest.raises(rf.FileError, match="cannot be written"):
            small.save(bad)
    for bad in (3, None):
        with pytest.raises(rf.OptionError, match="must be a text or a Path"):
            small.save(bad)
        with pytest.raises(rf.OptionError, match="must be a text or a Path"):
            rf.load(bad)


def test_a_newer_format_is_refused(kept):
    def newer(content, _):
        content["format"] = 99
        content["versions"]["ranef"] = "7.1"

    assert "format 99, written by ranef 7.1" in refused(rewritten(kept, newer))


def header(numbers: bytes, shape: list[int], size: int = 8) -> bytes:
    """An array of a shape that it claims, and of bytes that it has."""
    text = json.dumps({"0": {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize(
    ("shape", "size"), [([10**12], 8), ([10**12], 8 * 10**12), ([2**40, 2**40], 8), ([-1], 8)]
)
def test_a_shape_beyond_the_file_is_refused(kept, shape, size):
    said = refused(rewritten(kept, lambda _, numbers: header(numbers, shape, size)))
    assert "arrays.safetensors" in said


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "model.json/../x", "extra", "C:\\x"])
def test_a_path_out_of_the_archive_is_refused(kept, name):
    with zipfile.ZipFile(kept, "a") as archive:
        archive.writestr(name, b"x")
    assert "which no saved fit does" in refused(kept)
    assert not Path("/tmp/out").exists()


def test_compressed_parts_are_refused(kept):
    """A few kilobytes can claim to be terabytes."""
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", b" " * 10**7)
        archive.writestr("arrays.safetensors", bytes(10**7))
    assert "claims 10,000,000 bytes" in refused(kept)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_part_given_twice_is_refused(kept):
    with zipfile.ZipFile(kept, "a") as archive:
        archive.writestr("model.json", b"{}")
    assert "once each" in refused(kept)


def walk(value):
    """Every object of a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            yield from walk(item)


@pytest.fixture(scope="module")
def with_network(grouped) -> rf.Fit:
    given = {"networks": {"f": network(keras.layers.Dense(4))}}
    return fitted("y ~ nn(x, z, net=f)", grouped, given, QUICK)


def dense(content) -> dict:
    """The last layer, which may become wider without another noticing."""
    return [d for d in walk(content["networks"]) if d.get("class_name") == "Dense"][-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_name": "Lambda"}, "'Lambda', which is not on the list"),
        ({"module": "os", "class_name": "system"}, "'system', which is not on the list"),
        ({"module": "keras.src.layers"}, "'Dense', which is not on the list"),
        ({"registered_name": "Custom>Dense"}, "'Dense', which is not on the list"),
        ({"class_name": ["Dense"]}, "which is not on the list"),
        ({"config": 3}, "cannot be built"),
        ({"config": {"units": 10**12, "name": "other"}}, "the weights of its network"),
        ({"config": {"units": 5, "name": "other"}}, "the weights of its network"),
        ({"config": {"units": -1}}, "cannot be built"),
        ({"config": {"units": 4, "activation": "no_such"}}, "cannot be built"),
    ],
)
def test_a_network_of_other_layers_is_refused(with_network, tmp_path, change, said):
    path = with_network.save(tmp_path / "fit.ranef")

    def other(content, _):
        dense(content).update(change)

    assert said in refused(rewritten(path, other))
    # Nothing is left behind that Keras would come upon later.
    keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
    assert rf.load(with_network.save(path)).method == "svi"


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"tuple": []}},
        {"arguments": {"tuple": [0, 7]}},
        {"shape": {"tuple": [3]}},
        {"shape": {"tuple": [-2]}},
        {"entries": "many"},
        {"shape": {"tuple": ["2"]}},
    ],
)
def test_inputs_that_are_not_the_networks_are_refused(with_network, tmp_path, change):
    path = with_network.save(tmp_path / "fit.ranef")

    def other(content, _):
        feed = next(d for d in walk(content) if d.get("of") == "terms.inputs.Feed")
        feed["fields"].update(change)

    assert refused(rewritten(path, other))


def first(content: dict, kind: str) -> dict:
    return next(d for d in walk(content) if kind in d)


HOSTILE = {
    "a class that is not listed": lambda c: first(c, "of").update(of="subprocess.Popen"),
    "a class of the library that is not listed": lambda c: first(c, "of").update(of="fit.Fit"),
    "a kind there is not": lambda c: c.update(state={"pickle": "gASVAA=="}),
    "no kind": lambda c: c.update(state={}),
    "a field there is not": lambda c: first(c, "of")["fields"].update(more=1),
    "a field of another type": lambda c: first(c, "of")["fields"].update(
        dict.fromkeys(first(c, "of")["fields"], True)
    ),
    "an expression that is not in the formula": lambda c: first(c, "expression").update(
        expression="exp(exp(x))"
    ),
    "a formula that is none": lambda c: c.update(formula="y ~ ("),
    "another formula": lambda c: c.update(formula="y ~ x + z"),
    "no formula": lambda c: c.pop("formula"),
    "a family there is not": lambda c: c.update(family="os:system"),
    "an array there is not": lambda c: first(c, "array").update(array="no"),
    "axes there are not": lambda c: first(c, "array").update(axes=[5, 7]),
    "a network there is not": lambda c: c.update(named={"map": {"f": {"network": 3}}}),
    "a network within itself": lambda c: c.update(
        networks=[{"configuration": {}, "variables": [{"network": 0}]}],
        named={"map": {"f": {"network": 0}}},
    ),
    "a record of something else": lambda c: c.update(record={"map": {"evil": 1}}),
    "draws of something else": lambda c: c["draws"]["map"]["sites"]["map"].update(
        {"1|g": c["draws"]["map"]["sites"]["map"]["sigma"]}
    ),
    "no draws": lambda c: c["draws"]["map"].pop("sites"),
    "a number of another kind": lambda c: c.update(priors={"scalar": ["O", 1]}),
    "a float that is none": lambda c: c.update(priors={"float": "1e9e"}),
    "a bare list": lambda c: c.update(priors=[1]),
    "a version that is none": lambda c: c.update(format="1"),
    "a bottomless value": lambda c: c.update(priors=deep(400)),
}


def deep(levels: int) -> dict:
    value: dict = {"list": []}
    for _ in range(levels):
        value = {"list": [value]}
    return value


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_fit_holds_is_refused(name, kept):
    refused(rewritten(kept, lambda content, _: HOSTILE[name](content) and None))


@pytest.mark.parametrize("text", ["NaN", "[" * 100_000, "3", "{", '{"format": 1e999}', "\xff"])
def test_json_that_is_none_is_refused(kept, text):
    with zipfile.ZipFile(kept) as archive:
        numbers = archive.read("arrays.safetensors")
    with zipfile.ZipFile(kept, "w") as archive:
        archive.writestr("model.json", text.encode("latin-1"))
        archive.writestr("arrays.safetensors", numbers)
    refused(kept)


def test_a_row_of_a_level_there_is_not_is_refused(small, tmp_path):
    designs = dict(small.training.designs)
    arrays = designs["1 | g"].arrays
    designs["1 | g"] = Design({**arrays, "codes": arrays["codes"] + 100})
    path = replace(small, training=replace(small.training, designs=designs)).save(tmp_path / "a")
    assert "a level of '1|g' that there is not" in refused(path)


# Killed


def test_killed_while_it_saves_leaves_the_old_file_or_the_new(tmp_path):
    """Ten kills at known bytes of the file, and ten at moments of their own."""
    script = Path(__file__).parent / "kill_saves.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path), "20"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["loaded"] == 20
    assert result["halfway"] == 10


def test_a_save_that_fails_leaves_the_old_file(small, tmp_path, monkeypatch):
    path = small.save(tmp_path / "fit.ranef")
    before = path.read_bytes()

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(rf.FileError, match="No space left on device"):
        small.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fit.ranef"]
