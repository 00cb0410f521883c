"""`queues.local.mailbox`: calls, answers, readers and limits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings, strategies as st

from qmill.queues.api import END
from qmill.queues.local.calls import LOCAL, Client, GetCall, JoinCall, MailReader, PutCall
from qmill.queues.local.mailbox import Mailbox


class Answer:
    """Notes the answer to a call."""

    def __init__(self):
        self.calls = []

    def __call__(self, value, error):
        self.calls.append((value, error))

    @property
    def payloads(self):
        [(value, error)] = self.calls
        assert error is None
        return [record.payload for _, record in value]


def ask(mailbox, client, answer, **options):
    """Make a call that takes one record."""
    call = GetCall(client, answer, **options)
    mailbox.get(call)
    return call


class Box:
    """A mailbox, and readers of it in several processes."""

    def __init__(self, payloads="", maxsize=0):
        self.mailbox = Mailbox(maxsize)
        self.put(payloads)

    def put(self, payloads):
        call = PutCall(payloads, None)
        self.mailbox.put(call)
        assert call.admitted == len(payloads)

    def end(self, number=1, tag=b"", sender=LOCAL):
        self.mailbox.end(number, tag, sender)

    def reader(self, client=None):
        return BoxReader(self.mailbox, client or Client())

    @property
    def waiting(self):
        return self.mailbox.snapshot()

    @property
    def counts(self):
        return self.mailbox.statistics()


class BoxReader:
    def __init__(self, mailbox, client):
        self.mailbox, self.client = mailbox, client
        self.reader = MailReader(client)

    def take(self):
        """Take what must be there now."""
        call = ask(self.mailbox, self.client, Answer(), reader=self.reader)
        assert not call.pending
        [(self.lease, record)] = call.value
        return record.payload

    def wait(self):
        """Ask for what must not be there yet."""
        answer = Answer()
        call = ask(self.mailbox, self.client, answer, reader=self.reader)
        assert call.pending
        assert answer.calls == []
        return answer

    def done(self):
        self.mailbox.lease_done(self.reader, self.lease)

    def die(self, clean=False):
        self.mailbox.client_gone(self.client, [self.reader], clean)

    def close(self):
        """Leave the loop alive, with all in hand finished."""
        self.mailbox.close_reader(self.reader, list(self.reader.leases))


def test_an_end_waits_while_another_process_holds_a_message():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    assert one.take() == "m"
    answer = other.wait()
    one.done()
    assert answer.payloads == [END]


def test_an_end_waits_and_then_the_message_comes_back():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    one.take()
    answer = other.wait()
    one.die()
    assert answer.payloads == ["m"]
    assert box.counts.redelivered == 1
    assert box.counts.size == 1  # the END


def test_an_end_waits_until_the_holder_leaves_its_loop():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    one.take()
    answer = other.wait()
    one.close()
    assert answer.payloads == [END]


def test_an_end_is_handed_out_to_the_holder_itself():
    box = Box("m")
    box.end()
    one = box.reader()
    one.take()
    assert one.take() is END


def test_an_end_is_handed_out_when_all_holders_wait():
    box = Box("mn")
    box.end(2)
    one, other = box.reader(), box.reader()
    one.take()
    other.take()
    first = one.wait()
    second = Answer()
    ask(box.mailbox, other.client, second, reader=other.reader)
    assert first.payloads == [END]
    # One of them works off its buffer now: the other has to wait for what may come back.
    assert second.calls == []
    one.close()
    assert second.payloads == [END]


def test_messages_of_a_holder_that_dies_after_its_end_go_to_the_other():
    box = Box("mn")
    box.end(2)
    one, other = box.reader(), box.reader()
    one.take()
    other.take()
    one.wait()
    second = Answer()
    ask(box.mailbox, other.client, second, reader=other.reader)
    one.die()
    assert second.payloads == ["m"]
    assert other.take() is END


def test_a_call_is_answered_once_also_when_it_serves_another_first():
    # The broker sends what a call that is not pending has in `value`, and what `answer` is given:
    # a call that does both has two replies, and its client is one reply behind from then on.
    box = Box("m")
    one, other = box.reader(), box.reader()
    one.take()
    box.end()
    box.put("n")
    waits = other.wait()
    answer = Answer()
    call = ask(box.mailbox, one.client, answer, reader=one.reader)
    assert waits.payloads == [END]
    assert [record.payload for _, record in call.value] == ["n"]
    assert len(answer.calls) == (1 if call.pending else 0)


def test_an_end_is_handed_out_although_its_sender_holds_a_message():
    box = Box("m")
    sender = Client()
    box.end(sender=sender)
    holder, other = box.reader(sender), box.reader()
    holder.take()
    assert other.take() is END


def test_an_end_held_back_does_not_hold_back_get_of_messages_put_later_by_order():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    one.take()
    box.put("n")
    answer = other.wait()
    one.done()
    assert answer.payloads == [END]
    assert box.waiting == ["n"]


def test_withdrawing_an_end_serves_who_waited_behind_it():
    box = Box("m")
    box.end(tag=b"t")
    one, other = box.reader(), box.reader()
    one.take()
    box.put("n")
    answer = other.wait()
    assert box.mailbox.withdraw_ends(b"t") == 1
    assert answer.payloads == ["n"]


def test_only_ends_of_the_tag_are_withdrawn():
    box = Box("m")
    box.end(2, b"a")
    box.end(1, b"b")
    assert box.mailbox.withdraw_ends(b"a") == 2
    assert box.mailbox.withdraw_ends(b"a") == 0
    assert box.counts.size == 2
    reader = box.reader()
    assert [reader.take(), reader.take()] == ["m", END]


def test_redelivered_messages_come_first_and_in_their_order():
    box = Box("abcdef")
    one, other = box.reader(), box.reader()
    assert [one.take(), other.take(), one.take(), other.take()] == list("abcd")
    one.die()
    assert box.waiting == list("acef")
    other.die()
    assert box.waiting == list("abcdef")


def test_redelivered_messages_come_before_ends():
    box = Box("abc")
    box.end()
    one = box.reader()
    assert [one.take(), one.take(), one.take()] == list("abc")
    one.die()
    other = box.reader()
    assert [other.take() for _ in range(4)] == ["a", "b", "c", END]


def test_redelivered_messages_need_no_room():
    box = Box("ab", maxsize=2)
    reader = box.reader()
    reader.take()
    box.put("c")
    reader.die()
    assert box.waiting == list("abc")
    assert box.mailbox.full()


def test_a_reader_that_says_good_bye_gives_back_its_messages_and_has_not_died():
    box = Box("ab")
    for _ in range(5):
        reader = box.reader()
        reader.take()
        reader.die(clean=True)
    assert box.waiting == ["a", "b"]
    assert box.counts.unfinished == 2
    assert (box.counts.lost, box.counts.poisoned, box.counts.redelivered) == (0, 0, 5)


def test_three_deaths_poison_a_message():
    box = Box("ab")
    for death in range(3):
        assert box.counts.poisoned == 0
        reader = box.reader()
        assert reader.take() == "a", death
        reader.die()
    assert box.waiting == ["b"]
    assert box.counts.poisoned == 1
    assert box.counts.unfinished == 1
    assert box.mailbox.set_aside(True) == [(1, "a")]
    assert box.mailbox.set_aside(True) == []
    assert box.mailbox.set_aside(False) == [(1, "a")]
    assert box.mailbox.requeue(1)
    assert not box.mailbox.requeue(1)
    assert box.mailbox.set_aside(False) == []
    assert box.waiting == ["a", "b"]
    assert box.counts.unfinished == 2
    reader = box.reader()
    reader.take()
    reader.die()  # the first death again
    assert box.waiting == ["a", "b"]


def test_a_poisoned_message_releases_joiners():
    box = Box("a")
    joined = Answer()
    box.mailbox.join(call := JoinCall(joined))
    assert call.pending
    for _ in range(3):
        reader = box.reader()
        reader.take()
        reader.die()
    assert joined.calls == [(None, None)]


def test_what_a_dead_process_took_by_get_is_lost_and_counts_as_done():
    box = Box("ab")
    client = Client()
    assert not ask(box.mailbox, client, None).pending
    box.mailbox.client_gone(client, [], clean=False)
    assert box.counts.lost == 1
    assert box.counts.unfinished == 1
    assert box.waiting == ["b"]


def test_closing_a_reader_gives_back_what_it_never_saw():
    box = Box("abc")
    reader = box.reader()
    reader.take()
    done = [reader.lease]
    reader.take()  # its answer was lost on the way
    box.mailbox.close_reader(reader.reader, done)
    assert box.waiting == ["b", "c"]
    assert box.counts.unfinished == 2
    assert box.counts.leased == 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_what_is_released_waits_again_in_its_place():
    box = Box("abc")
    reader = box.reader()
    assert reader.take() == "a"
    lease = reader.lease
    assert reader.take() == "b"
    assert box.mailbox.release(reader.reader, lease, 0.0)
    assert not box.mailbox.release(reader.reader, lease, 0.0)
    assert box.waiting == ["a", "c"]
    assert (box.counts.leased, box.counts.unfinished, box.counts.redelivered) == (1, 3, 1)
    assert box.counts.taken == 2


def test_what_is_released_with_a_delay_comes_when_it_is_due_and_is_waited_for():
    clock = Clock()
    box = Box("ab")
    box.mailbox._clock = clock
    told = []
    box.mailbox.on_delay = lambda: told.append(box.mailbox.next_due())
    box.end()
    reader, other = box.reader(), box.reader()
    reader.take()
    box.mailbox.release(reader.reader, reader.lease, 10.0)
    assert told == [10.0]
    assert box.counts.size == 3
    assert box.counts.leased == 0
    assert reader.take() == "b"
    reader.done()
    answer = other.wait()  # an END is there, but not due before the message
    box.mailbox.shutdown(False)
    clock.now = 9.9
    box.mailbox.admit_due()
    assert answer.calls == []
    assert box.mailbox.next_due() == pytest.approx(0.1)
    clock.now = 10.0
    box.mailbox.admit_due()
    assert answer.payloads == ["a"]
    assert box.mailbox.next_due() is None


def test_delayed_messages_take_room_and_are_kept_and_thrown_away_with_the_others():
    box = Box("ab", maxsize=2)
    reader = box.reader()
    reader.take()
    box.mailbox.release(reader.reader, reader.lease, 3600.0)
    assert box.mailbox.full()
    assert box.waiting == ["a", "b"]
    box.mailbox.shutdown(True)
    assert box.waiting == []
    assert (box.counts.size, box.counts.unfinished) == (0, 0)


def test_a_call_that_takes_finds_what_has_become_due():
    clock = Clock()
    box = Box("a")
    box.mailbox._clock = clock
    reader = box.reader()
    reader.take()
    box.mailbox.release(reader.reader, reader.lease, 1.0)
    clock.now = 1.0
    assert reader.take() == "a"


def test_a_reader_that_dies_while_it_waits_gets_nothing():
    box = Box()
    one, other = box.reader(), box.reader()
    answers = [Answer(), Answer()]
    ask(box.mailbox, one.client, answers[0], reader=one.reader, is_alive=lambda: False)
    ask(box.mailbox, other.client, answers[1], reader=other.reader, is_alive=lambda: True)
    box.put("a")
    assert answers[0].calls == []
    assert answers[1].payloads == ["a"]


steps = st.lists(
    st.tuples(st.sampled_from(["put", "end", "take", "done", "die", "close"]), st.integers(0, 2)),
    max_size=60,
)


@given(steps=steps)
@settings(deadline=None, max_examples=150)
def test_no_message_is_lost_and_only_messages_of_the_dead_come_twice(steps):
    box = Box()
    readers = [box.reader() for _ in range(3)]
    answers = [None] * 3
    held = [[], [], []]  # messages in the hands of each reader
    finished, deaths, numbers = [], {}, itertools.count()

    def receive():
        for index, answer in enumerate(answers):
            if answer is not None and answer.calls:
                [(value, _)] = answer.calls
                answers[index] = None
                for lease, record in value:
                    if record.payload is not END:
                        held[index].append((lease, record.payload))

    for step, index in steps:
        reader = readers[index]
        if step == "put":
            box.put([next(numbers)])
        elif step == "end":
            box.end()
        elif step == "take" and answers[index] is None:
            answers[index] = Answer()
            call = ask(box.mailbox, reader.client, answers[index], reader=reader.reader)
            if not call.pending:
                answers[index].calls.append((call.value, None))
        elif step == "done" and held[index]:
            lease, payload = held[index].pop(0)
            box.mailbox.lease_done(reader.reader, lease)
            finished.append(payload)
        elif step == "close" and answers[index] is None:
            reader.close()
            finished += [payload for _, payload in held[index]]
            held[index] = []
        elif step == "die" and answers[index] is None:
            for _, payload in held[index]:
                deaths[payload] = deaths.get(payload, 0) + 1
            reader.die()
            held[index] = []
            readers[index] = box.reader()
        receive()
    poisoned = [payload for payload, count in deaths.items() if count >= 3]
    in_hands = [payload for hand in held for _, payload in hand]
    everything = box.waiting + in_hands + finished + poisoned
    assert sorted(everything) == list(range(next(numbers)))
    found = box.counts
    assert found.leased == len(in_hands)
    assert found.unfinished == len(box.waiting) + len(in_hands)
    assert found.poisoned == len(poisoned)
