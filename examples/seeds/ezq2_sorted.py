"""A program for ezq 2, with another import: several readers, and a writer that sorts."""

import warnings

import qmill.compat.ezq2 as ezq

warnings.filterwarnings("ignore", category=DeprecationWarning)


def print_in_order(write_q):
    for msg in ezq.sortiter(ezq.iter_msg(write_q)):
        print(*msg.data)


def halve_or_triple(read_q, write_q):
    """Do what the kind of each message says."""
    for msg in ezq.iter_msg(read_q):
        number = msg.data
        if msg.kind == "EVEN":
            ezq.put_msg(write_q, data=(number, number / 2), order=msg.order)
        elif msg.kind == "ODD":
            ezq.put_msg(write_q, data=(number, 3 * number + 1), order=msg.order)


def main():
    read_q, write_q = ezq.Queue(), ezq.Queue()
    readers = [ezq.run(halve_or_triple, read_q, write_q) for _ in range(ezq.NUM_CPUS)]
    writer = ezq.run(print_in_order, write_q)

    for number in range(40):
        kind = "ODD" if number % 2 else "EVEN"
        ezq.put_msg(read_q, kind=kind, data=number, order=number)
    ezq.endq_and_wait(read_q, readers)
    ezq.endq_and_wait(write_q, writer)

    ezq.put_msg(read_q, "LAST")
    ended = ezq.endq(read_q)
    print([msg.kind for msg in ezq.iter_msg(ended)])


if __name__ == "__main__":
    main()
