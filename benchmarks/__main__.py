"""All sections, one after another, in one run.

make bench                                        everything
make bench ARGS="--only Q1 J1 M1 --repeat 5"    some tables
make bench ARGS="--peers qmill pebble"            some peers, beside the baselines
"""

from __future__ import annotations

from benchmarks import command, engines, harness, jobs, maps, queues

if __name__ == "__main__":
    sections = queues, jobs, maps, command, engines
    harness.main(__doc__, *(module.section() for module in sections))
