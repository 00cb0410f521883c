"""Jobs of modules that the program loads by their files, and of programs that `runpy` runs."""

import os
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location

import qmill

HERE = os.getcwd()


def load(name, *, is_known):
    """Load a module by a relative path, and go elsewhere."""
    os.chdir(HERE)
    spec = spec_from_file_location(name, os.path.join("plugins", "plugin.py"))
    module = module_from_spec(spec)
    if is_known:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    os.chdir("/")
    return module


def check(module, jobs):
    assert jobs.submit(module.helper, 2).result(20) == 7
    assert jobs.submit(module.Box(2).tripled).result(20).content == 6
    point = module.Point(1)
    back = jobs.submit(module.same, point).result(20)
    assert back == point
    assert type(back) is module.Point
    assert jobs.submit(module.same, module.Color.RED).result(20) is module.Color.RED
    assert type(jobs.submit(module.fail).exception(20)) is module.Failure
    assert qmill.run(module.helper, 1).result(20) == 4
    queue = qmill.Queue()
    qmill.run(queue.put, point).result(20)
    assert queue.get(timeout=20) == point


def main():
    names = {"plugin_a": True, "plugin_b": False, "json.plugin_c": True, "antigravity": True}
    import json  # noqa: F401 (a package for a module that is not in it)

    modules = [load(name, is_known=known) for name, known in names.items()]
    with qmill.JobQueue(1) as jobs:
        for module in modules:
            check(module, jobs)
        check(load("plugin_late", is_known=True), jobs)  # the worker runs already

    os.chdir(HERE)
    path = os.path.join("plugins", "program.py")
    names = runpy.run_path(path)
    os.chdir("/")
    assert names["main"]() == "ran"
    os.chdir(HERE)
    runpy.run_path(path, run_name="__main__")
    os.chdir(HERE)
    sys.path.insert(0, "plugins")
    runpy.run_module("program", run_name="__main__", alter_sys=True)
    os.chdir(HERE)
    assert runpy.run_module("program")["main"]() == "ran"


if __name__ == "__main__":
    qmill.set_start_method(sys.argv[1])
    main()
    print("done")
