"""What `_kept.pyx` has, for type checkers."""

from collections.abc import Callable
from typing import Any

class Writer:
    def __init__(self, memory: Any, slow: Callable[[Any], None]) -> None: ...
    def keep(self, obj: Any) -> None: ...

def read(data: Any, rebuild: Callable[[int, bytes], Any]) -> list[Any]: ...
