"""All sections, one after another, in one run.

make bench                                        everything
make bench ARGS="--only Q1 J1 M1 --repeat 5"    some tables
make bench ARGS="--peers qmill pebble"            some peers, beside the baselines
"""

from __future__ import annotations

from benchmarks import command, harness, jobs, maps, queues

if __name__ == "__main__":
    harness.main(__doc__, queues.section(), jobs.section(), maps.section(), command.section())
