"""No main guard: a class of this script is the same class in the worker, and on the way back."""

from dataclasses import dataclass

import qmill


@dataclass(frozen=True)
class Point:
    x: int
    y: int


def flip(q: qmill.Q, out: qmill.Q) -> None:
    """Put each point with its coordinates exchanged."""
    for msg in q:
        if not isinstance(msg.data, Point):
            raise TypeError(f"expected a Point, not {type(msg.data)}")
        out.put(Point(msg.data.y, msg.data.x), order=msg.order)


q, out = qmill.Q(), qmill.Q()
worker = qmill.run(flip, q, out)
for number in range(3):
    q.put(Point(number, 10 * number), order=number)
q.stop([worker])

points = [msg.data for msg in out.items(sort=True)]
print(points)
if not all(isinstance(point, Point) for point in points):
    raise SystemExit("the worker made points of another class")
if points != [Point(10 * number, number) for number in range(3)]:
    raise SystemExit("the points are wrong")
