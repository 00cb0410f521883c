"""The program's own module, `__main__`, and its import by other processes.

A script with a top-level `if __name__ == "__main__":` may be imported: a worker imports it when it
first needs a name of it, under the name `__mp_main__`, as `multiprocessing` does. Objects that the
script binds outside the guard then go by name. Any other program (a script without the guard, a
notebook, `python -`, `-c`, a console) is never imported: its objects go by value.

This is decided once for a program, from the syntax tree of its source; no code is run to decide it.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec
from _thread import get_ident  # bound at import, before a script can let a library replace it
from weakref import ref

from ..system import lifecycle, module_path, native

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    import ast
    from collections.abc import Iterable
    from typing import Any

MAINS = ("__main__", "__mp_main__")
"""The names of the program's module in `sys.modules`."""


class Script:
    """A script that workers may import.

    Attributes:
        path: The script's file.
        module: The module's name if the program was started by `python -m`, else None.
        bound: The names that an import binds.
        guarded: The names that are bound under the guard.
        declared: The names that a function declares `global`, so that a call may bind them.
    """

    def __init__(
        self,
        path: str,
        module: str | None,
        bound: frozenset[str],
        guarded: frozenset[str],
        declared: frozenset[str],
    ) -> None:
        self.path = path
        self.module = module
        self.bound = bound
        self.guarded = guarded
        self.declared = declared

    def has(self, qualname: str) -> bool:
        """Whether an import binds this name to the same object as in the program.

        That is, the name is bound outside the guard, and neither the guard nor a function may bind
        it again.
        """
        name = qualname.partition(".")[0]
        return name in self.bound and name not in self.guarded and name not in self.declared


_lock = native.RLock()
# Not reentrant: if the script patches with eventlet, that releases every reentrant lock it finds.
_import_lock = native.Lock()
# The result of `importable`, after a weak reference to the module for which it was computed.
_chosen: tuple[Any, Script | None] | None = None
_pending: Script | None = None  # in a worker: the script to import when a name is first needed
_is_stand_in = False  # whether this process is a worker that is not the program itself
_importer: int | None = None  # the id of the thread that is importing the script
_failure: BaseException | None = None  # the exception that the import raised
_imported: dict[str, Any] = {}  # the names that the import has bound


def importable() -> Script | None:
    """Return this program's script if workers may import it, else None."""
    global _chosen
    main = sys.modules.get("__main__")
    chosen = _chosen
    if chosen is None or chosen[0]() is not main:
        with _lock:
            chosen = _chosen = _reference(main), _analyse(main)
    return chosen[1]


def _reference(module: Any) -> Any:
    try:
        return ref(module)
    except TypeError:  # sys.modules["__main__"] is not a module
        return lambda: module


def is_main(module: object) -> bool:
    """Whether a module's name is that of the program itself, or of no module at all."""
    return module in MAINS or module not in sys.modules


def module_with(name: str, value: object) -> str | None:
    """Return the name of an importable module that has an object under this name, or None."""
    for module_name, module in list(sys.modules.items()):
        has_it = getattr(module, "__dict__", {}).get(name) is value
        if has_it and not is_main(module_name) and can_import(module_name):
            return module_name
    return None


def can_import(name: str) -> bool:
    """Whether another process can import the same module under its name."""
    module = sys.modules[name]
    known = _findable.get(name)
    if known is None or known[0] is not module:
        known = _findable[name] = module, _finds(module, name)
    return known[1]


_findable: dict[str, tuple[Any, bool]] = {}


def _finds(module: Any, name: str) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    found = module_path.find(name)
    return found is not None and bool(found.origin == spec.origin)


def source_of(path: str) -> tuple[str, list[str] | None]:
    """Return the source of code in a form that another process can use.

    Args:
        path: The file's name with which the code was compiled.

    Returns:
        The path of the file and None; or, if there is no such file (a notebook's cell), the name
        and its lines, if `linecache` has them.
    """
    if os.path.exists(module_path.absolute(path)):
        return module_path.absolute(path), None
    import linecache

    entry: Any = linecache.cache.get(path, ())
    return path, list(entry[2]) if len(entry) == 4 else None


def namespaces() -> list[dict[str, Any]]:
    """Return the global namespaces of the program's module in this process; none if it has none."""
    return [vars(sys.modules[name]) for name in MAINS if name in sys.modules]


def _analyse(main: Any) -> Script | None:
    names = getattr(main, "__dict__", {})
    path = names.get("__file__")
    interactive = sys.flags.interactive or hasattr(sys, "ps1") or "get_ipython" in names
    if interactive or not isinstance(path, str) or getattr(sys, "frozen", False):
        return None
    spec = names.get("__spec__")
    module = None if spec is None or spec.name in MAINS else spec.name
    try:
        path = module_path.absolute(path)
        import ast

        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except (OSError, SyntaxError, ValueError, RecursionError):  # a zip file, or not Python
        return None
    bound, guarded = _Names(), _Names()
    has_guard = False
    for statement in tree.body:
        if isinstance(statement, ast.If) and _is_guard(statement):
            has_guard = True
            guarded.add(statement.body)
            bound.add(statement.orelse)
        else:
            bound.add([statement])
    if not has_guard:
        return None
    declared = {
        name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names
    }
    return Script(
        path, module, frozenset(bound.names), frozenset(guarded.names), frozenset(declared)
    )


def _is_guard(statement: ast.If) -> bool:
    """Whether a statement is `if __name__ == "__main__":`, also with further conditions."""
    import ast

    tests: list[ast.expr] = [statement.test]
    if isinstance(statement.test, ast.BoolOp) and isinstance(statement.test.op, ast.And):
        tests = statement.test.values
    for test in tests:
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq):
            sides = [test.left, *test.comparators]
            has_name = any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides)
            if has_name and any(
                isinstance(side, ast.Constant) and side.value == "__main__" for side in sides
            ):
                return True
    return False


class _Names:
    """Collects the names that statements bind in their own scope."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add(self, statements: Iterable[ast.AST]) -> None:
        """Add the names bound by statements, and by those inside them that run in this scope."""
        import ast

        left = list(statements)
        while left:
            node = left.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self.names.add(node.name)
                left.extend(node.decorator_list)
                continue
            if isinstance(node, (ast.Lambda, ast.GeneratorExp, ast.ListComp, ast.SetComp)):
                continue  # scopes of their own
            if isinstance(node, ast.Name):
                if not isinstance(node.ctx, ast.Load):
                    self.names.add(node.id)
            elif isinstance(node, ast.alias):
                self.names.add(node.asname or node.name.partition(".")[0])
            elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
                if node.name:
                    self.names.add(node.name)
            elif isinstance(node, ast.MatchMapping) and node.rest:
                self.names.add(node.rest)
            elif type(node).__name__ == "TypeAlias":  # Python 3.12
                self.names.add(node.name.id)  # type: ignore[attr-defined]
            left.extend(ast.iter_child_nodes(node))


# -- in a worker -------------------------------------------------------------------------------


def adopt(script: Script | None) -> None:
    """Put a stand-in for the program's module into `sys.modules`, in a worker.

    Args:
        script: The program's script, to be imported when a name of it is first needed. None: the
            program is never imported.
    """
    global _chosen, _pending, _is_stand_in
    main = type(sys)("__main__")
    # Children of multiprocessing import the script by this name; "__main__": they import nothing.
    module = "__main__" if script is None else script.module
    main.__spec__ = ModuleSpec(module, None) if module else None
    if script is not None:
        main.__file__ = script.path
    sys.modules["__main__"] = main
    _chosen = ref(main), script
    _pending = script
    _is_stand_in = True
    if script is not None:
        # For other code that looks up names in `__main__`, such as pickle.
        sys.modules["__mp_main__"] = main
        vars(main)["__getattr__"] = _look_up


def is_stand_in() -> bool:
    """Whether this process is a worker whose `__main__` is a stand-in for the program's."""
    return _is_stand_in


def _look_up(name: str) -> Any:
    """Import the script when a name is looked up in its stand-in, and return the name's value."""
    if not name.startswith("__"):
        import_main()
        try:
            return vars(sys.modules["__main__"])[name]
        except KeyError:
            pass
    raise AttributeError(f"module '__main__' has no attribute {name!r}")


def take_imported() -> dict[str, Any]:
    """Return the names that the import of the script has bound in this worker; {} from then on."""
    global _imported
    imported, _imported = _imported, {}
    return imported


def import_main() -> None:
    """Import the program's script, if this worker may import it and has not yet.

    Raises:
        ImportError: The script raised an exception, in this call or an earlier one.
    """
    if _pending is not None and _importer != get_ident():
        with _import_lock:
            _import()


def _import() -> None:
    global _chosen, _pending, _importer, _failure, _imported
    script = _pending
    if script is None:  # another thread has imported it
        return
    if _failure is None:
        before = sys.modules["__main__"]
        main = type(sys)("__mp_main__")
        _importer = get_ident()
        try:
            _run(main, script)
        except (Exception, SystemExit) as error:
            _failure = error
            sys.modules["__main__"] = sys.modules["__mp_main__"] = before
        else:
            _chosen = ref(main), script
            _pending = None
            _imported = dict(vars(main))
        finally:
            _importer = None
    if _failure is not None:
        raise ImportError(
            f"{script.path} cannot be imported in a worker, since it raises "
            f"{type(_failure).__name__}: {_failure}. Move statements that only the program itself "
            'must run below its `if __name__ == "__main__":`'
        ) from _failure


def _run(main: Any, script: Script) -> None:
    """Run a script's code in a module that is both `__mp_main__` and `__main__`."""
    names = vars(main)
    if script.module is not None:
        from importlib.util import find_spec

        spec = find_spec(script.module)
        if spec is None or spec.loader is None:
            raise ImportError(f"there is no module {script.module} in this process")
        names.update(__spec__=spec, __loader__=spec.loader, __package__=spec.parent)
        code = spec.loader.get_code(script.module)  # type: ignore[attr-defined]
    else:
        with open(script.path, "rb") as file:
            code = compile(file.read(), script.path, "exec", dont_inherit=True)
    names["__file__"] = script.path
    # Set before the code runs: dataclasses and others look up the module of a class being made.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    exec(code, names)


def check_may_start() -> None:
    """Check that this process is not importing the script: workers would import it in turn.

    Raises:
        RuntimeError: This worker is importing the script, which starts workers at its top level.
    """
    if _importer is not None:
        raise RuntimeError(
            "a worker is importing the script, and the script starts workers at its top level: "
            'move that code below its `if __name__ == "__main__":`, so only the program runs it'
        )


def _after_fork_in_child() -> None:
    """Replace the locks, which another thread of the parent may have held."""
    global _lock, _import_lock
    _lock = native.RLock()
    if _importer != get_ident():
        _import_lock = native.Lock()


lifecycle.at_fork(lifecycle.MAIN_MODULE, in_child=_after_fork_in_child)
