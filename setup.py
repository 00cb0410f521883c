"""The native core, which is optional: without a compiler the package installs and works, slower."""

import os
import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

required = os.environ.get("QMILL_REQUIRE_CORE") == "1"
SOURCES = sorted([*glob("src/qmill/_core/[a-z]*.c"), "src/qmill/_core/_codec.c"])
OPTIONS = {
    "depends": glob("src/qmill/_core/*.h"),
    "extra_compile_args": ["-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
}
core = [
    Extension("qmill._core._ring", ["src/qmill/_core/_ring.pyx", *SOURCES], **OPTIONS),
    Extension(
        "qmill._core._kept", ["src/qmill/_core/_kept.pyx", "src/qmill/_core/_codec.c"], **OPTIONS
    ),
]
# Python that is compiled as it is, since no signal handler runs within C: one that raised between
# two lines would leave half of what they do. Without a compiler it is imported as Python.
whole = [
    Extension(f"qmill.{name}", [f"src/qmill/{name.replace('.', '/')}.py"])
    for name in (
        "messages",
        "queues.access",
        "queues.items",
        "queues.leases",
        "queues.mailbox",
        "queues.portable",
        "queues.rings",
        "queues.shared",
        "queues.thread",
        "queues.wire",
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
