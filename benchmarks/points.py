"""A dataclass, for what it costs to send an instance."""

from dataclasses import dataclass


@dataclass
class Point:
    x: int
    y: float = 1.5
    label: str = "abc"
