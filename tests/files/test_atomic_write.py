"""Temporary files are new, private and gone afterwards; what is no file is refused at once."""

import os
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import ranef as rf
from ranef.cli.main import main
from ranef.data import parquet, tables
from ranef.files import archive, atomic_write
from ranef.inference.checkpoint import Checkpoint
from ranef.report.page import Page

TABLE = {"y": np.arange(12.0) % 5, "g": np.arange(12) % 3}


@pytest.fixture(scope="module")
def fit() -> rf.Fit:
    return rf.Model("y ~ (1 | g)").fit(TABLE, draws=20, progress=False)


def _checkpoint(path: Path) -> None:
    Checkpoint(path, "this").offer({"a": np.arange(3.0)})


# Everything that the library writes, by the function that writes it.
WRITERS = {
    "fit": lambda fit, path: fit.save(path),
    "archive": lambda _, path: archive.write(path, {}, {"a": np.arange(3.0)}),
    "checkpoint": lambda _, path: _checkpoint(path),
    "report": lambda _, path: Page("title", "", ()).write(path),
    "text": lambda _, path: atomic_write.write_whole(path, "text"),
    "csv": lambda _, path: tables.write(path.with_suffix(".csv"), TABLE),
    "parquet": lambda _, path: tables.write(path.with_suffix(".parquet"), TABLE),
    "frames": lambda _, path: tables.write_csv(path, iter([tables.from_arrays(TABLE)])),
}
SUFFIX = {"csv": ".csv", "parquet": ".parquet"}


@pytest.fixture(params=WRITERS)
def writer(request, fit):
    """A function that writes to a path, and the name that it gives the file `target`."""
    return lambda path: WRITERS[request.param](fit, path), "target" + SUFFIX.get(request.param, "")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_what_the_umask_leaves(writer, tmp_path):
    write, name = writer
    before = os.umask(0o027)
    try:
        write(tmp_path / name)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / name) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660])
def test_a_replaced_file_keeps_its_permissions(writer, mode, tmp_path):
    write, name = writer
    (tmp_path / name).write_text("old")
    (tmp_path / name).chmod(mode)
    write(tmp_path / name)
    assert mode_of(tmp_path / name) == mode
    assert (tmp_path / name).read_bytes() != b"old"


def test_a_link_planted_at_a_foreseeable_name_is_not_followed(writer, tmp_path):
    write, name = writer
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for planted in (f".{name}.partial", f"{name}.partial", f".{name}.tmp"):
        (tmp_path / planted).symlink_to(victim)
    write(tmp_path / name)
    assert victim.read_text() == "precious"


def test_a_taken_temporary_name_is_refused_and_left(tmp_path, monkeypatch):
    """Were the random name foreseen after all, the link there would still not be followed."""
    monkeypatch.setattr(atomic_write.secrets, "token_hex", lambda _: "known")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = tmp_path / ".target.known.partial"
    planted.symlink_to(victim)
    with pytest.raises(rf.FileError, match="'.*target' cannot be written"):
        atomic_write.write_whole(tmp_path / "target", "text")
    assert victim.read_text() == "precious"
    assert planted.is_symlink()
    assert not (tmp_path / "target").exists()


def test_nobody_else_reads_the_temporary_file_of_a_private_one(tmp_path):
    target = tmp_path / "target"
    target.write_text("old")
    target.chmod(0o600)
    with atomic_write.replacing(target) as file:
        file.write(b"secret")
        (partial,) = tmp_path.glob(".target.*.partial")
        assert mode_of(partial) == 0o600


def test_two_savers_do_not_share_a_file(tmp_path):
    target = tmp_path / "target"
    texts = [bytes([65 + i]) * 200_000 for i in range(4)]
    halfway = threading.Barrier(len(texts))

    def save(text: bytes) -> None:
        with atomic_write.replacing(target) as file:
            file.write(text[:100_000])
            halfway.wait()
            file.write(text[100_000:])

    savers = [threading.Thread(target=save, args=(text,)) for text in texts]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    assert target.read_bytes() in texts
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_alone(error, tmp_path):
    target = tmp_path / "target"
    target.write_text("old")

    def fail() -> None:
        with atomic_write.replacing(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises((rf.FileError, KeyboardInterrupt)):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(writer, tmp_path):
    write, name = writer
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real"
    real.write_text("old")
    real.chmod(0o600)
    (tmp_path / name).symlink_to("there/real")
    write(tmp_path / name)
    assert (tmp_path / name).is_symlink()
    assert real.read_bytes() != b"old"
    assert mode_of(real) == 0o600
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["real"]


def test_a_link_that_leads_nowhere_makes_its_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new")
    atomic_write.write_whole(tmp_path / "link", "text")
    assert (tmp_path / "new").read_text() == "text"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(rf.FileError, match="leads back to itself"):
        atomic_write.write_whole(tmp_path / "loop", "text")


def test_a_name_as_long_as_the_system_allows(tmp_path):
    for name in ("a" * 255, "\N{GRINNING FACE}" * 63):
        atomic_write.write_whole(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


# What is no file

KINDS = {
    "device": "a device",
    "fifo": "a FIFO",
    "socket": "a socket",
    "link": "a device",
}


@pytest.fixture(params=KINDS)
def special(request, tmp_path, monkeypatch):
    """A path of something without an end, with and without a suffix, and what it is."""
    kind = request.param
    # A socket's name has 107 characters at most, so it is bound from its own folder.
    monkeypatch.chdir(tmp_path)
    made = {}
    for suffix in ("", ".csv", ".parquet", ".ranef"):
        path = tmp_path / f"x{suffix}"
        if kind == "device":
            path = Path("/dev/zero")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(path.name)
        else:
            path.symlink_to("/dev/zero")
        made[suffix] = path
    return made, KINDS[kind]


def test_nothing_without_an_end_is_read(special):
    made, what = special
    for path in made.values():
        for read in (
            rf.load,
            rf.Model("y ~ x").fit,
            tables.read,
            lambda path: next(tables.scan_csv(path)),
            lambda path: parquet.batches(path, ["x"]),
            lambda path: Checkpoint(path, "this").load(),
        ):
            with pytest.raises(rf.FileError, match=f"cannot be read: it is {what}"):
                read(path)


def test_predictions_are_not_asked_of_a_device(fit):
    with pytest.raises(rf.FileError, match="cannot be read: it is a device"):
        fit.predict("/dev/zero")


def test_nothing_but_a_file_is_written_over(special, fit):
    made, what = special
    for name, write in WRITERS.items():
        path = made[SUFFIX.get(name, "")]
        before = os.stat(path).st_mode
        target = path if path.name == "zero" else path.with_suffix("")
        if path.name == "zero" and name in SUFFIX:
            continue
        with pytest.raises(rf.FileError, match=rf"cannot be written \(it is {what}"):
            write(fit, target)
        assert os.stat(path).st_mode == before


def test_the_command_says_so_before_it_works(special, capsys, tmp_path):
    made, what = special
    tables.write(tmp_path / "rows.csv", TABLE)
    assert main(["fit", str(tmp_path / "rows.csv"), "y ~ 1", "--out", str(made[""])]) == 1
    assert f"it is {what}" in capsys.readouterr().err
    assert main(["fit", str(made[".csv"]), "y ~ 1", "--out", str(tmp_path / "a")]) == 1
    assert f"it is {what}" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["a\0b.csv", "a\ud800.csv", "x" * 300 + ".csv"])
def test_a_name_that_no_file_can_have(path, fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (rf.load, rf.Model("y ~ x").fit, fit.predict, lambda p: next(tables.scan_csv(p))):
        with pytest.raises(rf.FileError):
            read(path)
    for write in WRITERS.values():
        with pytest.raises(rf.FileError, match="cannot be written"):
            write(fit, Path(path))
    assert main(["zillow", "--out", path]) == 1


def test_a_folder_is_no_place_for_a_file(writer, tmp_path):
    write, name = writer
    (tmp_path / name).mkdir()
    with pytest.raises(rf.FileError, match=r"cannot be written \(it is a folder\)"):
        write(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_without_an_end_in_sight_is_refused(tmp_path):
    """A hole of 4 TB: what reads it all never ends, or takes all memory."""
    for name in ("hole.csv", "hole.parquet", "hole.ranef"):
        path = tmp_path / name
        path.touch()
        with suppress(OSError):  # the file system may not allow 4 TB; less will do
            os.truncate(path, 1 << 42)
        if path.stat().st_size == 0:
            os.truncate(path, 1 << 40)
        with pytest.raises(rf.FileError):
            rf.load(path) if name.endswith("ranef") else rf.Model("y ~ x").fit(path)


def test_a_folder_is_probed_without_following_a_link(tmp_path):
    victim = tmp_path / "victim"
    (tmp_path / f".ranef-{os.getpid()}").symlink_to(victim)
    atomic_write.refuse_unwritable_folder(tmp_path)
    assert not victim.exists()
    with pytest.raises(rf.FileError, match="cannot be written to"):
        atomic_write.refuse_unwritable_folder(tmp_path / "none")
