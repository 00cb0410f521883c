"""The native core, which is optional: without a compiler the package installs and works, slower."""

import os
import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

required = os.environ.get("QMILL_REQUIRE_CORE") == "1"
CORE = "src/qmill/queues/shared/core"
CODEC = f"{CORE}/_codec.c"


def module(name, sources=(), included=()):
    """Declare a module that is written in Cython.

    Cython puts a C file in the place of the `.pyx`, which has to be in an sdist, too: hence it is
    among those on which the module depends.
    """
    source = f"src/qmill/{name.replace('.', '/')}.pyx"
    return Extension(
        f"qmill.{name}",
        [source, *sources],
        depends=[source, *(path for end in included for path in sorted(glob(f"{CORE}/{end}")))],
        extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
    )


core = [
    module(
        "queues.shared.core._ring",
        [*sorted(glob(f"{CORE}/[a-z]*.c")), CODEC],
        ["*.h", "*.pxd", "*.pxi"],
    ),
    module("queues.shared.core._kept", [CODEC], ["_codec.h", "_codec.pxi"]),
    module("system._finalizers"),
]
# Python that is compiled as it is, since no signal handler runs within C: one that raised between
# two lines would leave half of what they do. Without a compiler it is imported as Python.
whole = [
    Extension(f"qmill.{name}", [f"src/qmill/{name.replace('.', '/')}.py"])
    for name in (
        "processes.child_main",
        "queues.items",
        "queues.leases",
        "queues.messages",
        "queues.local.access",
        "queues.local.calls",
        "queues.local.mailbox",
        "queues.local.thread",
        "queues.portable.addresses",
        "queues.portable.client",
        "queues.portable.connections",
        "queues.portable.portable_queue",
        "queues.shared.queue",
        "queues.shared.rings",
        "system.frames",
        "system.nameless_files",
    )
]
DIRECTIVES = {"language_level": 3, "freethreading_compatible": True, "annotation_typing": False}
extensions = []
if sys.platform == "linux":
    extensions = cythonize(core, build_dir="build/cython") + cythonize(
        whole, build_dir="build/cython", compiler_directives=DIRECTIVES
    )
for extension in extensions:
    extension.optional = not required  # cythonize makes new ones, without it

setup(ext_modules=extensions)
