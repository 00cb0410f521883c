"""No main guard: a lambda is the worker, and lambdas are the messages."""

import qmill

q = qmill.Q()
worker = qmill.run(lambda q: [msg.data(10) for msg in q], q)

q.put(lambda x: x + 1)
q.put(lambda x: x * x)
q.stop([worker])

print(worker.result())
if worker.result() != [11, 100]:
    raise SystemExit("expected [11, 100]")
