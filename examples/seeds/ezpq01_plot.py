"""A program for ezpq 0.1, with another import: a plot of jobs with and without precedence."""

import tempfile
from pathlib import Path

import pandas as pd

import qmill.compat.ezpq01 as ezpq

with ezpq.Queue(n_workers=2) as Q:
    for x in range(30):
        Q.put(str, args=[x], priority=int((x + 1) % 5 != 0))  # 0 goes before 1
    Q.wait()
    output = Q.collect()

df = pd.DataFrame(output)
print(df[["name", "output"]].head())

with tempfile.TemporaryDirectory() as folder:
    ezpq.Plot(output).build().save(f"{folder}/quick.png")
    plt = ezpq.Plot(output, color_by="priority", title="The lower goes first.").build()
    plt.save(f"{folder}/priority.png")
    sizes = [path.stat().st_size for path in Path(folder).iterdir()]

if [job["id"] for job in output[:6]] != [5, 10, 15, 20, 25, 30]:
    raise SystemExit("expected the multiples of 5 first")
if len(sizes) != 2 or min(sizes) < 1000:
    raise SystemExit("expected two pictures")
