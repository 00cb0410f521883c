"""The tests of a cluster: collected only where distributed is installed (`make test-all`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance" / "support"))

if importlib.util.find_spec("distributed") is None:
    collect_ignore_glob = ["test_*.py"]
