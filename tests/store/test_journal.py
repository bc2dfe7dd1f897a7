"""The crash journal: whatever the moment of the kill, it tells nothing false."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshray.store import journal as module
from meshray.store.journal import (
    SIZE_MIN_BYTES,
    SLOTS,
    SOURCES,
    ConcurrentJournal,
    Journal,
    create,
    lease_of_source,
    parse,
    read,
    source_of_lease,
)

LEASE = source_of_lease(7)
CALLER = b"caller-of-actor!"
SIZE = SIZE_MIN_BYTES + 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create(tmp_path / "journal", SIZE)
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    yield journal
    journal.close()


def result_of(seq: int) -> bytes:
    return b"%d:" % seq + bytes([seq % 251]) * (seq * 7 % 60)


# -- what it says ------------------------------------------------------------------------------------------------------


def test_names_of_leases_are_not_names_of_processes() -> None:
    assert lease_of_source(source_of_lease(2**40)) == 2**40
    assert lease_of_source(CALLER) is None


def test_file_is_private_allocated_and_never_overwritten(path: Path) -> None:
    status = path.stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_blocks * 512 >= SIZE
    with pytest.raises(FileExistsError):
        create(path, SIZE)
    with pytest.raises(ValueError, match="no room for its tables"):
        create(path.with_name("other"), 100)


def test_empty(path: Path, journal: Journal) -> None:
    contents = read(path)
    assert (contents.finished, contents.started, contents.more_started, contents.damaged) == ([], [], False, False)


@pytest.mark.fault(1, 2)
def test_one_error_and_the_others_keep_their_values(path: Path, journal: Journal) -> None:
    source = journal.source(LEASE)
    for seq in range(39):
        journal.started(source, seq)
        assert journal.finished(source, seq, result_of(seq))
    journal.started(source, 39)
    contents = read(path)
    assert contents.finished == [(LEASE, seq, result_of(seq)) for seq in range(39)]
    assert contents.started == [(LEASE, 39)]


def test_finished_is_not_started(path: Path, journal: Journal) -> None:
    source = journal.source(LEASE)
    journal.started(source, 0)
    journal.finished(source, 0, b"")
    assert read(path).finished == [(LEASE, 0, b"")]
    assert read(path).started == []


def test_acknowledged_ones_vanish_also_from_started(path: Path, journal: Journal) -> None:
    source, other = journal.source(LEASE), journal.source(CALLER)
    for seq in range(4):
        journal.started(source, seq)
        journal.finished(source, seq, result_of(seq))
    journal.started(other, 2)
    journal.finished(other, 2, b"other")
    journal.acknowledged(source, -1)
    journal.acknowledged(source, 2)
    journal.acknowledged(source, 1)
    assert read(path).finished == [(LEASE, 3, result_of(3)), (CALLER, 2, b"other")]
    journal.acknowledged(other, 2)
    assert read(path).started == []


def test_room_is_made_of_acknowledged_ones_only(path: Path, journal: Journal) -> None:
    source = journal.source(LEASE)
    kept = None
    for seq in range(20_000):
        journal.started(source, seq)
        assert journal.finished(source, seq, result_of(seq))
        if seq % 10 == 9:
            journal.acknowledged(source, seq - 3)
            kept = [(LEASE, late, result_of(late)) for late in range(seq - 2, seq + 1)]
            assert read(path).finished == kept if seq % 500 == 9 else True
    assert read(path).finished == kept


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_unacknowledged_is_ever_dropped(seed: int) -> None:
    """Several sources that acknowledge early, late or never; calls that end in any order."""
    rng = random.Random(seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        create(path, SIZE)
        shared = ConcurrentJournal(Journal(path))
        names = [source_of_lease(number) for number in range(1, 5)]
        wanted: dict[tuple[bytes, int], bytes] = {}
        running: list[tuple[bytes, int]] = []
        upcoming = dict.fromkeys(names, 0)
        for _ in range(400):
            name = rng.choice(names)
            if rng.random() < 0.5:
                running.append((name, upcoming[name]))
                shared.started(shared.source(name), upcoming[name])
                upcoming[name] += 1
            elif running:
                name, seq = running.pop(rng.randrange(len(running)))
                if shared.finished(shared.source(name), seq, result_of(seq)):
                    wanted[name, seq] = result_of(seq)
                else:
                    shared.unrecorded(shared.source(name), seq)
            if rng.random() < 0.2 and name != names[0]:
                open_ones = [seq for other, seq in running if other == name]
                upto = min(open_ones, default=upcoming[name]) - 1
                shared.acknowledged(shared.source(name), upto)
                wanted = {key: value for key, value in wanted.items() if key[0] != name or key[1] > upto}
        contents = read(path)
        shared.close()
    assert {(name, seq): payload for name, seq, payload in contents.finished} == wanted
    assert set(running) <= set(contents.started)


def test_full_until_acknowledged(path: Path, journal: Journal) -> None:
    source = journal.source(LEASE)
    seq = 0
    journal.started(source, seq)
    while journal.finished(source, seq, bytes(100)):
        seq += 1
        journal.started(source, seq)
    assert 15 < seq < 20
    assert read(path).started == [(LEASE, seq)], "what did not fit still counts as begun"
    journal.unrecorded(source, seq)
    journal.started(source, seq + 1)
    assert sorted(read(path).started) == [(LEASE, seq), (LEASE, seq + 1)]
    journal.acknowledged(source, seq)
    assert journal.finished(source, seq + 1, bytes(100))
    assert read(path).finished == [(LEASE, seq + 1, bytes(100))]
    assert read(path).started == []
    assert not journal.finished(source, seq + 2, bytes(SIZE)), "larger than a half"


def test_large_payloads(tmp_path: Path) -> None:
    create(tmp_path / "large", 256 * 1024)
    journal = Journal(tmp_path / "large")
    source = journal.source(LEASE)
    payload = random.Random(1).randbytes(100 * 1024 + 512)
    for seq in range(5):
        journal.started(source, seq)
        assert journal.finished(source, seq, payload)
        assert read(tmp_path / "large").finished == [(LEASE, seq, payload)]
        journal.acknowledged(source, seq)
    journal.close()


def test_sources_come_and_go(path: Path, journal: Journal) -> None:
    lasting = journal.source(CALLER)
    journal.started(lasting, 5)
    journal.finished(lasting, 5, b"kept")
    for lease in range(3 * SOURCES):
        name = source_of_lease(lease + 1)
        source = journal.source(name)
        assert source
        assert (name, 0) not in read(path).started if lease % 100 == 0 else True
        journal.started(source, 0)
        journal.finished(source, 0, b"of lease %d" % lease)
        assert lease % 100 or read(path).finished == [(CALLER, 5, b"kept"), (name, 0, b"of lease %d" % lease)]
        journal.forget(name)
    journal.forget(source_of_lease(9_999_999))
    assert read(path).finished == [(CALLER, 5, b"kept")]
    assert not read(path).more_started


def test_more_sources_than_the_table_holds(path: Path, journal: Journal) -> None:
    handles = [journal.source(source_of_lease(lease)) for lease in range(1, SOURCES + 1)]
    assert handles[-1] == 0
    assert all(handles[:-1])
    assert read(path).more_started
    for seq in range(1000):
        journal.started(0, seq)
        assert journal.finished(0, seq, bytes(50)) or seq < 40
        journal.acknowledged(0, seq)
    assert read(path).finished == []


def test_wrong_names_and_files(path: Path, journal: Journal) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        journal.source(b"short")
    path.write_bytes(b"x" * SIZE)
    with pytest.raises(ValueError, match="no journal"):
        Journal(path)


# -- several threads ---------------------------------------------------------------------------------------------------


def test_concurrent_calls(path: Path, journal: Journal) -> None:
    shared = ConcurrentJournal(journal)
    source = shared.source(CALLER)
    for seq in range(10):
        shared.started(source, seq)
    assert sorted(read(path).started) == [(CALLER, seq) for seq in range(10)]
    for seq in (3, 8):
        assert shared.finished(source, seq, result_of(seq))
    contents = read(path)
    assert contents.finished == [(CALLER, 3, result_of(3)), (CALLER, 8, result_of(8))]
    assert sorted(seq for _, seq in contents.started) == [0, 1, 2, 4, 5, 6, 7, 9]


def test_more_calls_than_slots_count_as_begun(path: Path, journal: Journal) -> None:
    shared = ConcurrentJournal(journal)
    source = shared.source(CALLER)
    for seq in range(SLOTS):
        shared.started(source, seq)
    assert read(path).more_started
    for seq in range(SLOTS):
        assert shared.finished(source, seq, b"")
        shared.acknowledged(source, seq)
    assert not read(path).more_started
    assert read(path).started == []


def test_unrecorded_concurrent_calls(path: Path, journal: Journal) -> None:
    shared = ConcurrentJournal(journal)
    source = shared.source(CALLER)
    shared.started(source, 1)
    assert not shared.finished(source, 1, bytes(SIZE))
    shared.unrecorded(source, 1)
    assert read(path).started == [(CALLER, 1)]
    shared.acknowledged(source, 1)
    assert read(path).started == []


def test_threads_at_once(path: Path, journal: Journal) -> None:
    shared = ConcurrentJournal(journal)

    def call(number: int) -> None:
        name = source_of_lease(number)
        source = shared.source(name)
        for seq in range(300):
            shared.started(source, seq)
            while not shared.finished(source, seq, result_of(seq)):
                shared.acknowledged(source, seq - 1)
            shared.acknowledged(source, seq - 2)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents = read(path)
    last = {name: seq for name, seq, _ in contents.finished}
    assert last == {source_of_lease(number): 299 for number in range(1, 5)}
    assert all(payload == result_of(seq) for _, seq, payload in contents.finished)
    assert contents.started == []


# -- kills -------------------------------------------------------------------------------------------------------------


class Story:
    """A worker's life, and what is true at each moment of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun = -1  # the attempt that was announced last
        self.over = -1  # the one whose `finished` returned last
        self.acknowledged = -1
        self.wanted = -1  # acknowledged, as far as the caller has asked for it

    def live(self, journal: Journal, count: int) -> None:
        for seq in range(count):
            if seq % 40 == 0:
                journal.forget(source_of_lease(seq))  # leases that come and go between the tasks
                journal.source(source_of_lease(seq + 40))
            source = journal.source(LEASE)
            self.begun = seq
            journal.started(source, seq)
            assert journal.finished(source, seq, result_of(seq))
            self.over = seq
            if seq % 5 == 4:
                self.wanted = seq - 2
                journal.acknowledged(source, seq - 2)
                self.acknowledged = seq - 2

    def check(self, raw: bytes) -> None:
        contents = parse(raw)
        assert not contents.damaged
        assert not contents.more_started
        finished = {seq: payload for source, seq, payload in contents.finished}
        assert {source for source, _, _ in contents.finished} <= {LEASE}
        assert all(payload == result_of(seq) for seq, payload in finished.items())
        assert set(range(self.wanted + 1, self.over + 1)) <= finished.keys(), "a finished one was lost"
        assert finished.keys() <= set(range(self.acknowledged + 1, self.begun + 1))
        begun = {seq for _, seq in contents.started}
        assert begun <= {self.begun}, "one is charged that had not begun"
        if begun:
            assert self.over < self.begun


@pytest.mark.fault(1)
def test_kill_between_any_two_bytecodes(path: Path, journal: Journal) -> None:
    """The file is judged after every single bytecode of the journal's own code."""
    story = Story(path)
    steps = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            raw = bytes(journal._file)
            sys.settrace(None)
            story.check(raw)
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        story.live(journal, 130)
    finally:
        sys.settrace(before)
    assert steps > 5000


@pytest.mark.fault(1)
@pytest.mark.parametrize("seed", range(30))
def test_killed_writer(tmp_path: Path, seed: int) -> None:
    """For real: a forked writer is killed at a random moment, also in the middle of C code."""
    create(tmp_path / "journal", SIZE)
    witness = mmap.mmap(-1, 64)
    pid = os.fork()
    if pid == 0:
        try:
            _write_and_tell(tmp_path / "journal", witness)
        finally:
            os._exit(1)
    spins = random.Random(seed).randrange(1, 40_000)
    while struct.unpack_from("=q", witness)[0] < 2:
        pass
    for _ in range(spins):
        pass
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    story = Story(tmp_path / "journal")
    begun, over, wanted, acknowledged = struct.unpack_from("=4q", witness)
    story.begun, story.over, story.wanted, story.acknowledged = begun - 1, over - 1, wanted - 1, acknowledged - 1
    story.check((tmp_path / "journal").read_bytes())
    witness.close()


def _write_and_tell(path: Path, witness: mmap.mmap) -> None:
    """Write for ever; `witness` holds one more than begun, over, wanted, acknowledged."""
    journal = Journal(path)
    source = journal.source(LEASE)
    seq = 0
    tell = memoryview(witness).cast("q")
    while True:
        tell[0] = seq + 1
        journal.started(source, seq)
        journal.finished(source, seq, result_of(seq))
        tell[1] = seq + 1
        if seq % 5 == 4:
            tell[2] = seq - 1
            journal.acknowledged(source, seq - 2)
            tell[3] = seq - 1
        seq += 1


# -- garbage -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(47)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_scribbled_journals_are_read_without_harm(data: st.DataObject) -> None:
    raw = bytearray(_sample())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 64), st.integers(module._LOG * 8, len(raw) - 9)))
        raw[at : at + 8] = data.draw(st.one_of(st.binary(min_size=8, max_size=8), st.just(b"\xff" * 8)))
    contents = parse(bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) - 4096, 8, 0]))]))
    assert sum(len(payload) for _, _, payload in contents.finished) <= len(raw)
    assert len(contents.started) <= SLOTS
    assert not contents.damaged or contents.more_started, "damage never makes an attempt look as if it had not begun"


def _sample() -> bytes:
    """The bytes of a journal with a story in it."""
    words = bytearray(SIZE)
    struct.pack_into("=3Q", words, 0, module.MAGIC, SIZE, module._LOG + 8)
    struct.pack_into("=Q", words, module._SLOT * 8, 1 << module.SEQ_BITS | 2)
    words[(module._TABLE + 2) * 8 : (module._TABLE + 4) * 8] = LEASE
    struct.pack_into("=QQ16sQQ16s", words, module._LOG * 8, 1 << 48, 16, b"a" * 16, 1 << 48 | 1, 16, b"b" * 16)
    return bytes(words)


def test_the_sample_is_a_journal() -> None:
    contents = parse(_sample())
    assert contents.finished == [(LEASE, 0, b"a" * 16), (LEASE, 1, b"b" * 16)]
    assert contents.started == [(LEASE, 2)]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        read(tmp_path / "nowhere")
