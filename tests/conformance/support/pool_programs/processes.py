"""Processes: how they start, what they are given, how they end."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading


def end(how):
    if how == "text":
        sys.exit("a text")
    if how == "none":
        sys.exit()
    if how == "raise":
        sys.stderr = open(os.devnull, "w")
        raise ValueError("raised")
    if how == "exit":
        os._exit(7)
    if isinstance(how, signal.Signals):
        signal.signal(how, signal.SIG_DFL) if how not in (signal.SIGKILL,) else None
        os.kill(os.getpid(), how)
    sys.exit(how)


def put_name(queue):
    process = multiprocessing.current_process()
    above = multiprocessing.parent_process()
    queue.put((process.name, process.daemon, process._identity, above.name))
    queue.put((above.pid == os.getppid(), process.pid == os.getpid(), process.ident == os.getpid()))


def send(connection, lock, value):
    with lock:
        value.value += 1
    connection.send(["from the child", value.value])
    connection.close()


def wait_forever(ready):
    ready.set()
    threading.Event().wait()


class Adder(multiprocessing.Process):
    def __init__(self, numbers, queue, **options):
        super().__init__(**options)
        self.numbers = numbers
        self.queue = queue

    def run(self):
        self.queue.put(sum(self.numbers))


class NoArguments(multiprocessing.Process):
    def run(self):
        sys.exit(3)


def grandchild(queue):
    queue.put("from the grandchild")


def child(queue):
    process = multiprocessing.Process(target=grandchild, args=(queue,))
    process.start()
    process.join()
    queue.put(process.exitcode)


def tell(what, call, *args, **kwargs):
    try:
        print(what, call(*args, **kwargs))
    except Exception as error:
        print(what, type(error).__name__, error)


def show_ends():
    for how in (
        0,
        1,
        42,
        255,
        256,
        "text",
        "none",
        "raise",
        "exit",
        -3,
        True,
        2.5,
        signal.SIGTERM,
        signal.SIGKILL,
        signal.SIGUSR1,
    ):
        process = multiprocessing.Process(target=end, args=(how,))
        print(process.exitcode, process.pid, process.is_alive())
        process.start()
        process.join()
        print(repr(how), process.exitcode, process.is_alive())
    for name in ("terminate", "kill"):
        ready = multiprocessing.Event()
        process = multiprocessing.Process(target=wait_forever, args=(ready,))
        process.start()
        ready.wait()
        print(process.is_alive(), process.exitcode, process.join(0.01), process.is_alive())
        tell("close", process.close)
        getattr(process, name)()
        print(multiprocessing.connection.wait([process.sentinel], 60) == [process.sentinel])
        process.join(60)
        print(name, process.exitcode, process.is_alive())
        getattr(process, name)()
        process.close()
        tell("closed", process.is_alive)
        tell("closed", process.join)
        tell("closed", lambda: process.exitcode)
        tell("closed", lambda: process.sentinel)
        print("closed" in repr(process))
        process.close()


def show_wrong_uses():
    process = multiprocessing.Process(target=int)
    tell("join", process.join)
    tell("terminate", process.terminate)
    tell("sentinel", lambda: process.sentinel)
    tell("daemon", setattr, process, "daemon", True)
    print(process.daemon, process.name, "initial" in repr(process))
    process.start()
    tell("start", process.start)
    tell("daemon", setattr, process, "daemon", False)
    process.join()
    print(
        "stopped exitcode=0" in repr(process),
        process.authkey == multiprocessing.current_process().authkey,
    )
    tell("group", multiprocessing.Process, 1)
    tell("name", lambda: setattr(multiprocessing.Process(), "name", 5))
    plain = multiprocessing.Process()
    plain.start()
    plain.join()
    print(plain.exitcode)


def main(method):
    multiprocessing.set_start_method(method)
    queue = multiprocessing.Queue()
    for options in ({}, {"name": "Bob"}, {"daemon": True}, {"name": "Al", "daemon": False}):
        process = multiprocessing.Process(target=put_name, args=(queue,), **options)
        process.start()
        print(queue.get(), queue.get())
        process.join()
        print(process.name, process.daemon, process.exitcode)
    reader, writer = multiprocessing.Pipe(duplex=False)
    lock, value = multiprocessing.Lock(), multiprocessing.Value("i", 4)
    process = multiprocessing.Process(target=send, args=(writer, lock), kwargs={"value": value})
    process.start()
    writer.close()
    print(reader.recv())
    tell("the other end", reader.recv)
    process.join()
    for options in ({}, {"name": "adder"}):
        adder = Adder([1, 2, 3], queue, **options)
        adder.start()
        print(queue.get(), adder.join(), adder.exitcode)
    process = NoArguments()
    process.start()
    process.join()
    print(process.exitcode)
    process = multiprocessing.Process(target=child, args=(queue,))
    process.start()
    print(queue.get(), queue.get())
    process.join()
    show_ends()
    show_wrong_uses()
    ready = multiprocessing.Event()
    process = multiprocessing.Process(target=wait_forever, args=(ready,), daemon=True)
    process.start()
    print(process in multiprocessing.active_children())
    ready.wait()
    last = multiprocessing.Process(target=print, args=("last",), kwargs={"flush": True})
    last.start()
    print("end of main", flush=True) if last.join() is None else None


if __name__ == "__main__":
    main(sys.argv[1])
