"""What qmill uses of `pickle`, without the modules that only pickle's form in Python needs.

`import pickle` brings `re` and `enum`, which take as long as all else that a first queue needs.
"""

from __future__ import annotations

try:
    from _pickle import PickleBuffer, Pickler, PicklingError, Unpickler, dumps, loads
except ImportError:  # a Python without it
    from pickle import PickleBuffer, Pickler, PicklingError, Unpickler, dumps, loads

__all__ = ["PickleBuffer", "Pickler", "PicklingError", "Unpickler", "dumps", "loads"]
