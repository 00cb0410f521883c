"""A program for ezpq 0.2, with another import: `starmap` and `starmapkw`."""

import qmill.compat.ezpq as ezpq


def my_pow(x, k):
    return f"{x}^{k} = {x**k}"


lists = [[x, x % 4] for x in range(20)]
with ezpq.Queue(10) as Q:
    by_lists = Q.starmap(my_pow, iterable=lists)

dicts = [{"x": x, "k": x % 4} for x in range(20)]
with ezpq.Queue(10) as Q:
    by_dicts = Q.starmapkw(my_pow, iterable=dicts)

outputs = [job["output"] for job in by_lists]
print(*outputs[:7], sep=", ")
if outputs != [my_pow(x, x % 4) for x in range(20)]:
    raise SystemExit("wrong outputs")
if outputs != [job["output"] for job in by_dicts]:
    raise SystemExit("expected the same of starmap and starmapkw")
