"""A program for ezpq 0.2, with another import: records as a table, and plots of them."""

import tempfile
from pathlib import Path

import pandas as pd

import qmill.compat.ezpq as ezpq


def reciprocal(x):
    return 1 / x


with ezpq.Queue(4) as Q:
    for i in range(20):
        Q.put(reciprocal, i % 10, lane=i % 3, suppress_errors=True)
    Q.wait()
    output = Q.collect()

df = pd.DataFrame(output)
print(df.head()[["id", "output", "exitcode"]])

with tempfile.TemporaryDirectory() as folder:
    plt = ezpq.Plot(output).build(show_legend=False)
    plt.save(f"{folder}/quick.png")
    plt = ezpq.Plot(output).build(
        facet_by="lane", color_by="exitcode", color_pal=["red", "blue"], title="Errors in red"
    )
    plt.save(f"{folder}/lanes.png")
    sizes = [path.stat().st_size for path in Path(folder).iterdir()]

if list(df["exitcode"]) != [-1 if i % 10 == 0 else 0 for i in range(20)]:
    raise SystemExit("wrong exit codes")
if len(sizes) != 2 or min(sizes) < 1000:
    raise SystemExit("expected two pictures")
