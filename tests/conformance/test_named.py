"""What a name does: one queue for programs that were started separately."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import tempfile
import threading

import conformance_children as children
import pytest
from conformance_support import LIMIT_S, PROCESS_HERE, blocked, wait_until_asleep

import qmill
from qmill.queues.names import folders, listing, name_files

PROGRAMS = 8


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch, process_transport):
    """The directory that stands for the user's runtime directory, on every transport."""
    monkeypatch.setenv("QMILL_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def persistent():
    """The name of a queue that is unlinked in the end."""
    yield "kept"
    queue = qmill.Queue(name="kept", persistent=True)
    queue.unlink()
    queue.close()


# A program that does with a named queue what it is told: the name of a method and its arguments.
SERVANT = """
name, options = hear()
queue = qmill.Queue(name=name, **options)
tell("open")
while (order := hear()) is not None:
    method, *arguments = order
    tell(getattr(queue, method)(*arguments))
"""


def open_in(program, name, **options):
    program.tell((name, options))
    assert program.hear() == "open"
    return program


def do(program, method, *arguments):
    program.tell((method, *arguments))
    return program.hear()


def end(program):
    program.tell(None)
    program.finish()


def drain(queue):
    items = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


def opened(name, **options):
    """What a fresh open of a name finds."""
    queue = qmill.Queue(name=name, **options)
    try:
        return drain(queue)
    finally:
        queue.close()


# -- opening --------------------------------------------------------------------------------------


def test_two_programs_share_a_queue_by_its_name(start_program):
    writer = open_in(start_program(SERVANT), "orders")
    reader = open_in(start_program(SERVANT), "orders")
    do(writer, "put", {"number": 1})
    assert do(reader, "get") == {"number": 1}
    end(writer)
    end(reader)


def test_a_program_waits_for_what_another_will_put(start_program):
    reader = open_in(start_program(SERVANT), "orders")
    reader.tell(("get",))
    writer = open_in(start_program(SERVANT), "orders")
    do(writer, "put", "at last")
    assert reader.hear() == "at last"
    end(writer)
    end(reader)


def test_one_program_may_open_a_name_twice():
    first, second = qmill.Queue(name="orders"), qmill.Queue(name="orders")
    first.put("item")
    assert second.get_nowait() == "item"
    first.close()
    second.put("still open")
    assert second.get_nowait() == "still open"
    second.close()


def test_names_are_told_apart():
    first, second = qmill.Queue(name="orders"), qmill.Queue(name="Orders")
    first.put("item")
    assert second.empty()
    first.close()
    second.close()


def test_a_named_queue_knows_its_name_and_maxsize():
    queue = qmill.Queue(3, name="orders")
    assert (queue.name, queue.maxsize) == ("orders", 3)
    queue.close()


ODD_NAMES = ["n" * 200, "ü" * 100, "two words", "...", "-rf", "日本\n"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=[ascii(name[:9]) for name in ODD_NAMES])
def test_any_other_name_is_a_name(start_program, name):
    other = open_in(start_program(SERVANT), name)
    queue = qmill.Queue(name=name)
    do(other, "put", "item")
    assert queue.get_nowait() == "item"
    queue.close()
    end(other)


def test_a_named_queue_can_be_sent(start_program):
    queue = qmill.Queue(name="orders")
    program = start_program("queue = pickle.loads(hear()); queue.put(queue.name)")
    program.tell(pickle.dumps(queue))
    assert queue.get(timeout=LIMIT_S) == "orders"
    program.finish()
    queue.close()


def test_eight_programs_that_open_a_name_at_once_get_one_queue(start_program):
    programs = [start_program(SERVANT) for _ in range(PROGRAMS)]
    for program in programs:
        program.tell(("orders", {"maxsize": PROGRAMS}))
    for number, program in enumerate(programs):
        assert program.hear() == "open"
        program.tell(("put", number))
    for program in programs:
        assert program.hear() is None
    assert sorted(opened("orders", maxsize=PROGRAMS)) == list(range(PROGRAMS))
    for program in programs:
        end(program)


def test_threads_that_open_a_name_at_once_get_one_queue():
    queues = []
    barrier = threading.Barrier(PROGRAMS)

    def open_one():
        barrier.wait(LIMIT_S)
        queues.append(qmill.Queue(name="orders"))

    threads = [threading.Thread(target=open_one) for _ in range(PROGRAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    for number, queue in enumerate(queues):
        queue.put(number)
    assert drain(queues[0]) == list(range(PROGRAMS))
    for queue in queues:
        queue.close()


def test_opening_with_another_maxsize_is_an_error(start_program):
    other = open_in(start_program(SERVANT), "orders", maxsize=3)
    do(other, "put", "item")
    with pytest.raises(ValueError, match=r"maxsize.*5|5.*maxsize") as caught:
        qmill.Queue(5, name="orders")
    assert "3" in str(caught.value)
    assert opened("orders", maxsize=3) == ["item"]
    end(other)


def test_a_maxsize_that_is_set_is_that_of_the_name(start_program):
    other = open_in(start_program(SERVANT), "orders", maxsize=3)
    queue = qmill.Queue(3, name="orders")
    queue.maxsize = 5
    assert do(other, "__getattribute__", "maxsize") == 5
    assert do(other, "put_many", range(6), False) == 5
    with pytest.raises(ValueError, match=r"maxsize must be 5.*not 3"):
        qmill.Queue(3, name="orders")
    qmill.Queue(5, name="orders").close()
    do(other, "__setattr__", "maxsize", 0)
    queue.put_nowait(5)
    assert queue.maxsize == 0
    queue.close()
    end(other)


def test_only_this_user_has_access(directory):
    queue = qmill.Queue(name="orders")
    queue.put("item")
    for path in directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    queue.close()


# -- lifetime -------------------------------------------------------------------------------------


def test_a_queue_outlives_its_creator_while_another_has_it_open(start_program):
    creator = open_in(start_program(SERVANT), "orders")
    other = open_in(start_program(SERVANT), "orders")
    do(creator, "put", "left behind")
    end(creator)
    assert do(other, "get") == "left behind"
    do(other, "put", "and on")
    assert opened("orders") == ["and on"]
    end(other)


def test_a_blocked_reader_does_not_notice_that_the_creator_ends(start_program):
    creator = open_in(start_program(SERVANT), "orders")
    queue = qmill.Queue(name="orders")
    waiting = blocked(queue.get)
    end(creator)
    queue.put("found")
    assert waiting.result() == "found"
    queue.close()


def test_a_killed_creator_takes_nothing_with_it(start_program):
    creator = open_in(start_program(SERVANT), "orders")
    queue = qmill.Queue(name="orders")
    do(creator, "put", "left behind")
    creator.kill()
    assert queue.get_nowait() == "left behind"
    queue.put("and on")
    assert queue.get_nowait() == "and on"
    queue.close()


def test_a_killed_reader_of_a_named_queue_costs_nobody_anything(start_program):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    queue = qmill.Queue(name="orders")
    queue.put_many([1, 2])
    reader = open_in(start_program(SERVANT), "orders")
    assert do(reader, "get") == 1
    reader.kill()
    assert queue.statistics().lost == 1
    assert queue.get_nowait() == 2
    queue.task_done()
    queue.join()
    assert queue.statistics().lost == 1
    queue.close()


def test_a_queue_that_nobody_has_open_is_gone(start_program):
    program = open_in(start_program(SERVANT), "orders")
    do(program, "put", "unread")
    end(program)
    assert opened("orders") == []


def test_a_queue_whose_only_holder_was_killed_is_gone(start_program):
    program = open_in(start_program(SERVANT), "orders")
    do(program, "put", "unread")
    program.kill()
    assert opened("orders") == []


def test_a_queue_that_was_closed_by_all_is_gone():
    queue = qmill.Queue(name="orders")
    queue.put("unread")
    queue.close()
    assert opened("orders") == []


def test_a_name_that_is_free_again_may_get_another_maxsize():
    qmill.Queue(3, name="orders").close()
    queue = qmill.Queue(5, name="orders")
    assert queue.maxsize == 5
    queue.close()


def test_a_queue_in_use_can_be_opened_again_and_again(start_program):
    keeper = open_in(start_program(SERVANT), "orders")
    for number in range(10):
        queue = qmill.Queue(name="orders")
        queue.put(number)
        queue.close()
    assert do(keeper, "get_many", 20) == list(range(10))
    end(keeper)


def test_a_process_holds_the_queue_by_a_handle_that_it_was_sent(start_program):
    creator = open_in(start_program(SERVANT), "orders")
    queue = qmill.Queue(name="orders")
    holder = start_program("queue = hear(); tell('has it'); hear(); tell(queue.get())")
    holder.tell(queue)
    assert holder.hear() == "has it"
    queue.put("item")
    queue.close()
    end(creator)
    holder.tell("go on")
    assert holder.hear() == "item"
    holder.finish()


def wait_until_gone(directory, but=0):
    """See that the files are removed, where a process of its own may do it, which ends later."""
    for _ in range(int(LIMIT_S * 100)):
        left = list(directory.rglob("*"))
        if len(left) <= but:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"left behind: {left}")


def test_names_that_were_used_leave_no_files_but_one_lock(directory):
    for name in ("orders", "bills", "letters"):
        queue = qmill.Queue(name=name)
        queue.put("unread")
        queue.close()
    wait_until_gone(directory, but=1)


def test_a_queue_that_was_dropped_while_another_opens_one_is_gone_in_the_end(
    start_program, directory
):
    program = start_program(
        """queue = qmill.Queue(name="orders"); queue.put("unread"); tell("open"); hear()
del queue
tell("dropped"); hear()"""
    )
    assert program.hear() == "open"
    with name_files.locked(str(directory)):  # as whoever opens one does
        program.tell("drop it")
        assert program.hear() == "dropped"
    program.tell("end")
    program.finish()
    wait_until_gone(directory)


def test_a_loop_keeps_a_queue_open_that_has_no_other_handle(start_program):
    reader = start_program("for msg in qmill.Q(name='orders'): tell(msg.data)")
    wait_until_asleep(reader.pid)
    orders = qmill.Q(name="orders")
    orders.put("at last")
    assert reader.hear() == "at last"
    orders.end()
    reader.finish()
    orders.close()


def test_a_method_keeps_a_queue_open_that_has_no_other_handle(start_program):
    get = qmill.Queue(name="orders").get
    gc.collect()
    writer = open_in(start_program(SERVANT), "orders")
    do(writer, "put", "item")
    end(writer)
    assert get() == "item"


def test_a_handle_that_is_closed_twice_closes_no_other():
    first, second = qmill.Queue(name="orders"), qmill.Queue(name="orders")
    first.put("item")
    first.close()
    first.close()
    assert opened("orders") == ["item"]
    second.close()


# -- persistent -----------------------------------------------------------------------------------


def test_a_persistent_queue_keeps_what_is_unread(start_program, persistent):
    writer = open_in(start_program(SERVANT), persistent, persistent=True)
    do(writer, "put_many", [1, 2, 3])
    end(writer)
    reader = open_in(start_program(SERVANT), persistent, persistent=True)
    assert do(reader, "get") == 1
    end(reader)
    assert opened(persistent, persistent=True) == [2, 3]
    assert opened(persistent, persistent=True) == []


def test_a_persistent_queue_keeps_what_a_killed_program_put(start_program, persistent):
    writer = open_in(start_program(SERVANT), persistent, persistent=True)
    do(writer, "put", b"x" * 1_000_000)
    writer.kill()
    assert opened(persistent, persistent=True) == [b"x" * 1_000_000]


def test_a_persistent_queue_keeps_its_maxsize(start_program):
    writer = open_in(start_program(SERVANT), "kept", maxsize=3, persistent=True)
    end(writer)
    with pytest.raises(ValueError, match="maxsize"):
        qmill.Queue(5, name="kept", persistent=True)
    queue = qmill.Queue(3, name="kept", persistent=True)
    queue.unlink()
    queue.close()


def test_a_persistent_queue_keeps_a_maxsize_that_was_set(start_program):
    writer = open_in(start_program(SERVANT), "kept", maxsize=3, persistent=True)
    do(writer, "__setattr__", "maxsize", 5)
    do(writer, "put_many", range(5))
    end(writer)
    writer.finish()
    queue = qmill.Queue(5, name="kept")
    assert (queue.maxsize, queue.full(), queue.qsize()) == (5, True, 5)
    queue.unlink()
    queue.close()


def test_unlink_gives_up_the_name_and_what_is_unread(start_program):
    queue = qmill.Queue(3, name="kept", persistent=True)
    queue.put("unread")
    queue.unlink()
    queue.close()
    fresh = qmill.Queue(5, name="kept")
    assert fresh.empty()
    fresh.close()


def test_unlink_by_another_program(start_program):
    writer = open_in(start_program(SERVANT), "kept", persistent=True)
    do(writer, "put", "unread")
    end(writer)
    other = open_in(start_program(SERVANT), "kept", persistent=True)
    do(other, "unlink")
    end(other)
    assert opened("kept") == []


def test_the_next_to_open_an_unlinked_name_begins_anew(start_program):
    old = open_in(start_program(SERVANT), "orders")
    do(old, "put", "unread")
    do(old, "unlink")
    new = qmill.Queue(name="orders")
    assert new.empty()
    new.put("of the new queue")
    assert new.get_nowait() == "of the new queue"
    new.close()
    end(old)


# -- two transports -------------------------------------------------------------------------------


@pytest.fixture
def other_transport(process_transport, monkeypatch):
    """One that is not under test, in what follows its call."""
    if len(PROCESS_HERE) < 2:
        pytest.skip("one transport only: the native core is not built")
    other = next(p.transport for p in PROCESS_HERE if p.transport != process_transport)
    return lambda: monkeypatch.setenv("QMILL_TRANSPORT", other)


def test_a_name_is_not_opened_on_another_transport(other_transport):
    queue = qmill.Queue(name="orders")
    other_transport()
    with pytest.raises(ValueError, match=r"orders.*(QMILL_TRANSPORT=portable|shared memory)"):
        qmill.Queue(name="orders")
    queue.close()


def test_a_name_that_is_kept_is_not_opened_on_another_transport(other_transport, start_program):
    end(open_in(start_program(SERVANT), "kept", persistent=True))
    queue = qmill.Queue(name="kept", persistent=True)
    queue.close()
    other_transport()
    with pytest.raises(ValueError, match=r"kept.*(QMILL_TRANSPORT=portable|shared memory)"):
        qmill.Queue(name="kept")


def test_a_name_that_nobody_has_open_is_free_for_every_transport(other_transport, start_program):
    program = open_in(start_program(SERVANT), "orders")
    program.kill()
    other_transport()
    queue = qmill.Queue(name="orders")
    queue.put("item")
    assert queue.get_nowait() == "item"
    queue.close()


# -- Ctrl-C in the terminal of the program that came first ----------------------------------------


def test_ctrl_c_in_the_creators_terminal_leaves_the_queue_to_others(start_program):
    creator = start_program("os.setsid()" + SERVANT)
    open_in(creator, "orders")
    queue = qmill.Queue(name="orders")
    creator.tell(("get",))
    queue.put("first")
    assert creator.hear() == "first"
    os.killpg(creator.pid, signal.SIGINT)  # as a terminal does: to all of its group
    assert creator.exitcode() != 0
    queue.put("second")
    assert queue.get_nowait() == "second"
    queue.close()


def test_each_start_method_can_open_a_name(start, directory):
    queue = qmill.Queue(name="orders")
    environ = {name: os.environ[name] for name in ("QMILL_DIR", "QMILL_TRANSPORT")}
    start(children.open_and_put, environ, "orders", "item").result()
    assert queue.get_nowait() == "item"
    queue.close()


# -- the folder -----------------------------------------------------------------------------------


def test_without_maxsize_a_name_is_opened_with_the_limit_that_it_has():
    first = qmill.Queue(3, name="orders")
    second, third = qmill.Queue(name="orders"), qmill.Q(name="orders")
    assert (second.maxsize, third.maxsize) == (3, 3)
    with pytest.raises(ValueError, match="maxsize must be 3"):
        qmill.Queue(0, name="orders")
    for queue in (first, second, third):
        queue.close()
    unlimited = qmill.Queue(name="orders")
    assert unlimited.maxsize == qmill.Queue(kind="thread").maxsize == qmill.Queue().maxsize == 0
    unlimited.close()


@pytest.mark.parametrize("ending", ["live", "queue", "ring", "kept", "ring.new", "txt"])
def test_an_odd_entry_blocks_no_other_name(directory, ending):
    (directory / f"folder.{ending}").mkdir()
    (directory / f"dangling.{ending}").symlink_to(directory / "nothing")
    os.mkfifo(directory / f"pipe.{ending}")
    (directory / f"bytes-x.{ending}").write_bytes(b"\xff\x00garbage")
    queue = qmill.Queue(name="orders")
    queue.put("item")
    assert opened("orders") == ["item"]
    assert "orders" in [found.name for found in listing.list_queues()]
    told = "".join(listing.odd_entries())
    assert all(f"{kind}.{ending} is" in told for kind in ("folder", "dangling", "pipe"))
    queue.close()
    listing.remove_leftovers()
    assert (directory / f"folder.{ending}").is_dir()


@pytest.mark.parametrize("ending", [".ring", ".kept", ".queue", ".live"])
def test_an_odd_entry_in_the_place_of_a_name_is_told(directory, ending):
    os.mkdir(name_files.file_of(str(directory), "orders", ending))
    with pytest.raises(ValueError, match="is a folder, and no file of a queue; remove it"):
        qmill.Queue(name="orders")
    (directory / "lock").unlink(missing_ok=True)
    (directory / "lock").mkdir()
    with pytest.raises(PermissionError, match="lock is a folder"):
        qmill.Queue(name="others")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of this user, and none of the variables that tell other places."""
    for name in ("QMILL_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_session_and_cron_find_one_queue(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    queue = qmill.Queue(name="orders", persistent=True)
    queue.put("item")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert opened("orders") == ["item"]
    state = home / ".local" / "state" / "qmill" / os.uname().nodename
    assert folders.names_folder() == str(state)
    assert [path.stat().st_mode & 0o777 for path in (state, state.parent)] == [0o700, 0o700]
    queue.unlink()
    queue.close()


def test_a_queue_in_the_folder_of_an_earlier_version_is_found(home, tmp_path, monkeypatch):
    old = tmp_path / f"qmill-{os.getuid()}"
    monkeypatch.setenv("QMILL_DIR", str(old))
    queue = qmill.Queue(2, name="orders", persistent=True)
    queue.put("item")
    monkeypatch.delenv("QMILL_DIR")
    with pytest.raises(ValueError, match="open in the folder of an earlier version"):
        qmill.Queue(name="orders")
    queue.close()
    while list(old.glob("*.live")):  # a broker ends by itself
        os.sched_yield()
    found = qmill.Queue(name="orders")
    assert (found.maxsize, found.get_nowait()) == (2, "item")
    found.unlink()
    found.close()


def test_a_home_that_is_none_is_told_or_done_without(home, tmp_path, monkeypatch):
    (home / ".local").write_text("no folder")
    with pytest.raises(PermissionError, match="cannot be made.*set QMILL_DIR"):
        qmill.Queue(name="orders")
    monkeypatch.setattr(folders, "_home", lambda: None)
    assert folders.names_folder() == str(tmp_path / f"qmill-{os.getuid()}")


def test_a_network_file_system_is_refused(home, monkeypatch):
    monkeypatch.setattr(folders, "file_system", lambda folder: "nfs4")
    with pytest.raises(PermissionError, match=r"network file system \(nfs4\).*set QMILL_DIR"):
        qmill.Queue(name="orders")


def test_the_file_system_of_a_folder_is_known():
    assert folders.file_system("/proc") == "proc"
