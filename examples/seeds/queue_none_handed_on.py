"""Several consumers, one None: whoever gets the None hands it on to the next."""

import qmill


def consumer(queue: qmill.Queue, results: qmill.Queue) -> None:
    """Put the double of each number, up to the None."""
    while (number := queue.get()) is not None:
        results.put(2 * number)
    queue.put(None)  # for the others


def main() -> None:
    queue, results = qmill.Queue(), qmill.Queue()
    workers = [qmill.run(consumer, queue, results) for _ in range(3)]
    queue.put_many(range(100))
    queue.put(None)
    for worker in workers:
        worker.result()  # raises what went wrong there, if anything did

    total = sum(results.get_many(100))
    print(f"{len(workers)} consumers stopped, total: {total}")
    if total != 9900:
        raise SystemExit("expected total: 9900")
    if queue.get() is not None or not queue.empty():
        raise SystemExit("nothing but the None should be left in the queue")


if __name__ == "__main__":
    main()
