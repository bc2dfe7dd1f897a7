"""Endpoints: order, envelopes, what is refused, links that are full or whose process is gone."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from meshray.config import DEFAULT
from meshray.ids import new_process
from meshray.transport.endpoint import _GREETING, _MAGIC, _SIZE, RECEIVE_BUDGET, SOCKET_PATH_MAX_BYTES, Endpoint
from meshray.wire.codec import encode
from meshray.wire.messages import HoldDone, Message, Release, Wake
from tests.until import until

NODE = b"the-node"


class Host:
    """Endpoints in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[Endpoint] = []

    def endpoint(self, process: bytes | None = None) -> tuple[bytes, Endpoint]:
        process = process or new_process(NODE)
        endpoint = Endpoint(self.folder, process)
        self._open.append(endpoint)
        return process, endpoint

    def close(self, endpoint: Endpoint) -> None:
        self._open.remove(endpoint)
        endpoint.close(linger_ms=0)

    def close_all(self) -> None:
        for endpoint in list(self._open):
            self.close(endpoint)


@pytest.fixture
def host() -> Iterator[Host]:
    with TemporaryDirectory(prefix="mr-") as folder:  # short, as paths of sockets must be
        host = Host(Path(folder))
        yield host
        host.close_all()


def received(endpoint: Endpoint, count: int) -> list[tuple[bytes, Message]]:
    """The next `count` messages."""
    arrived: list[tuple[bytes, Message]] = []

    def look() -> bool:
        arrived.extend(endpoint.receive())
        return len(arrived) >= count

    until(look, f"{count} messages")
    return arrived


def refused(endpoint: Endpoint, count: int) -> None:
    """Wait for so many refusals; nothing else may arrive."""

    def look() -> bool:
        assert endpoint.receive() == []
        return endpoint.refused >= count

    until(look, f"{count} refusals")


class Stranger:
    """A socket of somebody who belongs to this user, and speaks as it likes."""

    def __init__(self, host: Host, to: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(host.folder / to[8:].hex()))
        self.to = to
        self.process = new_process(NODE)

    def greet(self, **changes: bytes) -> None:
        given = {"magic": _MAGIC, "to": self.to, "source": self.process} | changes
        self.say(_GREETING.pack(given["magic"], given["to"], given["source"]))

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def is_cut_off(self, endpoint: Endpoint) -> bool:
        """Whether the other side has closed the connection, which it may do in any of its looks."""
        endpoint.receive()
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def framed(message: Message) -> bytes:
    data = encode(message)
    return _SIZE.pack(len(data)) + data


@pytest.fixture
def strangers(host: Host) -> Iterator[Callable[[bytes], Stranger]]:
    made: list[Stranger] = []

    def make(to: bytes) -> Stranger:
        made.append(Stranger(host, to))
        return made[-1]

    yield make
    for stranger in made:
        stranger.socket.close()


def test_messages_arrive_in_order_with_their_source(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    for number in range(300):
        sender.send(to, HoldDone(number))
    assert received(receiver, 300) == [(source, HoldDone(number)) for number in range(300)]


def test_one_look_takes_no_more_than_its_budget(host: Host) -> None:
    to, receiver = host.endpoint()
    _, sender = host.endpoint()
    count = 3 * RECEIVE_BUDGET
    for number in range(count):
        sender.send(to, HoldDone(number))
    sizes: list[int] = []

    def look() -> bool:
        sizes.append(len(receiver.receive()))
        return sum(sizes) == count

    until(look, "all of them")
    assert max(sizes) <= RECEIVE_BUDGET


def test_one_that_never_rests_does_not_silence_the_others(host: Host) -> None:
    to, receiver = host.endpoint()
    loud, shouting = host.endpoint()
    quiet, whispering = host.endpoint()
    shouting.send(to, Wake())
    received(receiver, 1)
    whispering.send(to, HoldDone(1))
    sources: list[bytes] = []
    while len(sources) < 1000 and quiet not in sources:
        shouting.send(to, Wake())
        shouting.send(to, Wake())
        sources += [source for source, _ in receiver.receive(1, likely=True)]
        sources += [source for source, _ in receiver.receive()]
    assert quiet in sources
    assert loud in sources


def test_nothing_means_that_nothing_whole_was_there(
    host: Host, strangers: Callable[[bytes], Stranger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer hears out a process before it buries it."""
    monkeypatch.setattr("meshray.transport.endpoint._READ_BYTES", 1000)
    to, receiver = host.endpoint()
    strangers(to)  # and says nothing
    source, sender = host.endpoint()
    large = Release([os.urandom(28) for _ in range(1000)])
    sender.send(to, large)
    assert not sender.clogged
    assert receiver.receive() == [(source, large)]
    stranger = strangers(to)
    stranger.greet()
    stranger.say(framed(large)[:-1])
    sender.send(to, HoldDone(1))
    assert receiver.receive() == [(source, HoldDone(1))]
    assert receiver.receive() == []


def test_the_socket_is_private_and_goes_with_its_process(host: Host) -> None:
    process, endpoint = host.endpoint()
    path = host.folder / process[8:].hex()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    host.close(endpoint)
    assert not path.exists()


def test_too_long_a_path_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MESHRAY_RUNTIME_DIR"):
        Endpoint(tmp_path / ("x" * SOCKET_PATH_MAX_BYTES), new_process(NODE))


@pytest.mark.fault(47)
def test_what_is_for_a_predecessor_is_refused(host: Host, strangers: Callable[[bytes], Stranger]) -> None:
    """The next process at the same address: what was meant for the one before does nothing (I3)."""
    to, receiver = host.endpoint()
    stranger = strangers(to)
    stranger.greet(to=b"the-one-" + to[8:])
    stranger.say(framed(Wake()))
    refused(receiver, 1)
    assert b"the-one-".hex() in receiver.last_refusal
    until(lambda: stranger.is_cut_off(receiver), "the connection to be closed")
    source, sender = host.endpoint()
    sender.send(to, HoldDone(1))
    assert received(receiver, 1) == [(source, HoldDone(1))]


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "speech",
    [
        b"GET / HTTP/1.1\r\nHost: somebody's idea of a greeting, long enough\r\n\r\n",
        bytes(_GREETING.size),
        bytes(100_000),
    ],
    ids=["another protocol", "zeros", "many zeros"],
)
def test_whoever_does_not_greet_is_cut_off(host: Host, strangers: Callable[[bytes], Stranger], speech: bytes) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    for number in range(3):
        stranger = strangers(to)
        stranger.say(speech)
        refused(receiver, number + 1)
        until(lambda stranger=stranger: stranger.is_cut_off(receiver), "the connection to be closed")  # type: ignore[misc]
        sender.send(to, HoldDone(number))
        assert received(receiver, 1) == [(source, HoldDone(number))]


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x91" * 10_000, b"\xff" * 5000, encode(Wake())[:-1]],
    ids=["empty", "unused", "deep", "map", "cut"],
)
def test_what_is_no_message_is_counted_and_nobody_falls_out_of_step(
    host: Host, strangers: Callable[[bytes], Stranger], data: bytes
) -> None:
    to, receiver = host.endpoint()
    stranger = strangers(to)
    stranger.greet()
    stranger.say(framed(HoldDone(1)) + _SIZE.pack(len(data)) + data + framed(HoldDone(2)))
    assert received(receiver, 2) == [(stranger.process, HoldDone(1)), (stranger.process, HoldDone(2))]
    assert receiver.refused == 1


@pytest.mark.fault(47)
def test_a_message_beyond_the_bound_ends_its_connection(host: Host, strangers: Callable[[bytes], Stranger]) -> None:
    to, receiver = host.endpoint()
    stranger = strangers(to)
    stranger.greet()
    stranger.say(framed(HoldDone(1)) + _SIZE.pack(DEFAULT.frame_max_bytes + 1) + b"the beginning of it")
    assert received(receiver, 1) == [(stranger.process, HoldDone(1))]
    until(lambda: stranger.is_cut_off(receiver), "the connection to be closed")
    assert receiver.refused == 1


def test_messages_in_any_pieces(host: Host, strangers: Callable[[bytes], Stranger]) -> None:
    to, receiver = host.endpoint()
    stranger = strangers(to)
    large = Release([os.urandom(28) for _ in range(30_000)])
    messages: list[Message] = [HoldDone(1), large, HoldDone(2), Wake(), HoldDone(3)]
    speech = _GREETING.pack(_MAGIC, to, stranger.process) + b"".join(map(framed, messages))
    random = Random(7)
    arrived: list[tuple[bytes, Message]] = []
    at = 0
    while at < len(speech):
        size = random.choice((1, 3, 50, 1000, 60_000))
        stranger.say(speech[at : at + size])
        at += size
        arrived.extend(receiver.receive())
    until(lambda: arrived.extend(receiver.receive()) or len(arrived) == len(messages), "all of them")
    assert arrived == [(stranger.process, message) for message in messages]


@pytest.mark.fault(48)
def test_silent_connections_are_bounded(
    host: Host, strangers: Callable[[bytes], Stranger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshray.transport.endpoint.CONNECTIONS_MAX", 8)
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    sender.send(to, HoldDone(0))
    received(receiver, 1)
    silent = [strangers(to) for _ in range(10)]
    refused(receiver, 3)
    until(lambda: silent[-1].is_cut_off(receiver), "the last one to be turned away")
    sender.send(to, HoldDone(1))
    assert received(receiver, 1) == [(source, HoldDone(1))]


class Shortage:
    """While it lasts this process gets no further descriptor."""

    def __enter__(self) -> None:
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, self._hard))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft, self._hard))


@pytest.mark.fault(40)
def test_without_descriptors_a_connection_waits_with_what_it_says(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    known, earlier = host.endpoint()
    earlier.send(to, HoldDone(0))
    received(receiver, 1)
    sender.send(to, HoldDone(1))
    with Shortage():
        until(lambda: receiver.receive() or receiver.must_retry, "the connection to be met")
        assert not receiver.stirs(), "it would wake us for ever"
        receiver.flush()
        assert receiver.stirs()
        earlier.send(to, HoldDone(2))
        assert received(receiver, 1) == [(known, HoldDone(2))]
        assert receiver.must_retry
    receiver.flush()
    assert received(receiver, 1) == [(source, HoldDone(1))]
    assert not receiver.must_retry
    assert receiver.refused == 0
    assert "ulimit" in receiver.take_trouble()
    assert receiver.take_trouble() == "", "it is told once"


@pytest.mark.fault(40)
def test_without_descriptors_messages_wait_for_a_link(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    with Shortage():
        for number in range(3):
            sender.send(to, HoldDone(number))
        assert sender.must_retry
        assert not sender.flush()
    assert sender.flush()
    assert received(receiver, 3) == [(source, HoldDone(number)) for number in range(3)]
    assert sender.undelivered == 0


def test_what_a_full_link_does_not_take_is_kept_in_order(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    count = 30_000
    for number in range(count):
        sender.send(to, HoldDone(number))
    assert sender.clogged
    arrived: list[tuple[bytes, Message]] = []

    def look() -> bool:
        sender.flush()
        arrived.extend(receiver.receive())
        return len(arrived) == count

    until(look, "all of them")
    assert arrived == [(source, HoldDone(number)) for number in range(count)]
    assert not sender.clogged


def test_a_clogged_link_that_takes_more_shows_at_the_descriptor(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    large = Release([bytes(28)] * 100_000)
    for _ in range(5):
        sender.send(to, large)
    assert sender.clogged
    assert not sender.must_retry
    assert not sender.stirs()
    arrived: list[tuple[bytes, Message]] = []

    def look() -> bool:
        arrived.extend(receiver.receive())
        if sender.stirs():
            sender.receive()  # a look at the descriptor, as the pump takes it
        return len(arrived) == 5

    until(look, "all of them")
    assert arrived == [(source, large)] * 5
    assert not sender.clogged
    assert not sender.stirs()


def test_what_was_sent_survives_its_sender(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    for number in range(3):
        sender.send(to, HoldDone(number))
    host.close(sender)
    assert received(receiver, 3) == [(source, HoldDone(number)) for number in range(3)]


def test_what_the_dead_had_sent_is_there_after_the_news_of_their_death(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    sender.send(to, HoldDone(0))
    received(receiver, 1)
    sender.send(to, HoldDone(1))
    receiver.drop(source)
    assert receiver.holds, "no descriptor tells of it any more"
    assert receiver.receive() == [(source, HoldDone(1))]
    assert not receiver.holds
    assert not receiver._connections


def test_the_dead_are_heard_to_their_last_word_however_much_waits_before_it(host: Host) -> None:
    to, receiver = host.endpoint()
    said: list[tuple[bytes, Message]] = []
    for _ in range(5):
        source, sender = host.endpoint()
        for number in range(RECEIVE_BUDGET):
            sender.send(to, HoldDone(number))
            said.append((source, HoldDone(number)))
    heard = receiver.receive(1)
    host.close(sender)
    heard += receiver.drain(source)  # it was not even let in yet, maybe
    assert [each for each in heard if each[0] == source] == said[-RECEIVE_BUDGET:]
    while batch := receiver.receive():
        heard += batch
    assert sorted(heard, key=lambda each: each[0]) == sorted(said, key=lambda each: each[0])


def test_what_is_for_the_dead_is_counted_and_forgotten(host: Host) -> None:
    dead = new_process(NODE)
    source, sender = host.endpoint()
    for number in range(3):
        sender.send(dead, HoldDone(number))
    assert sender.undelivered == 3
    assert not sender.clogged
    sender.drop(dead)
    _, successor = host.endpoint(dead)  # as if the address were used again
    sender.send(dead, Wake())
    assert received(successor, 1) == [(source, Wake())]


def test_a_receiver_that_ends_is_noticed(host: Host) -> None:
    to, receiver = host.endpoint()
    _, sender = host.endpoint()
    sender.send(to, Wake())
    host.close(receiver)
    sender.send(to, Wake())
    sender.send(to, Wake())
    assert sender.undelivered == 2


def test_receivers_that_end_do_not_end_a_program_that_wants_sigpipe(host: Host) -> None:
    """As filters do: `signal.signal(signal.SIGPIPE, signal.SIG_DFL)`."""
    quick, reads = host.endpoint()
    slow, does_not_read = host.endpoint()
    _, sender = host.endpoint()
    sender.send(quick, Wake())
    sender.send(slow, Release([bytes(28)] * 200_000))
    assert sender.clogged
    host.close(reads)
    host.close(does_not_read)
    before = signal.signal(signal.SIGPIPE, lambda *_: pytest.fail("a SIGPIPE"))
    try:
        sender.send(quick, Wake())
        sender.flush()
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert sender.undelivered == 2


def test_a_closing_endpoint_waits_for_a_slow_receiver(host: Host) -> None:
    to, receiver = host.endpoint()
    source, sender = host.endpoint()
    large = Release([bytes(28)] * 100_000)
    sender.send(to, large)
    assert sender.clogged
    closing = threading.Thread(target=sender.close, args=(20_000,))
    closing.start()
    assert received(receiver, 1) == [(source, large)]
    closing.join()
    host._open.remove(sender)


def test_a_process_of_many_descriptors_closes_a_clogged_link(host: Host) -> None:
    """`select` knows only the first 1,024."""
    to, _ = host.endpoint()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held: list[int] = []
    try:
        while not held or held[-1] <= 1024:
            held.append(os.dup(0))
        _, sender = host.endpoint()
        sender.send(to, Release([bytes(28)] * 200_000))
        assert sender.clogged
        host._open.remove(sender)
        sender.close(linger_ms=20)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_socket_that_was_removed_already_is_no_error(host: Host) -> None:
    process, endpoint = host.endpoint()
    os.unlink(host.folder / process[8:].hex())
    host.close(endpoint)


def test_a_message_that_would_be_refused_for_its_size_is_not_sent(host: Host) -> None:
    _, ours = host.endpoint()
    other, theirs = host.endpoint()
    with pytest.raises(ValueError, match="Release of .* is larger than a message may be"):
        ours.send(other, Release([bytes(28)] * 2_500_000))
    ours.send(other, Wake())
    assert [message for _, message in received(theirs, 1)] == [Wake()]
