"""A program for ezq 3, with another import: `map` with one list, several, and threads."""

import qmill.compat.ezq as ezq

doubled = list(ezq.map(lambda x: x * 2, range(6)))
powers = list(ezq.map(pow, [2, 3, 4], [5, 4, 3], num=2))
lengths = list(ezq.map(len, ["a", "bc", ""], kind="thread"))

print(doubled, powers, lengths)
if (doubled, powers, lengths) != ([0, 2, 4, 6, 8, 10], [32, 81, 64], [1, 2, 0]):
    raise SystemExit("wrong results")
