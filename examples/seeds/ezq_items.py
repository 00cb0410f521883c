"""A program for ezq 3, with another import: the ways to read a queue to its end."""

import qmill.compat.ezq as ezq

shuffled = [3, 0, 2, 1]


def filled() -> ezq.Q:
    q = ezq.Q()
    for order in shuffled:
        q.put(order * 10, order=order)
    return q


plain = [msg.data for msg in filled().items()]
in_order = [msg.data for msg in filled().items(sort=True)]

q = filled()
first = [msg.data for msg in q.items(cache=True)]
again = [msg.data for msg in q.items(cache=True)]

q = filled().end()
by_hand = [msg.data for msg in q.sorted()]

q.put(ezq.Msg(data="as it is", kind="NOTE")).put(ezq.END_MSG)
notes = [(msg.kind, msg.data) for msg in q]

print(plain, in_order, notes)
if not (plain == first == again == [30, 0, 20, 10] and in_order == by_hand == [0, 10, 20, 30]):
    raise SystemExit("wrong messages")
if notes != [("NOTE", "as it is")] or q.qsize() or not q.empty():
    raise SystemExit("expected one note")
