"""Programs in C that use a queue's file, made from tests/native and the core itself."""

from __future__ import annotations

import os
import subprocess

from .programs import ROOT

NATIVE = ROOT / "tests" / "native"
CORE = ROOT / "src" / "qmill" / "queues" / "shared" / "core"


def build(name, folder):
    """Compile a program and return its path."""
    program = folder / name
    included = (NATIVE / "native.h").read_text()
    core = [str(file) for file in CORE.glob("[!_]*.c") if f'/{file.name}"' not in included]
    command = ["gcc", "-std=c11", "-O1", "-pthread", "-DQMILL_POINTS"]
    subprocess.run([*command, str(NATIVE / f"{name}.c"), *core, "-o", str(program)], check=True)
    return program


def file_of(queue):
    """Return the path of a queue's file, for other processes."""
    return f"/proc/{os.getpid()}/fd/{queue._ring.fileno()}"
