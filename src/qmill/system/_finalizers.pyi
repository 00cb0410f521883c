from collections.abc import Callable
from typing import Any

def finalizer(function: Callable[[Any], None]) -> Callable[[Any], None]: ...
