"""The parts of `pickle` that qmill uses, without the modules that its Python form imports.

`import pickle` brings `re` and `enum`, which take as long as all else that a first queue needs.
"""

from __future__ import annotations

try:
    from _pickle import PickleBuffer, Pickler, PicklingError, Unpickler, dumps, loads
except ImportError:  # a Python without it
    from pickle import PickleBuffer, Pickler, PicklingError, Unpickler, dumps, loads

__all__ = ["PickleBuffer", "Pickler", "PicklingError", "Unpickler", "dumps", "loads"]
