"""What functions of a script see of it: the globals of their own moment, and the same objects.

Each case is a piece of program. It runs as a script without a guard, whose functions go to workers
by value; as one with a guard, which workers import; and with workers that are forked.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple

import pytest

from . import programs

GUARD = 'if __name__ == "__main__":\n'


class Case(NamedTuple):
    """A program in two parts: what it defines, and what it does; and what that prints."""

    top: str
    does: str
    prints: str


def source(case, way, more=""):
    """Write a case as a script."""
    top, does = textwrap.dedent(case.top), textwrap.dedent(case.does)
    start = 'qmill.set_start_method("fork")\n' if way == "fork" else ""
    if way == "guarded":
        does = GUARD + textwrap.indent(start + does, "    ")
    return f"import qmill\n{more}{top}\n{start}{does}"


CASES = {
    "a name that is bound anew": Case(
        """
        k = 1
        def f(x):
            return x * k
        """,
        """
        with qmill.JobQueue(1) as jobs:
            for k in (1, 2, 3):
                print(jobs.submit(f, 10).result(), jobs.put(f, 10).result(), end=" ")
                print(*jobs.map(f, [10]), *qmill.map(f, [10], max_workers=1))
        """,
        "10 10 10 10\n20 20 20 20\n30 30 30 30\n",
    ),
    "a helper that is defined anew": Case(
        """
        def helper():
            return "old"
        def work():
            return helper()
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(work).result())
            def helper():
                return "new"
            print(jobs.submit(work).result())
        """,
        "old\nnew\n",
    ),
    "a helper's helper and its global": Case(
        """
        depth = 1
        def inner():
            return depth
        def middle():
            return inner()
        def outer():
            return middle()
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(outer).result())
            depth = 2
            print(jobs.submit(outer).result())
            inner = lambda: -depth
            print(jobs.submit(outer).result())
        """,
        "1\n2\n-2\n",
    ),
    "a class that is defined anew": Case(
        """
        class Model:
            def predict(self):
                return "old"
        def work():
            return Model().predict()
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(work).result())
            class Model:
                def predict(self):
                    return "new"
            print(jobs.submit(work).result(), jobs.submit(Model().predict).result())
        """,
        "old\nnew new\n",
    ),
    "content that changes": Case(
        """
        class Settings:
            level = 0
        config, seen, names, settings = {"a": 1}, [], set(), Settings()
        def f():
            return config["a"], len(seen), sorted(names), settings.level
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(f).result())
            config["a"] = 2
            print(jobs.submit(f).result())
            seen.append(0)
            names.add("x")
            settings.level = 3
            print(jobs.submit(f).result())
        """,
        "(1, 0, [], 0)\n(2, 0, [], 0)\n(2, 1, ['x'], 3)\n",
    ),
    "jobs that wait keep their version": Case(
        """
        k = 0
        state = {"v": 0}
        def f():
            return k, state["v"]
        """,
        """
        with qmill.JobQueue(1, auto_start=False) as jobs:
            some = []
            for number in range(6):
                k = state["v"] = number
                some.append(jobs.put(f, priority=-number, lane=number % 2))
            jobs.start()
            print([job.result() for job in some])
        """,
        "[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]\n",
    ),
    "retries see the version of their put": Case(
        """
        k = 1
        calls = []
        def f():
            calls.append(k)
            if len(calls) < 3:
                raise ValueError
            return calls
        def other():
            return k
        """,
        """
        with qmill.JobQueue(1, auto_start=False) as jobs:
            first = jobs.put(f, retries=5)
            k = 2
            second = jobs.put(other)
            jobs.start()
            print(first.result(), second.result())
        """,
        "[1, 1, 1] 2\n",
    ),
    "a map takes the globals of its call": Case(
        """
        k = 1
        def f(x):
            return x * k
        """,
        """
        with qmill.JobQueue(1) as jobs:
            results = qmill.map(f, range(4), max_workers=1)
            others = jobs.map(f, range(4), buffersize=1)
            k = 100
            print(list(results), list(others))
            print(list(jobs.map(f, range(4))))
        """,
        "[0, 1, 2, 3] [0, 1, 2, 3]\n[0, 100, 200, 300]\n",
    ),
    "what an initializer has bound stays": Case(
        """
        model = None
        def load(name):
            global model
            model = name
        def f():
            return model
        """,
        """
        with qmill.JobQueue(1, initializer=load, initargs=("loaded",)) as jobs:
            print(jobs.submit(f).result())
            print(jobs.submit(f).result())
            model = "changed here"
            print(jobs.submit(f).result())
        """,
        "loaded\nloaded\nchanged here\n",
    ),
    "what a job has bound stays": Case(
        """
        count, cache = 0, {}
        def f():
            global count
            count += 1
            cache[count] = None
            return count, len(cache)
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(*(jobs.submit(f).result() for _ in range(3)))
            count = 10
            print(jobs.submit(f).result())
        """,
        "(1, 1) (2, 2) (3, 3)\n(11, 4)\n",
    ),
    "variables of a closure": Case(
        "",
        """
        def program():
            k, seen = 1, []
            def f(x):
                return x * k + len(seen)
            with qmill.JobQueue(1) as jobs:
                for k in (1, 2, 3):
                    print(jobs.submit(f, 10).result(), *jobs.map(f, [10]))
                    seen.append(k)
        program()
        """,
        "10 10\n21 21\n32 32\n",
    ),
    "a partial whose argument changes": Case(
        """
        import functools
        table = [1]
        def f(parts, x):
            return sum(parts) * x
        """,
        """
        call = functools.partial(f, table)
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(call, 10).result())
            table.append(1)
            print(jobs.submit(call, 10).result())
        """,
        "10\n20\n",
    ),
    "a decorator's variable": Case(
        """
        import functools
        def scaled(function):
            factor = 1
            @functools.wraps(function)
            def wrapper(x):
                return function(x) * factor
            def set_factor(value):
                nonlocal factor
                factor = value
            wrapper.set_factor = set_factor
            return wrapper
        """,
        """
        @scaled
        def f(x):
            return x
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(f, 10).result())
            f.set_factor(2)
            print(jobs.submit(f, 10).result())
        """,
        "10\n20\n",
    ),
    "methods and what is in arguments": Case(
        """
        k = 1
        def helper(x):
            return x * k
        class Scale:
            def __call__(self, x):
                return x * k
            def method(self, x):
                return helper(x)
        def apply(function, x):
            return function(x)
        """,
        """
        with qmill.JobQueue(1) as jobs:
            scale = Scale()
            for k in (1, 2):
                some = jobs.submit(scale, 10), jobs.submit(scale.method, 10)
                others = jobs.submit(apply, helper, 10), jobs.submit(apply, scale, 10)
                print(*(job.result() for job in (*some, *others)))
        """,
        "10 10 10 10\n20 20 20 20\n",
    ),
    "a table of functions": Case(
        """
        k = 1
        def one(x):
            return x + k
        def two(x):
            return -x
        TABLE = {"f": one}
        def f(x):
            return TABLE["f"](x)
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(f, 10).result())
            k = 5
            print(jobs.submit(f, 10).result())
            TABLE["f"] = two
            print(jobs.submit(f, 10).result())
        """,
        "11\n15\n-10\n",
    ),
    "objects that share parts": Case(
        """
        class Missing:
            pass
        MISSING = Missing()
        TABLE, OTHER = {"a": MISSING}, [0]
        def f(key, default=MISSING):
            return TABLE[key] is MISSING, default is MISSING, len(OTHER)
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(f, "a").result()[0::2])
            OTHER.append(1)
            print(jobs.submit(f, "a").result()[0::2])
            TABLE["b"] = MISSING
            print(jobs.submit(f, "b").result()[0::2])
        """,
        "(True, 1)\n(True, 2)\n(True, 2)\n",
    ),
    "an object that is known only by another one": Case(
        """
        class Missing:
            number = 1
            def __init__(self):
                self.own = [1]
        MISSING = Missing()
        TABLE = {"a": MISSING}
        def f(use):
            return TABLE["a"] is MISSING, TABLE["a"].own, MISSING.own
        """,
        """
        with qmill.JobQueue(1, max_jobs_per_worker=2) as jobs:
            print(jobs.submit(f, 0).result(), jobs.submit(f, 0).result())
            TABLE["b"] = 1
            print(jobs.submit(f, 0).result(), jobs.submit(f, 0).result())
            MISSING = Missing()
            print(jobs.submit(f, 0).result(), jobs.submit(f, 0).result())
            print(jobs.submit(f, 0).result(), jobs.submit(f, 0).result())
        """,
        "(True, [1], [1]) (True, [1], [1])\n" * 2 + "(False, [1], [1]) (False, [1], [1])\n" * 2,
    ),
    "a name that comes and goes": Case(
        """
        def f():
            return len([1])
        """,
        """
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(f).result())
            len = lambda _: "mine"
            print(jobs.submit(f).result())
            del len
            print(jobs.submit(f).result())
        """,
        "1\nmine\n1\n",
    ),
    "identity there and back": Case(
        """
        import enum
        class Color(enum.Enum):
            RED = 1
        class Point:
            def __init__(self, x):
                self.x = x
        class Trouble(Exception):
            pass
        class Default:
            def __reduce__(self):
                return "DEFAULT"
        DEFAULT = Default()
        def f(point, color, default=DEFAULT):
            assert type(point) is Point and color is Color.RED and default is DEFAULT
            return Point(point.x + 1), color, default
        def fail():
            raise Trouble("of this script")
        """,
        """
        with qmill.JobQueue(1) as jobs:
            for _ in range(2):
                point, color, default = jobs.submit(f, Point(1), Color.RED, DEFAULT).result()
                print(type(point) is Point, point.x, color is Color.RED, default is DEFAULT)
            try:
                jobs.submit(fail).result()
            except Trouble as error:
                print(error)
        worker = qmill.run(f, Point(5), Color.RED)
        point, color, default = worker.result()
        print(type(point) is Point, point.x, color is Color.RED, default is DEFAULT)
        """,
        "True 2 True True\nTrue 2 True True\nof this script\nTrue 6 True True\n",
    ),
    "a worker of its own": Case(
        """
        k, table = 1, {"a": 1}
        def f(q):
            q.put((k, table["a"]))
            return k, table["a"]
        """,
        """
        q = qmill.Queue()
        for k in (1, 2):
            table["a"] = k
            print(qmill.run(f, q).result(), q.get())
        """,
        "(1, 1) (1, 1)\n(2, 2) (2, 2)\n",
    ),
    "a class's attributes": Case(
        """
        """,
        """
        class Config:
            debug = False
            levels = []
        def f():
            return Config.debug, Config.levels
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(f).result())
            Config.debug = True
            print(jobs.submit(f).result())
            Config.levels.append(1)
            print(jobs.submit(f).result())
        """,
        "(False, [])\n(True, [])\n(True, [1])\n",
    ),
}


@pytest.mark.parametrize("way", ["unguarded", "guarded", "fork"])
@pytest.mark.parametrize("name", CASES)
def test_a_script(name, way, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(source(CASES[name], way))
    assert programs.run(str(path)) == CASES[name].prints


# -- scripts that are imported ---------------------------------------------------------------------


def write(folder, text, name="script.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_guarded_script_is_imported_once_a_worker_and_only_if_it_is_needed(tmp_path):
    path = write(
        tmp_path,
        """
        import os, pathlib, qmill, threading
        imports = pathlib.Path(__file__).with_name("imports")
        with imports.open("a") as file:
            print(__name__, file=file)
        lock = threading.Lock()
        def f(x):
            with lock:
                return os.getpid()
        if __name__ == "__main__":
            with qmill.JobQueue(1) as jobs:
                jobs.submit(os.getpid).result()
                print(len(imports.read_text().split()))
                print(len({jobs.submit(f, x).result() for x in range(5)}))
            print(len(imports.read_text().split()))
            qmill.run(f, 1).result()
            qmill.run(os.getpid).result()
            print(*imports.read_text().split())
        """,
    )
    assert programs.run(str(path)) == "1\n1\n2\n__main__ __mp_main__ __mp_main__\n"


def test_workers_that_the_import_would_start_are_refused(tmp_path):
    path = write(
        tmp_path,
        """
        import qmill
        def f(x):
            return x
        try:
            with qmill.JobQueue(1) as jobs:
                jobs.submit(f, 1).result()
        except qmill.SerializationError as error:
            print(error)
        if __name__ == "__main__":
            print("end")
        """,
    )
    told, end, _ = programs.run(str(path)).split("\n")
    assert end == "end"
    assert "the script starts workers at its top level" in told
    assert 'move that code below its `if __name__ == "__main__":`' in told


def test_a_script_whose_import_fails_is_named_with_the_reason(tmp_path):
    path = write(
        tmp_path,
        """
        import sys, qmill
        if __name__ != "__main__":
            raise OSError("no licence")
        def f(x):
            return x
        if __name__ == "__main__":
            with qmill.JobQueue(1) as jobs:
                for _ in range(2):
                    try:
                        jobs.submit(f, 1).result()
                    except qmill.SerializationError as error:
                        print(error)
        """,
    )
    lines = programs.run(str(path)).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "script.py cannot be imported in a worker, since it raises OSError: no lice" in line


def test_a_module_that_is_run_is_imported_as_such(tmp_path):
    package = tmp_path / "pack"
    package.mkdir()
    write(package, "FACTOR = 3", "__init__.py")
    write(
        package,
        """
        import qmill
        from . import FACTOR
        OTHER = object()
        def f(x, other=OTHER):
            return x * FACTOR, other is OTHER, __package__
        if __name__ == "__main__":
            print(qmill.run(f, 2).result(), *qmill.map(f, [3], max_workers=1))
        """,
        "tool.py",
    )
    code = "import runpy, sys, os; os.chdir(sys.argv[1]); sys.path.insert(0, ''); "
    code += "import subprocess; subprocess.run([sys.executable, '-m', 'pack.tool'], check=True)"
    assert programs.run("-c", code, str(tmp_path)) == "(6, True, 'pack') (9, True, 'pack')\n"


def test_what_an_import_makes_need_not_be_sendable(tmp_path):
    path = write(
        tmp_path,
        """
        import contextvars, os, qmill, threading
        lock, local, log = threading.Lock(), threading.local(), os.fdopen(os.dup(1), "w")
        var = contextvars.ContextVar("var", default=7)
        class Guarded:
            lock = threading.Lock()
            def call(self):
                with self.lock, lock:
                    local.x = var.get()
                    assert log.writable()
                    return local.x
        def f(guarded):
            return type(guarded) is Guarded and guarded.call()
        if __name__ == "__main__":
            with qmill.JobQueue(1) as jobs:
                print(jobs.submit(f, Guarded()).result(), jobs.submit(Guarded().call).result())
            q = qmill.Queue()
            worker = qmill.run(lambda q: f(q.get()), q)
            q.put(Guarded())
            print(worker.result(), type(qmill.run(Guarded).result()) is Guarded)
            log.close()
        """,
    )
    assert programs.run(str(path)) == "7 7\n7 True\n"


@pytest.mark.parametrize("way", ["unguarded", "guarded"])
@pytest.mark.parametrize(
    ("top", "does", "told"),
    [
        ("", "lock = threading.Lock()", "the global 'lock', a _thread.lock"),
        ("lock = None", "lock = threading.Lock()", "the global 'lock', a _thread.lock"),
        ("", "lock = (x for x in 'abc')", "the global 'lock', a builtins.generator"),
    ],
)
def test_what_can_go_neither_way_fails_at_once(top, does, told, way, tmp_path):
    case = Case(
        f"""
        import threading, os
        {top}
        def helper():
            return lock
        def f():
            open(__file__ + ".began", "w").close()
            return helper()
        """,
        f"""
        {does}
        with qmill.JobQueue(1) as jobs:
            job = jobs.submit(f)
            print(type(job.exception()).__name__, job.exception())
        print(os.path.exists(__file__ + ".began"))
        """,
        "",
    )
    path = write(tmp_path, source(case, way))
    message, began, _ = programs.run(str(path)).split("\n")
    assert began == "False"
    assert message.startswith("SerializationError ")
    assert "f -> global 'helper' -> global 'lock'" in message or "f -> global 'lock'" in message
    assert told in message
    assert "initializer" in message
    assert 'start_method="fork"' in message or "start_method='fork'" in message
    assert ("__main__" in message.partition("worker:")[2]) == (way == "unguarded")


def test_a_large_object_that_may_change_is_told_of_once(tmp_path):
    path = write(
        tmp_path,
        """
        import qmill, warnings
        table = list(range(100_000))
        text = "x" * 1_000_000
        def f():
            return len(table), table[0], len(text)
        with warnings.catch_warnings(record=True) as told, qmill.JobQueue(1) as jobs:
            warnings.simplefilter("always")
            print(jobs.submit(f).result(), len(told))
            print(jobs.submit(f).result(), len(told))
            print(jobs.submit(f).result(), len(told), told[0].category.__name__)
            print("the global 'table', a list," in str(told[0].message))
            print(told[0].filename == __file__)
            table = [5]
            print(jobs.submit(f).result(), len(told))
        """,
    )
    assert programs.run(str(path)) == (
        "(100000, 0, 1000000) 0\n(100000, 0, 1000000) 1\n(100000, 0, 1000000) 1 RuntimeWarning\n"
        "True\nTrue\n(1, 5, 1000000) 1\n"
    )


def test_a_closure_of_a_module_uses_the_modules_globals(tmp_path):
    write(
        tmp_path,
        """
        import threading
        lock, table = threading.Lock(), list(range(1_000_000))
        def make(number):
            def inner(x):
                with lock:
                    return table[x] + number
            return inner
        """,
        "helpers.py",
    )
    path = write(
        tmp_path,
        """
        import qmill, helpers
        from helpers import lock, table
        def f(x):
            with lock:
                return table[x]
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(helpers.make(1), 5).result(), jobs.submit(f, 5).result())
        print(qmill.run(helpers.make(2), 5).result())
        """,
    )
    assert programs.run(str(path)) == "6 5\n7\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_in_a_worker_of_the_standard_library(method, tmp_path):
    path = write(
        tmp_path,
        """
        import multiprocessing, sys
        from concurrent.futures import ProcessPoolExecutor
        import qmill
        class S:
            def __init__(self, v):
                self.v = v
            def __setstate__(self, state):
                self.__dict__.update(state)
        factor = 1
        def square(x):
            return x * x * factor
        def work(n):
            return list(qmill.map(square, range(n), max_workers=1))
        def put(q):
            q.put(S(5))
            return qmill.run(square, 3).result()
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                print(pool.submit(work, 4).result())
                q = qmill.Queue()
                print(pool.submit(put, q).result(), q.get().v)
            with context.Pool(1) as pool:
                print(pool.map(work, [3]), pool.apply(put, (q,)), type(q.get()) is S)
        """,
    )
    assert programs.run(str(path), method) == "[0, 1, 4, 9]\n9 5\n[[0, 1, 4]] 9 True\n"


@pytest.mark.parametrize("way", ["unguarded", "guarded"])
def test_a_traceback_shows_file_line_and_source(way, tmp_path):
    case = Case(
        """
        def helper(x):
            return 1 / x  # the line
        def f(x):
            return helper(x)
        """,
        """
        with qmill.JobQueue(1) as jobs:
            errors = jobs.submit(f, 0).exception(), qmill.run(f, 0).exception()
            lambda_error = jobs.submit(lambda: helper(0)).exception()
        for error in (*errors, lambda_error):
            print(error.__cause__)
        """,
        "",
    )
    path = write(tmp_path, source(case, way))
    told = programs.run(str(path))
    assert told.count(f'File "{path}", line 4, in helper\n    return 1 / x  # the line\n') == 3
    assert told.count("in f\n    return helper(x)\n") == 2


def test_a_traceback_shows_the_source_of_a_notebooks_cell(tmp_path):
    path = write(
        tmp_path,
        """
        import linecache, qmill
        cell = "def f(x):\\n    return 1 / x  # the line\\n"
        linecache.cache["<cell 1>"] = len(cell), None, cell.splitlines(True), "<cell 1>"
        exec(compile(cell, "<cell 1>", "exec"))
        print(qmill.run(f, 0).exception().__cause__)
        with qmill.JobQueue(1) as jobs:
            print(jobs.submit(f, 0).exception().__cause__)
        """,
    )
    told = programs.run(str(path))
    assert told.count('File "<cell 1>", line 2, in f\n    return 1 / x  # the line\n') == 2
