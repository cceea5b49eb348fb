"""Saves two fits over each other, is killed at random moments, and loads what is left.

Run by ``test_storage.py`` as a program: ``kill_saves.py FOLDER KILLS``.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import ranef as rf


def main(folder: Path, kills: int) -> None:
    rng = np.random.default_rng(0)
    table = {"y": rng.normal(size=2000), "g": np.arange(2000) % 500}
    # Some ten megabytes each, so that a save takes long enough to be interrupted.
    fits = [
        rf.Model("y ~ (1 | g)").fit(table, draws=2000, seed=seed, progress=False) for seed in (1, 2)
    ]
    answers = [fit.summary()["mean"].to_numpy().tobytes() for fit in fits]
    path = folder / "fit.ranef"
    began = time.perf_counter()
    for fit in fits:
        fit.save(path)
    each = (time.perf_counter() - began) / 2
    loaded = halfway = 0
    moments = random.Random(3)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            while True:
                for fit in fits:
                    fit.save(path)
        time.sleep(each * moments.uniform(0.1, 3.0))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        halved = list(folder.glob(".fit.ranef.*.partial"))
        halfway += len(halved) == 1
        for partial in halved:
            partial.unlink()
        loaded += rf.load(path).summary()["mean"].to_numpy().tobytes() in answers
    print(json.dumps({"loaded": loaded, "halfway": halfway}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
