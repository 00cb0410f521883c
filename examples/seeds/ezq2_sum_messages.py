"""A program for ezq 2, with another import: its functions, on queues without methods for them."""

import warnings

import qmill.compat.ezq2 as ezq

# ezq 2.0.3 deprecated them in favour of `Q`, and so does this module.
warnings.filterwarnings("ignore", category=DeprecationWarning)


def add_up(in_q, out_q):
    """Put the sum of all messages that this worker gets."""
    total = 0
    for msg in ezq.iter_msg(in_q):
        total += msg.data
    ezq.put_msg(out_q, data=total)


def main():
    in_q, out_q = ezq.Queue(), ezq.Queue()
    workers = [ezq.run(add_up, in_q, out_q) for _ in range(ezq.NUM_CPUS)]
    for number in range(1000):
        ezq.put_msg(in_q, data=number)
    ended = ezq.endq_and_wait(in_q, workers)

    if ended != workers or not all(isinstance(worker, ezq.Process) for worker in workers):
        raise SystemExit("expected the processes")
    total = sum(msg.data for msg in ezq.iter_q(out_q))
    print(f"total: {total}")
    if total != 499500:
        raise SystemExit("expected 499500")


if __name__ == "__main__":
    main()
