"""The repository's own rules, checked: who may import whom, and what no module may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import qmill
from qmill.system import lifecycle

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "qmill"
FILES = sorted(PACKAGE.rglob("*.py"))
CYTHON_FILES = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxi")])
SOURCES = [*FILES, *CYTHON_FILES]

# docs/design.md tells the reasons. A folder may import from itself and from those before it; the
# modules of a folder load without a circle. `errors` is a module, the others are folders.
ORDER = [
    "errors",
    "system",
    "packing",
    "queues",
    "processes",
    "workers",
    "jobs",
    "observe",
    "engines",
    "job_queue",
    "testing",
    "compat",
    "command",
    "_pyinstaller",
    "__main__",
]
LEVEL_OF = {name: level for level, name in enumerate(ORDER)}
ROOT_FILES = {"__init__.py", "__init__.pyi", "__main__.py", "errors.py", "py.typed"}

# Heavy or optional: imported when used, and only by the one file that needs it.
OPTIONAL = {"dask", "distributed", "matplotlib", "pandas", "plotnine", "rich", "tqdm"}

# The folders in which the documentation's files and tests are.
CODE = ["src", "tests", "tools", "benchmarks", "examples"]
SUFFIXES = {".py", ".pyx", ".pxd", ".pxi", ".c", ".h", ".sh"}

# Sleeping is polling, and the wall clock jumps: waits are on events, times are monotonic.
FORBIDDEN = {"sleep", "time"}

# What a program that only needs a queue should not pay for.
HEAVY = ["cloudpickle", "dataclasses", "concurrent.futures", "qmill.observe"]
if qmill.core_info().core:
    HEAVY += ["enum", "re", "typing"]


class Import(NamedTuple):
    module: str
    line: int
    at_top: bool  # runs when the module is loaded


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> list[Import]:
    """List what is imported at run time; what only the type checker reads binds nobody."""
    if path in CYTHON_FILES:
        return list(imports_of_cython(path))
    return list(imports_in(parsed(path), path, at_top=True))


def imports_of_cython(path: Path) -> Iterator[Import]:
    """Parse only the import statements of a Cython file: the rest is no Python."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"^( *)((?:from|import) [^(\n]*(?:\([^)]*\))?)", text, re.MULTILINE):
        if " cimport " in found[2] or found[2].startswith("from __future__"):
            continue
        line = text.count("\n", 0, found.start()) + 1
        try:
            statements = ast.parse(found[2])
        except SyntaxError:  # prose
            continue
        for imported in imports_in(statements, path, at_top=not found[1]):
            yield imported._replace(line=line)


def imports_in(node: ast.AST, path: Path, *, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield from imports_in(ast.Module([statement], []), path, at_top=at_top)
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, at_top)
        elif isinstance(child, ast.ImportFrom):
            for name in imported_from(child, path):
                yield Import(name, child.lineno, at_top)
        deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from imports_in(child, path, at_top=at_top and not deferred)


def imported_from(node: ast.ImportFrom, path: Path) -> Iterator[str]:
    """Give absolute names, and `from qmill import queues` as the module qmill.queues."""
    base = node.module or ""
    if node.level:
        package = module_name(path).split(".")
        if path.name != "__init__.py":
            package.pop()
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, node.module] if node.module else package)
    for alias in node.names:
        full = f"{base}.{alias.name}"
        yield full if full in MODULES else base


def part_of(module: str) -> str | None:
    """Return the first name below qmill, or None for qmill itself and for other packages."""
    names = module.split(".")
    return names[1] if names[0] == "qmill" and len(names) > 1 else None


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_opens_with_what_it_is_for(path: Path) -> None:
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first_line.startswith(('"""', 'r"""')), (
        f"{where(path, 1)}: no docstring on the first line"
    )
    assert first_line.strip('r"').strip(), f"{where(path, 1)}: the docstring's first line is empty"


def test_the_root_of_the_package_has_only_folders_and_a_few_files() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == ROOT_FILES
    folders = {path.parent for path in FILES} - {PACKAGE}
    assert {path.relative_to(PACKAGE).parts[0] for path in folders} | {"errors", "__main__"} == set(
        ORDER
    ), "put new folders into ORDER, where they belong"


def test_imports_point_one_way() -> None:
    wrong = []
    for path in SOURCES:
        part = part_of(module_name(path))
        if part not in LEVEL_OF:
            continue  # qmill/__init__.py gathers the names of all
        for imported in imports_of(path):
            target = part_of(imported.module)
            if imported.module == "qmill":
                wrong.append(f"{where(path, imported.line)}: imports the package that gathers it")
            elif target in LEVEL_OF and LEVEL_OF[target] > LEVEL_OF[part]:
                wrong.append(f"{where(path, imported.line)}: {part} imports {imported.module}")
    assert not wrong, "\n".join(wrong)


def test_imports_of_cython_files_are_seen() -> None:
    """The core imports its errors; an empty list would mean that the reader has gone blind."""
    core = PACKAGE / "queues" / "shared" / "core" / "_ring.pyx"
    assert {"qmill.errors", "qmill.queues.shared.rings"} <= {i.module for i in imports_of(core)}


def test_modules_load_without_a_circle() -> None:
    graph = {
        module_name(path): {
            i.module
            for i in imports_of(path)
            if i.at_top and i.module in MODULES and i.module != module_name(path)
        }
        for path in SOURCES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_optional_packages_are_imported_late_and_in_one_file_each() -> None:
    users: dict[str, set[Path]] = {}
    for path in FILES:
        for imported in imports_of(path):
            package = imported.module.partition(".")[0]
            if package in OPTIONAL:
                assert not imported.at_top, (
                    f"{where(path, imported.line)}: import it where it is used"
                )
                users.setdefault(package, set()).add(path)
    assert {p: files for p, files in users.items() if len(files) > 1} == {}


def test_nothing_sleeps_or_reads_the_wall_clock() -> None:
    wrong = []
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found = node.value.id == "time" and node.attr in FORBIDDEN
            elif isinstance(node, ast.ImportFrom):
                found = node.module == "time" and any(a.name in FORBIDDEN for a in node.names)
            else:
                continue
            if found:
                wrong.append(f"{where(path, node.lineno)}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def test_only_one_module_has_hooks_for_the_exit_and_for_forks() -> None:
    hooks = re.compile(r"register_at_fork|atexit\.register|_register_atexit|Finalize\(")
    has_hooks = {path.name for path in SOURCES if hooks.search(path.read_text(encoding="utf-8"))}
    assert has_hooks == {"lifecycle.py"}


def test_each_phase_of_the_exit_and_of_forks_belongs_to_one_module() -> None:
    call = re.compile(r"lifecycle\.(at_exit|at_fork)\(\s*lifecycle\.([A-Z_]+)")
    calls = Counter(
        found.groups() for path in SOURCES for found in call.finditer(path.read_text("utf-8"))
    )
    assert [call for call, times in calls.items() if times > 1] == []
    names = {name for name, phase in vars(lifecycle).items() if phase in lifecycle.TABLE}
    assert {name for _, name in calls} | {"CHILDREN"} == names


def test_files_and_tests_that_the_docs_name_are_there() -> None:
    """`docs/design.md` names the files to touch, `docs/promises.md` the tests of promises."""
    paths = [p for folder in CODE for p in (ROOT / folder).rglob("*.*") if p.suffix in SUFFIXES]
    paths += ROOT.glob("*.py")
    names = ["/" + str(path.relative_to(ROOT)) for path in paths]
    tests = "".join(
        path.read_text(encoding="utf-8") for path in paths if path.is_relative_to(ROOT / "tests")
    )
    wrong = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for named in re.findall(r"`([a-z_/]+\.(?:py|pyx|pxd|pxi|c|h|sh))`", text):
            if not any(name.endswith("/" + named) for name in names):
                wrong.append(f"{page.name}: {named}")
        wrong += [
            f"{page.name}: {named}"
            for named in re.findall(r"`(test_[a-z0-9_]+)`", text)
            if not re.search(rf"\b{named}\(", tests)
        ]
    assert not wrong, "\n".join(wrong)


def test_every_public_name_resolves() -> None:
    assert [name for name in qmill.__all__ if not hasattr(qmill, name)] == []


# A program names these itself, and what only they import.
STARTED_APART = (
    "qmill.compat",
    "qmill.command",
    "qmill.testing",
    "qmill._pyinstaller",
    "qmill.__main",
)
ONLY_THERE = {
    "qmill.engines.program",
    "qmill.job_queue.pool",
    "qmill.job_queue.pool_results",
    "qmill.observe.logged",
}


def test_freezers_find_each_module() -> None:
    """They follow import statements from `import qmill` on, but see none of compiled modules."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    compiled = {f"qmill.{name}" for name in re.findall(r'^        "([a-z_.]+)",$', setup, re.M)}
    assert "qmill.queues.messages" in compiled
    paths = {module_name(path): path for path in FILES}
    found: set[str] = set()
    to_follow = {"qmill"}
    while to_follow:
        module = to_follow.pop()
        found.add(module)
        names = {module.rpartition(".")[0]}
        if module in paths and module not in compiled:
            for node in ast.walk(parsed(paths[module])):
                if isinstance(node, ast.ImportFrom):
                    names.update(imported_from(node, paths[module]))
        to_follow |= (names & MODULES) - found
    modules = {module_name(path) for path in SOURCES if path.suffix != ".pxi"}
    missing = {name for name in modules - found if not name.startswith(STARTED_APART)}
    assert missing == ONLY_THERE


def test_the_hook_of_frozen_programs_is_no_module_of_a_package() -> None:
    """PyInstaller runs it as a script."""
    [hook] = PACKAGE.glob("_pyinstaller/rthooks/*.py")
    assert "from ." not in hook.read_text(encoding="utf-8")


def test_a_queue_alone_loads_nothing_heavy() -> None:
    program = (
        "import sys; before = set(sys.modules); import qmill; qmill.Queue(); "
        f"print([m for m in {HEAVY} if m in sys.modules and m not in before])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
