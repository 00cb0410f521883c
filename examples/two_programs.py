"""Two programs, started by themselves, that share a queue by its name; one of them is killed.

    write ── put ──▶ Q(name="orders") ──▶ read, which is killed in the middle, and started again

In two terminals, the reader as often as you like:

    python examples/two_programs.py write
    python examples/two_programs.py read

Without an argument this starts them, kills the reader while it works on order 300, starts another,
and tells what arrived. A message counts as done when its reader asks for the next one, so the order
that the dead one had in its hands comes again: nothing is lost, and at most that one is seen twice.
"""

from __future__ import annotations

import subprocess
import sys
import threading

import qmill

NAME = "orders"
ORDERS = 1000
HARD_ORDER = 300


def write() -> None:
    orders = qmill.Q(name=NAME)
    for number in range(ORDERS):
        orders.put(number)
    orders.end()
    orders.join()  # until the last one is done; the queue lives as long as anybody has it open


def read(hard: int | None = None) -> None:
    for msg in qmill.Q(name=NAME):
        print(msg.data, flush=True)
        if msg.data == hard:
            threading.Event().wait()  # this one takes for ever


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
    )


def play() -> None:
    writer, reader = start("write"), start("read", str(HARD_ORDER))
    assert reader.stdout is not None
    first = [int(reader.stdout.readline()) for _ in range(HARD_ORDER + 1)]
    reader.kill()
    reader.communicate()
    second = [int(line) for line in start("read").communicate()[0].split()]
    writer.communicate()
    print(f"{ORDERS} orders were written")
    print(f"the first reader was killed with order {first[-1]}; the second began with {second[0]}")
    missing = set(range(ORDERS)).difference(first, second)
    print(f"missing: {len(missing)}, twice: {len(set(first).intersection(second))}")


match sys.argv[1:]:
    case ["write"]:
        write()
    case ["read", *hard]:
        read(*map(int, hard))
    case _:
        play()
