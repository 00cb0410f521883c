"""What is started to be a worker where `sys.executable` is no Python: frozen and embedded programs.

A frozen program is played by a shell script that runs Python on the program's source. It writes a
line for each time that it is started, and so does a program that must not be run at all.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

import qmill
from qmill.processes import launch
from qmill.system import interpreter

from .programs import LIMIT_S, ROOT, Watch

ENVIRON = {
    # An embedded Python, and one behind a wrapper, has no virtual environment.
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "PYTHONWARNINGS": "error,ignore:This process:DeprecationWarning",
}

JOBS = """
def double(x):
    return 2 * x

def jobs(**options):
    with qmill.JobQueue(2, **options) as queue:
        return [job.result(20) for job in [queue.submit(double, i) for i in range(3)]]

def named():
    os.environ["QMILL_TRANSPORT"] = "portable"
    queue = qmill.Queue(name="by a broker")
    queue.put("put")
    return qmill.run(lambda: qmill.Queue(name="by a broker").get()).result(20)
"""


class Executable:
    """A file that can be run and counts how often it was."""

    def __init__(self, path: Path, command: str) -> None:
        self.path = path
        self._counts = path.with_name(f"{path.name}.counts")
        self._counts.touch()
        path.write_text(f'#!/bin/sh\necho >> "{self._counts}"\n{command}\n')
        path.chmod(0o755)

    @property
    def num_starts(self) -> int:
        return len(self._counts.read_text())


def start(*command, environ=ENVIRON):
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environ,
        encoding="utf-8",
        start_new_session=True,
    )


def finish(program):
    """Return output, errors and exit status of a program; it and its children end in any case."""
    try:
        output, errors = program.communicate(timeout=LIMIT_S)
        return output, errors, program.returncode
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.communicate()


def run(*command, **options):
    output, errors, status = finish(start(*command, **options))
    assert (errors, status) == ("", 0), output
    return output


@pytest.fixture
def freeze(tmp_path):
    """Makes frozen programs: of what `main` does, after a support that is called first."""

    def freeze(main, support="qmill.freeze_support()"):
        source = tmp_path / "source.py"
        program = Executable(
            tmp_path / "program",
            f'[ "$(wc -l < "{tmp_path}/program.counts")" -lt 20 ] || exit 99\n'
            f'exec "{sys.executable}" "{source}" "$@"',
        )
        source.write_text(
            f"import os, signal, sys\nsys.frozen = True\nsys.executable = {str(program.path)!r}\n"
            f"import qmill\n{JOBS}\nif __name__ == '__main__':\n"
            + textwrap.indent(f"{support}\n{textwrap.dedent(main)}", "    ")
        )
        return program

    return freeze


# -- frozen programs ------------------------------------------------------------------------------


def test_a_frozen_program(freeze):
    program = freeze(
        """
        print(qmill.get_start_method(), jobs(), list(qmill.map(double, [1, 2])), named())
        print(qmill.run(lambda: qmill.run(double, 21).result()).result())  # two levels
        print(qmill.run(eval, "sys.argv[1:]", {"sys": sys}).result(), os.environ.get("QMILL_MARK"))
        """
    )
    assert run(program.path, "-c", "from here", "--flag").splitlines() == [
        "forkserver [0, 2, 4] [2, 4] put",
        "42",
        "['-c', 'from here', '--flag'] None",
    ]
    assert program.num_starts == 4  # itself, two fork servers, a broker


def test_a_frozen_program_that_spawns(freeze):
    program = freeze('print(jobs(start_method="spawn"))')
    assert run(program.path) == "[0, 2, 4]\n"
    assert program.num_starts == 3


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_multiprocessing_starts_in_a_frozen_program(freeze, method):
    """Its workers, and its tracker of shared memory, which is started by `-c`."""
    program = freeze(
        f"""
        import multiprocessing
        from multiprocessing import shared_memory
        memory = shared_memory.SharedMemory(create=True, size=10)
        context = multiprocessing.get_context({method!r})
        with context.Pool(1) as pool:
            print(pool.map(abs, [-1]))
        print(qmill.run(lambda: memory.size >= 10).result())
        memory.unlink()
        """
    )
    assert run(program.path) == "[1]\nTrue\n"


@pytest.mark.parametrize("support", ["pass", "import multiprocessing as m; m.freeze_support()"])
def test_a_frozen_program_of_which_nothing_is_known_forks(freeze, support):
    program = freeze(
        """
        from multiprocessing import shared_memory  # which needs a tracker, if there is one
        print(qmill.get_start_method(), jobs(), list(qmill.map(double, [1, 2])), named())
        for method in ("spawn", "forkserver"):
            for start in (jobs, lambda **options: qmill.Worker(int, **options)):
                try:
                    start(start_method=method)
                except qmill.NotSupported as error:
                    print("qmill.freeze_support()" in str(error))
        """,
        support,
    )
    assert run(program.path) == "fork [0, 2, 4] [2, 4] put\n" + "True\n" * 4
    assert program.num_starts == 1


SOMETIMES = "if not os.environ.get('QMILL_STARTED_BY'): qmill.freeze_support()"


@pytest.mark.parametrize(
    "first",
    [
        "jobs()",
        "qmill.run(int)",
        "jobs(start_method='spawn')",
        "qmill.Worker(int, start_method='spawn')",
        "named()",
    ],
)
def test_a_copy_that_is_no_worker_is_the_last_one(freeze, first):
    program = freeze(
        f"""
        try:
            {first}
        except OSError as error:
            print(error)
        try:
            qmill.Worker(int, start_method="forkserver")
        except qmill.NotSupported as error:
            print("refused")
        print(qmill.get_start_method(), jobs(), named())
        """,
        SOMETIMES,
    )
    output, errors, status = finish(start(program.path))
    assert (status, program.num_starts) == (0, 2)
    told = f"{program.path} was started to be a worker, but ran the program instead. "
    assert output.startswith(told + "`qmill.freeze_support()` must be called")
    assert output.endswith("\nrefused\nfork [0, 2, 4] put\n")
    if first != "named()":  # a broker prints nothing
        assert "to be a worker, but has run the program instead" in errors


@pytest.mark.parametrize(
    "refused", ["jobs()", "jobs(start_method='fork')", "qmill.run(int)", "named()", "list(map_)"]
)
def test_what_a_copy_is_refused(freeze, refused):
    """Also a fork, and a named queue's broker."""
    program = freeze(f"map_ = (qmill.map(double, [i])[0] for i in [1])\n{refused}", "pass")
    environ = ENVIRON | {"QMILL_STARTED_BY": "1234"}
    _, errors, status = finish(start(program.path, environ=environ))
    assert status == 1
    assert "RuntimeError: this process was started by process 1234 to be a worker" in errors
    assert program.num_starts == 1


def test_a_copy_that_does_not_end_is_killed(freeze):
    program = freeze(
        """
        os.write(1, b"%d\\n" % os.getpid())
        if os.environ.get("QMILL_STARTED_BY"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            while True:
                signal.pause()
        qmill.run(int)
        """,
        SOMETIMES,
    )
    started = start(program.path)
    _, copy = [int(started.stdout.readline()) for _ in range(2)]
    watch = Watch([copy])
    started.send_signal(signal.SIGINT)
    _, errors, _ = finish(started)
    assert "KeyboardInterrupt" in errors
    assert watch.wait() == []


HOLDS = """
signal.signal(signal.SIGINT, signal.default_int_handler)
queue = qmill.Queue()
def hold():
    queue.put(os.getpid())
    signal.pause()
workers = [qmill.Worker(hold, start_method=m) for m in ("forkserver", "spawn")]
pids = [queue.get() for _ in workers]
os.write(1, (" ".join(map(str, pids)) + "\\n").encode())
workers[0].join()
"""


def test_nothing_outlives_a_frozen_program_that_is_killed(freeze):
    program = freeze(HOLDS)
    started = start(program.path)
    watch = Watch(map(int, started.stdout.readline().split()))
    started.kill()
    finish(started)
    assert watch.wait() == []


def test_ctrl_c_in_a_frozen_program(freeze):
    program = freeze(HOLDS)
    started = start(program.path)
    watch = Watch(map(int, started.stdout.readline().split()))
    os.killpg(started.pid, signal.SIGINT)
    _, errors, _ = finish(started)
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt\n") == 1
    assert watch.wait() == []


def test_freeze_support_does_nothing_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--multiprocessing-fork", "pipe_handle=0"])
    assert qmill.freeze_support() is None
    loaded = "import sys; before = set(sys.modules); import qmill; qmill.freeze_support(); "
    loaded += "print(sorted(set(sys.modules) - before - {'atexit', '_functools', '_operator'}))"
    told = ["__future__", "qmill", "qmill.system", "qmill.system.frozen", "qmill.system.lifecycle"]
    assert run(sys.executable, "-c", loaded) == f"{told}\n"


# -- programs that embed Python -------------------------------------------------------------------


def embed(executable, main, before=""):
    """Return a source that runs in a Python that does not know where it is."""
    named = repr(executable if executable is None else str(executable))
    return (
        f"import sys\nsys.executable = {named}\n{before}\nimport os, qmill\n{JOBS}\n"
        + textwrap.dedent(main)
    )


@pytest.fixture(params=["", None, "/usr/bin/false", "host", "python", "python3", "missing/python"])
def no_python(request, tmp_path):
    """What an embedded Python may have for `sys.executable`."""
    if request.param in ("host", "python", "python3"):
        executable = Executable(tmp_path / request.param, "exit 1")
        yield executable.path
        assert executable.num_starts == 0
    else:
        yield request.param


@pytest.mark.parametrize("before", ["", "from multiprocessing import shared_memory"])
def test_an_executable_that_is_no_python_is_never_run(no_python, before):
    source = embed(
        no_python,
        """
        print(qmill.get_start_method(), jobs(), named(), qmill.run(double, 1).result())
        for method in ("spawn", "forkserver"):
            try:
                jobs(start_method=method)
            except qmill.NotSupported as error:
                told = "multiprocessing.set_executable", repr(sys.executable)
                print([word in str(error) for word in told])
        """,
        before,
    )
    assert run(sys.executable, "-c", source) == "fork [0, 2, 4] put 2\n" + "[True, True]\n" * 2


def test_what_multiprocessing_was_told_to_start_is_started(tmp_path):
    chosen = Executable(tmp_path / "chosen", f'exec "{sys.executable}" "$@"')
    before = f"import multiprocessing; multiprocessing.set_executable({str(chosen.path)!r})"
    main = "print(qmill.get_start_method(), jobs(), named())"
    for executable in (None, sys.executable):
        before_num = chosen.num_starts
        source = embed(executable, main, before)
        assert run(sys.executable, "-c", source) == "forkserver [0, 2, 4] put\n"
        assert chosen.num_starts - before_num == 2


def test_what_was_chosen_may_be_no_python_either(tmp_path):
    chosen = Executable(tmp_path / "chosen", "exit 1")
    source = embed(
        None,
        """
        for start in (jobs, lambda: qmill.run(int).result()):
            try:
                start()
            except ChildProcessError as error:
                print(error)
        """,
        f"import multiprocessing; multiprocessing.set_executable({str(chosen.path)!r})",
    )
    told, _, status = finish(start(sys.executable, "-c", source))
    assert status == 0
    assert told.count("the fork server, which starts processes, has ended 3 times in a row") == 2


def test_an_executable_that_is_corrected_later(tmp_path):
    """What multiprocessing has from before was nobody's choice, and is the host itself."""
    host = Executable(tmp_path / "host", f'exec "{sys.executable}" "$@"')
    source = embed(
        "/proc/self/exe",
        "print(qmill.get_start_method(), jobs(), qmill.run(double, 1).result())",
        f"from multiprocessing import shared_memory\nsys.executable = {sys.executable!r}",
    )
    assert run(host.path, "-c", source) == "forkserver [0, 2, 4] 2\n"


HOST = r"""
#include <Python.h>

int main(int argc, char **argv)
{
    FILE *counts = fopen(getenv("COUNTS"), "a");
    fputc('\n', counts);
    fclose(counts);
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    PyConfig_SetBytesString(&config, &config.program_name, argv[0]);
    PyConfig_SetBytesArgv(&config, argc, argv);
    if (PyStatus_Exception(Py_InitializeFromConfig(&config)))
        return 2;
    PyConfig_Clear(&config);
    int status = PyRun_SimpleString(argv[1]);
    return Py_FinalizeEx() < 0 || status ? 1 : 0;
}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A program in C that embeds Python."""
    setting = sysconfig.get_config_var
    if shutil.which("gcc") is None:
        pytest.skip("there is no compiler")
    shared = Path(setting("LIBDIR")) / str(setting("LDLIBRARY"))
    static = Path(setting("LIBPL")) / str(setting("LIBRARY"))
    library = next((file for file in (shared, static) if file.exists()), None)
    if library is None:
        pytest.skip("this Python comes without its library")
    folder = tmp_path_factory.mktemp("host")
    (folder / "host.c").write_text(HOST)
    command = [
        "gcc",
        str(folder / "host.c"),
        "-I",
        setting("INCLUDEPY"),
        "-o",
        str(folder / "host"),
    ]
    command += [str(library), f"-Wl,-rpath,{library.parent}", *setting("LINKFORSHARED").split()]
    command += [*setting("LIBS").split(), *setting("SYSLIBS").split()]
    subprocess.run(command, check=True)
    return folder / "host"


@pytest.mark.parametrize(
    ("before", "method"),
    [
        ("", "fork"),
        (
            "import multiprocessing, os; multiprocessing.set_executable(os.environ['PY'])",
            "forkserver",
        ),
    ],
)
def test_a_program_in_c(host, before, method, tmp_path):
    counts = tmp_path / "counts"
    source = f"{before}\nimport os, sys, qmill\n{JOBS}\n"
    source += "print(os.path.basename(sys.executable), qmill.get_start_method(), jobs(), named())"
    environ = ENVIRON | {"COUNTS": str(counts), "PY": sys.executable}
    told = run(host, source, environ=environ)
    assert told == f"host {method} [0, 2, 4] put\n"
    assert len(counts.read_text()) == 1


def test_a_forked_broker_has_no_part_in_its_program(tmp_path):
    """Neither its files, nor its signal handlers, nor what it has not written yet."""
    source = embed(
        None,
        """
        import signal
        os.environ["QMILL_TRANSPORT"] = "portable"
        signal.signal(signal.SIGHUP, lambda *_: None)
        reading, writing = os.pipe()
        file = open("unwritten", "w")
        file.write("once")
        sys.stdout.write("once ")
        first, second = qmill.Queue(name="first"), qmill.Queue(name="second")
        os.close(writing)
        print(os.read(reading, 1))  # nobody else has the writing end
        file.close()
        from qmill.queues.names.listing import list_queues
        print([found.holders == (os.getpid(),) for found in list_queues()])
        """,
    )
    command = f'cd {tmp_path} && exec {sys.executable} -c "$SOURCE"'
    told = run("/bin/sh", "-c", command, environ=ENVIRON | {"SOURCE": source})
    assert told == "once b''\n[True, True]\n"
    assert (tmp_path / "unwritten").read_text() == "once"


# -- what is a Python -----------------------------------------------------------------------------

KNOWN = "import qmill; print(qmill.get_start_method(), qmill.run(abs, -1).result())"


def check_known(*command):
    assert run(*command, "-c", KNOWN) == "forkserver 1\n"


@pytest.mark.parametrize("symlinks", [True, False])
def test_a_virtual_environment(tmp_path, symlinks):
    venv.create(tmp_path / "venv", symlinks=symlinks)
    check_known(tmp_path / "venv" / "bin" / "python")


@pytest.mark.parametrize("name", ["python", "python3-dbg", "alias"])
def test_a_symbolic_link(tmp_path, name):
    (tmp_path / name).symlink_to(os.path.realpath(sys.executable))
    check_known(tmp_path / name)


@pytest.mark.parametrize("keeps_name", [True, False])
def test_a_wrapper_named_python(tmp_path, keeps_name):
    """A script that sets something and runs Python, perhaps under its own name."""
    wrapper = tmp_path / "python"
    option = '-a "$0"' if keeps_name else ""
    wrapper.write_text(f'#!/bin/bash\nexec {option} "{sys._base_executable}" "$@"\n')
    wrapper.chmod(0o755)
    check_known(wrapper)


def test_an_interpreter_with_options():
    source = f"{KNOWN}; print(qmill.run(eval, '__debug__').result())"
    assert run(sys.executable, "-O", "-c", source) == "forkserver 1\nFalse\n"


def test_a_package_in_a_zip_file(tmp_path):
    """Whose modules are no files, either, as those of a frozen program."""
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in (ROOT / "src").rglob("*.py"):
            packed.write(file, file.relative_to(ROOT / "src"))
    source = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import qmill; print(qmill.__path__)"
    )
    source += f"\n{JOBS}\nimport os; print(jobs(), named())"
    told = run(sys.executable, "-c", source)
    assert told == f"['{archive}/qmill']\n[0, 2, 4] put\n"


PREFIX = "/opt/python"


@pytest.fixture
def system(monkeypatch):
    """An installation in /opt/python, whose files all can be run, on a system without /proc."""
    for prefix in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, prefix, PREFIX)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1, "final", 0))
    monkeypatch.setattr(sys, "orig_argv", ["./wrapped/python", "-c", ""])
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setattr(os.path, "samefile", lambda a, b: os.path.normpath(a) == str(b))
    monkeypatch.setattr(shutil, "which", lambda command: "/opt/wrapped/python")
    return monkeypatch


@pytest.mark.parametrize(
    "path",
    [
        "bin/python",
        "bin/python3",
        "bin/python3.12",
        "bin/python3.12d",
        "bin/python3-dbg",
        "bin/python3.12-dbg",
        "bin/python3-intel64",
        "bin/pypy3",
        "bin/pypy3.12-c",
        "bin/graalpy",
        "../wrapped/python",
    ],
)
def test_a_python_is_known(system, path):
    path = os.path.normpath(f"{PREFIX}/{path}")
    assert interpreter._look("", path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/usr/bin/false",
        f"{PREFIX}/bin/blender",
        f"{PREFIX}/bin/pythonista",
        f"{PREFIX}/bin/python-host",
        f"{PREFIX}/bin/python3.11",  # another version
        f"{PREFIX}/bin/python4",
        "/usr/bin/python3",  # another installation
        "/opt/wrapped/uwsgi",
    ],
)
def test_what_is_no_python_is_not(system, path):
    assert interpreter._look("", path) is None
    assert interpreter._look(path, path) is None


def test_what_has_been_chosen_is_preferred(system):
    assert interpreter._look("/chosen", f"{PREFIX}/bin/python") == "/chosen"
    system.setattr(os.path, "samefile", lambda a, b: (a, b) == ("/host", "/proc/self/exe"))
    assert interpreter._look("/host", f"{PREFIX}/bin/python") == f"{PREFIX}/bin/python"
    assert interpreter._look("/host", "") is None


def test_a_platform_without_fork(monkeypatch):
    monkeypatch.setattr(launch, "METHODS", ("spawn",))
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(interpreter, "_chosen_for_multiprocessing", lambda: None)
    assert qmill.get_start_method() == "spawn"
    with pytest.raises(qmill.NotSupported, match="set_executable"):
        qmill.run(int)
