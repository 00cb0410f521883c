"""The native core, which is optional: without a compiler the package installs and works, slower."""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

required = os.environ.get("QMILL_REQUIRE_CORE") == "1"
core = Extension(
    "qmill._core._ring",
    ["src/qmill/_core/_ring.pyx", "src/qmill/_core/ring.c"],
    depends=["src/qmill/_core/ring.h"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
    optional=not required,
)
extensions = []
if sys.platform == "linux":
    extensions = cythonize([core], build_dir="build/cython")

setup(ext_modules=extensions)
