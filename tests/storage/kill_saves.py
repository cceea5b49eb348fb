"""Saves two fits over each other, is killed on the way, and loads what is left.

Half of the kills come at a byte that is known beforehand: the system ends a process that writes
past its limit of a file's size. The other half come at random moments, those of the renaming
included.

Run by ``test_fit_file.py`` as a program: ``kill_saves.py FOLDER KILLS``.
"""

import json
import os
import random
import resource
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
    size = path.stat().st_size
    moments = random.Random(3)
    loaded = halfway = 0
    for kill in range(kills):
        at_a_byte = kill % 2 == 0
        child = os.fork()
        if child == 0:
            if at_a_byte:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (size * kill // kills,) * 2)
            while True:
                for fit in fits:
                    fit.save(path)
        if not at_a_byte:
            time.sleep(each * moments.uniform(0.1, 3.0))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        halved = list(folder.glob(".fit.ranef.*.partial"))
        halfway += at_a_byte and len(halved) == 1
        for partial in halved:
            partial.unlink()
        loaded += rf.load(path).summary()["mean"].to_numpy().tobytes() in answers
    print(json.dumps({"loaded": loaded, "halfway": halfway}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
