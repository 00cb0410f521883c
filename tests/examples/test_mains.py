"""What an unguarded `__main__` defines works in workers and messages, however it is run.

One program, below, is run in every way that people run Python, under every start method. It tells
what it found, one line a check, and opens with a line that appears twice if a worker runs it again.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from . import programs

JUPYTER_PLACES = [
    "HOME",
    "IPYTHONDIR",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
]
DRIVERS = Path(__file__).parent / "drivers"

# A console needs a blank line after each block and none inside, and prints the value of a bare
# expression. Each paragraph is a cell in Jupyter, so that the end redefines in later cells.
PROGRAM = """
import dataclasses
import enum
import typing
import qmill

print("top level")

def check(name, got, wanted):
    print(f"{name}: ok" if got == wanted else f"{name}: got {got!r}, wanted {wanted!r}")

FACTOR = 10

def scaled(number):
    return FACTOR * number

def factorial(number):
    return number * factorial(number - 1) if number else 1

def adder(amount):
    def add(number):
        return number + amount
    return add

check("function", qmill.run(scaled, 4).result(), 40)

check("keyword argument", qmill.run(scaled, number=4).result(), 40)

check("recursive function", qmill.run(factorial, 5).result(), 120)

check("lambda", qmill.run(lambda number: number + FACTOR, 4).result(), 14)

check("closure", qmill.run(adder(3), 4).result(), 7)

check("worker of a worker", qmill.run(lambda: qmill.run(scaled, 4).result()).result(), 40)

COUNT = 0

def count_one():
    global COUNT
    COUNT += 1

def count_two():
    count_one()
    count_one()
    return COUNT

check("global that two functions share", qmill.run(count_two).result(), 2)

check("global of the parent", COUNT, 0)

def through_worker(function, *items):
    q, out = qmill.Q(), qmill.Q()
    worker = qmill.run(function, q, out)
    for order, item in enumerate(items):
        q.put(item, order=order)
    q.stop([worker])
    return [msg.data for msg in out.items(sort=True)]

def call(q, out):
    for msg in q:
        out.put(msg.data(5), order=msg.order)

check("functions as messages",
      through_worker(call, lambda number: number + 1, adder(2), scaled), [6, 7, 50])

class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y
    def flipped(self):
        return type(self)(self.y, self.x)

class Pixel(Point):
    def __init__(self, x, y, color=None):
        super().__init__(x, y)
        self.color = color

class Color(enum.Enum):
    RED = 1
    GREEN = 2

@dataclasses.dataclass(frozen=True)
class Pair:
    left: Point
    color: Color

class Size(typing.NamedTuple):
    width: int
    height: int

class Outer:
    class Inner:
        pass

check("instance as result", type(qmill.run(Point, 1, 2).result()) is Point, True)

class Failure(Exception):
    pass

def fail():
    raise Failure

check("exception of its own", type(qmill.run(fail).exception()) is Failure, True)

def same_and_new(q, out):
    for msg in q:
        point = msg.data
        seen = (isinstance(point, Point), type(point) is Point, type(point) is Pixel)
        out.put((seen, point, point.flipped(), Point(7, 8)), order=msg.order)

def judge(answer):
    seen, same, flipped, new = answer
    kind = Pixel if seen[2] else Point
    return seen, type(same) is kind, type(flipped) is kind, type(new) is Point, flipped.x

check("instances both ways",
      [judge(answer) for answer in through_worker(same_and_new, Point(1, 2), Pixel(3, 4))],
      [((True, True, False), True, True, True, 2), ((True, False, True), True, True, True, 4)])

def other_kinds(q, out):
    for msg in q:
        pair, size, inner, cls = msg.data
        seen = (isinstance(pair, Pair), isinstance(pair.left, Point), pair.color is Color.RED,
                isinstance(size, Size), isinstance(inner, Outer.Inner), cls is Point)
        out.put((all(seen), Pair(pair.left, Color.GREEN), Size(1, 2), Outer.Inner(), Pixel))

def judge_other_kinds(seen, pair, size, inner, cls):
    return (seen, isinstance(pair, Pair), isinstance(pair.left, Point), pair.color is Color.GREEN,
            isinstance(size, Size), isinstance(inner, Outer.Inner), cls is Pixel)

check("dataclass, enum, named tuple, nested class, class itself",
      [judge_other_kinds(*answer) for answer in through_worker(
          other_kinds, (Pair(Point(1, 2), Color.RED), Size(3, 4), Outer.Inner(), Point))],
      [(True,) * 7])

check("bound method", isinstance(qmill.run(Pixel(1, 2).flipped).result(), Pixel), True)

def make(points):
    for number in range(300):
        points.put(Point(number, 0))

def count_points(points, counts):
    counts.put([isinstance(msg.data, Point) for msg in points].count(True))

def worker_to_worker():
    points, counts = qmill.Q(), qmill.Q()
    counters = [qmill.run(count_points, points, counts) for _ in range(2)]
    makers = [qmill.run(make, points) for _ in range(2)]
    for maker in makers:
        maker.join()
    points.stop(counters)
    return sum(msg.data for msg in counts.items())

check("instances from worker to worker", worker_to_worker(), 600)

def there_and_back(queue, item):
    queue.put(item)
    return queue.get()

check("plain queue in one process", type(there_and_back(qmill.Queue(), Point(1, 2))) is Point, True)

check("thread queue", there_and_back(qmill.Q("thread"), Point).data is Point, True)

check("thread worker", qmill.run_thread(lambda: Point).result() is Point, True)

class Refused(Exception):
    def __init__(self, number, *, why):
        super().__init__(number)
        self.why = why
    def __reduce__(self):
        return rebuild_refused, (self.args[0], self.why)

def rebuild_refused(number, why):
    return Refused(number, why=why)

def refuse(number):
    raise Refused(number, why="odd")

def refusal():
    try:
        qmill.run(refuse, 3).result()
    except Refused as error:
        return error.args, error.why

check("exception with a function to rebuild it", refusal(), ((3,), "odd"))

def scaled(number):
    return -number

check("function redefined", qmill.run(scaled, 4).result(), -4)

FACTOR = 100

check("global redefined", qmill.run(lambda number: number + FACTOR, 4).result(), 104)

class Point:
    version = 2
    def __init__(self, x, y):
        self.x = x
        self.y = y
    def flipped(self):
        return Point(self.y, self.x)

check("class redefined",
      [judge(answer) for answer in through_worker(same_and_new, Point(1, 2))],
      [((True, True, False), True, True, True, 2)])
"""

CHECKS = re.findall(r'^check\("(.*?)"', PROGRAM, re.MULTILINE)
EXPECTED = ["top level", *(f"{name}: ok" for name in CHECKS)]


def run_script(folder: Path, env: dict[str, str], text: str = PROGRAM) -> str:
    script = folder / "program.py"
    script.write_text(text, encoding="utf-8")
    return programs.run(str(script), env=env)


def run_stdin(folder: Path, env: dict[str, str], text: str = PROGRAM) -> str:
    return programs.run("-", stdin=text, env=env)


def run_dash_c(folder: Path, env: dict[str, str]) -> str:
    return programs.run("-c", PROGRAM, env=env)


def run_interactive(folder: Path, env: dict[str, str]) -> str:
    """Type into Python's own REPL, which writes its prompts to stderr."""
    no_prompts = "import sys; sys.ps1 = sys.ps2 = ''"
    leave = "\nraise SystemExit\n"  # at the end of its input it would write a line to stderr
    return programs.run("-i", "-c", no_prompts, stdin=PROGRAM + leave, env=env)


def run_console(folder: Path, env: dict[str, str]) -> str:
    """Type into `code.InteractiveConsole`, whose names are in no module at all."""
    return programs.run(str(DRIVERS / "console.py"), stdin=PROGRAM, env=env)


def run_jupyter(folder: Path, env: dict[str, str], text: str = PROGRAM) -> str:
    """Run in a Jupyter kernel without any configuration.

    The folder for its files has a short name: the path of a Unix socket has about 100 bytes.
    """
    with tempfile.TemporaryDirectory() as short:
        places = dict.fromkeys(JUPYTER_PLACES, short)
        return programs.run(str(DRIVERS / "kernel.py"), stdin=text, env=env | places)


WAYS: list[Callable[[Path, dict[str, str]], str]] = [
    run_script,
    run_stdin,
    run_dash_c,
    run_interactive,
    run_console,
    run_jupyter,
]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("run", WAYS, ids=lambda run: run.__name__.removeprefix("run_"))
def test_main_works_in_workers(
    run: Callable[[Path, dict[str, str]], str], method: str, tmp_path: Path
) -> None:
    output = run(tmp_path, {"QMILL_START_METHOD": method})
    assert output.splitlines() == EXPECTED


def test_program_has_its_checks() -> None:
    assert len(CHECKS) == len(set(CHECKS)) == PROGRAM.count("check(") - 1  # its definition
