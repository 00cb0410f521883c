"""A queue handed over another queue: each request brings along the queue for its answer."""

import qmill


def server(requests: qmill.Queue) -> None:
    """Answer each request on the queue that came with it."""
    for number, answers in requests:  # until the queue is shut down and empty
        answers.put((number, number**2))


def main() -> None:
    requests = qmill.Queue()
    servers = [qmill.run(server, requests) for _ in range(2)]

    even, odd = qmill.Queue(), qmill.Queue()  # the servers have never heard of these
    for number in range(10):
        requests.put((number, odd if number % 2 else even))
    requests.shutdown()
    for worker in servers:
        worker.result()  # raises what went wrong there, if anything did

    squares_of_even = dict(sorted(even.get_many(10)))
    squares_of_odd = dict(sorted(odd.get_many(10)))
    print(f"even: {squares_of_even}")
    print(f"odd: {squares_of_odd}")
    if squares_of_even != {n: n**2 for n in range(0, 10, 2)}:
        raise SystemExit("the queue for even numbers got wrong answers")
    if squares_of_odd != {n: n**2 for n in range(1, 10, 2)}:
        raise SystemExit("the queue for odd numbers got wrong answers")


if __name__ == "__main__":
    main()
