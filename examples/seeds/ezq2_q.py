"""A program for ezq 2.0.3, with another import: `Q` with its own order of arguments, and `map`."""

import qmill.compat.ezq2 as ezq


def halve_or_triple(q: ezq.Q, out: ezq.Q) -> None:
    for msg in q:
        if msg.kind == "EVEN":
            out.put(msg.data / 2, order=msg.order)
        elif msg.kind == "ODD":
            out.put(3 * msg.data + 1, order=msg.order)


q, out = ezq.Q(thread=True), ezq.Q(thread=True)
readers = [ezq.run_thread(halve_or_triple, q, out) for _ in range(ezq.NUM_THREADS)]
for number in range(10):
    q.put(number, "ODD" if number % 2 else "EVEN", number)
q.stop(readers)
successors = [msg.data for msg in out.items(sort=True)]
doubled = list(ezq.map(lambda x: x * 2, range(6)))
joined = list(ezq.map(str.join, ["-", "+"], ["ab", "cd"], num=2, thread=True))

print(successors, doubled, joined)
if successors != [3 * n + 1 if n % 2 else n / 2 for n in range(10)]:
    raise SystemExit("wrong successors")
if (doubled, joined) != ([0, 2, 4, 6, 8, 10], ["a-b", "c+d"]):
    raise SystemExit("wrong results of map")
