"""No main guard: `map` applies a lambda to some inputs, on all processors."""

import qmill

doubled = list(qmill.map(lambda x: x * 2, range(6)))
print(doubled)
if doubled != [0, 2, 4, 6, 8, 10]:
    raise SystemExit("expected [0, 2, 4, 6, 8, 10]")
