"""A thread queue carries a database connection, which no process queue could."""

import sqlite3

import qmill


def store_squares(q: qmill.Q, connections: qmill.Q) -> None:
    """Insert a row for each number, with a connection that is ours while we use it."""
    for msg in q:
        db: sqlite3.Connection = connections.get().data
        with db:  # one transaction
            db.execute("INSERT INTO squares VALUES (?, ?)", (msg.data, msg.data**2))
        connections.put(db)


def main() -> None:
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.execute("CREATE TABLE squares (number INTEGER, square INTEGER)")

    q, connections = qmill.Q("thread"), qmill.Q("thread")
    connections.put(db)  # the connection itself: nothing is pickled
    workers = [qmill.run_thread(store_squares, q, connections) for _ in range(4)]
    for number in range(100):
        q.put(number)
    q.stop(workers)

    if connections.get().data is not db:
        raise SystemExit("the queue handed out another connection")
    rows, total = db.execute("SELECT count(*), sum(square) FROM squares").fetchone()
    db.close()
    print(f"{rows} rows, sum of squares: {total}")
    if (rows, total) != (100, 328350):
        raise SystemExit("expected 100 rows, sum of squares: 328350")


if __name__ == "__main__":
    main()
