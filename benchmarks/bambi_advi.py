"""A full posterior for 36,986 rows and 380 groups: ranef's svi beside bambi.

    python benchmarks/bambi_advi.py --peer PYTHON

PYTHON is an interpreter with bambi and nutpie, in an environment of its own. Both sides get the
same table and the same default formula; every fit is the first of its process, compilation
included, imports not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

FORMULA = "y ~ a + b + c + (1|zip)"

PEER = """
import sys, time, json, warnings, logging
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
import pandas as pd, numpy as np, bambi, pymc
data = pd.read_csv(sys.argv[1], dtype={"zip": str})
began = time.perf_counter()
model = bambi.Model("y ~ a + b + c + (1|zip)", data)
if sys.argv[2] == "advi":
    approx = model.fit(inference_method="vi", n=20000, progressbar=False)
    idata = approx.sample(1000)
else:
    idata = model.fit(inference_method="nutpie", draws=500, tune=500, chains=2, progressbar=False)
seconds = time.perf_counter() - began
posterior = idata.posterior
out = {n: [float(posterior[n].mean()), float(posterior[n].std())]
       for n in ("a", "b", "1|zip_sigma", "sigma")}
print(json.dumps({"seconds": seconds, "posterior": out,
                  "versions": f"bambi {bambi.__version__}, pymc {pymc.__version__}"}))
"""

OWN = """
import sys, json, pandas as pd, ranef as rf
data = pd.read_csv(sys.argv[1], dtype={"zip": str})
fit = rf.Model("y ~ a + b + c + (1|zip)").fit(data, method="svi", progress=False)
table = fit.summary()
out = {n: [table.loc[n, "mean"], table.loc[n, "sd"]] for n in ("a", "b", "1|zip_sigma", "sigma")}
print(json.dumps({"seconds": fit.seconds, "posterior": out, "versions": ""}))
"""


def run(python: str, code: str, *arguments: str) -> dict:
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    import machine
    import pandas as pd
    import posted_models

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="an interpreter with bambi and nutpie")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "table.csv")
        pd.DataFrame(posted_models.table(36_986)).to_csv(path, index=False)
        own = run(sys.executable, OWN, path)
        nuts = run(options.peer, PEER, path, "nutpie")
        advi = run(options.peer, PEER, path, "advi")
    print(f"{machine.describe('ranef', 'jax', 'numpyro')}; {nuts['versions']}\n")
    print("| | seconds | ratio | a | b | 1\\|zip_sigma | sigma |")
    print("|---|---|---|---|---|---|---|")
    named = {"ranef svi": own, "bambi, nutpie 2 x (500 + 500)": nuts, "bambi, ADVI 20,000": advi}
    for name, result in named.items():
        cells = [f"{m:.5f} ({s:.5f})" for m, s in result["posterior"].values()]
        ratio = result["seconds"] / own["seconds"]
        print(f"| {name} | {result['seconds']:.1f} | {ratio:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
