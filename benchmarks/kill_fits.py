"""Fits a network beside groups, is killed at random moments, goes on, and compares the bytes.

    python benchmarks/kill_fits.py FOLDER KILLS

Each fit is killed once, at a moment after its first checkpoint was written. Prints how many were
taken up from their checkpoint, and how many ended with the bytes of the fit that nothing killed.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import ranef as rf


def table() -> dict:
    rng = np.random.default_rng(0)
    n, levels = 8_000, 300
    x, g = rng.uniform(-2, 2, n), rng.integers(0, levels, n)
    y = np.sin(2 * x) + rng.normal(0, 0.7, levels)[g] + rng.normal(0, 0.5, n)
    return {"x": x, "g": g.astype(str), "y": y}


def fitted(checkpoint: Path, answer: Path) -> None:
    """Fit, and write whether it was resumed and the digest of all that it says."""
    model = rf.Model("y ~ nn(x, hidden=[32, 16]) + (1 | g)")
    fit = model.fit(table(), method="svi", checkpoint=checkpoint, draws=200, progress=False)
    told = hashlib.sha256()
    for name in sorted(fit.posterior):
        told.update(np.asarray(fit.posterior[name]).tobytes())
    for _, value in sorted(fit.draws.points.items()):
        told.update(np.asarray(value).tobytes())
    answer.write_text(json.dumps([fit.resumed_from, told.hexdigest()]))


def start(checkpoint: Path, answer: Path) -> int:
    # A process of its own: what JAX runs in threads does not survive a fork.
    return os.spawnv(
        os.P_NOWAIT,
        sys.executable,
        [sys.executable, __file__, "fit", str(checkpoint), str(answer)],
    )


def main(folder: Path, kills: int) -> None:
    moments = random.Random(3)
    answer = folder / "answer.json"
    began = time.perf_counter()
    os.waitpid(start(folder / "whole", answer), 0)
    seconds = time.perf_counter() - began
    resumed, whole = json.loads(answer.read_text())
    assert resumed is None
    same = went_on = 0
    for kill in range(kills):
        checkpoint = folder / f"killed{kill}"
        child = start(checkpoint, answer)
        while not checkpoint.exists():
            time.sleep(0.01)
        answer.unlink(missing_ok=True)
        time.sleep(moments.uniform(0, 0.4 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.waitpid(start(checkpoint, answer), 0)
        resumed, told = json.loads(answer.read_text())
        went_on += resumed is not None
        same += told == whole
        print(kill + 1, went_on, same, file=sys.stderr, flush=True)
    print(json.dumps({"kills": kills, "resumed": went_on, "same": same}))


if __name__ == "__main__":
    if sys.argv[1] == "fit":
        fitted(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]))
