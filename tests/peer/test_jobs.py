"""How drivers leave that have something left to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from meshray.config import preset
from meshray.peer.jobs import LINK_LINGER_S, PACKING_PART, Jobs
from meshray.peer.processes import Kind, Process, Processes
from meshray.peer.timers import Timers
from meshray.wire import messages as m

CONFIG = preset("test")
NODE = b"thispeer"
DRIVER, WORKER = NODE + b"driver--", NODE + b"worker--"
INFO = m.JobInfo(DRIVER, "/python", "/", [], "/program", "/program/main.py", "")


class Peer:
    """A driver, a worker of it, and what the peer does to the driver. Only what is asked here has an answer."""

    def __init__(self) -> None:
        self.packing = False
        self.done: list[Any] = []
        self.ended_at: list[float] = []
        cores = MagicMock()
        cores.programs.is_packing = lambda job: self.packing and job == DRIVER
        cores.leases.on_job_ended = lambda job, survivors, now: self.ended_at.append(now)
        cores.leases.workers.of_job = lambda job: []
        cores.road.awaits_end.return_value = False
        self.timers, processes = Timers(), Processes()
        endpoint = SimpleNamespace(send=lambda to, message: self.done.append((to, message)))
        self.parts = SimpleNamespace(
            node=NODE, config=CONFIG, processes=processes, timers=self.timers, cores=cores, endpoint=endpoint,
            part_with=self.done.append,
            children=MagicMock(), log_flow=MagicMock(**{"take_notice.return_value": []}),
        )  # fmt: skip
        processes.add(Process(DRIVER, 1, Kind.DRIVER, INFO))
        processes.add(Process(WORKER, 2, Kind.WORKER, INFO))
        self.jobs = Jobs(cast(Any, self.parts), MagicMock(), 0)

    def run(self, until: float) -> None:
        while (due := self.timers.next_deadline()) is not None and due <= until:
            self.timers.run_due(due)
            self.jobs.look_after_ended(due)


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_the_answer_to_a_driver_whose_workers_do_not_end_has_time_to_arrive(peer: Peer) -> None:
    peer.jobs.on_detach(DRIVER, m.Detach(7), 100.0)
    give_up_at = 100.0 + CONFIG.shutdown_timeout_s / 2
    peer.run(give_up_at)
    assert peer.done == [(DRIVER, m.Answer(7))]
    peer.run(give_up_at + LINK_LINGER_S)
    assert peer.done == [(DRIVER, m.Answer(7)), DRIVER]


def test_a_driver_that_has_still_to_pack_its_folder_has_a_while_for_it(peer: Peer) -> None:
    peer.packing = True
    peer.jobs.on_detach(DRIVER, m.Detach(7), 100.0)
    peer.jobs.look_after_ended(100.1)
    assert peer.ended_at == []
    end_at = 100.0 + CONFIG.shutdown_timeout_s / PACKING_PART
    peer.run(end_at)
    assert peer.ended_at == [end_at]
    peer.run(end_at + CONFIG.shutdown_timeout_s)
    assert peer.done == [(DRIVER, m.Answer(7)), DRIVER]
    assert peer.ended_at == [end_at]


def test_a_driver_that_has_packed_its_folder_is_gone_at_once_when_its_workers_are(peer: Peer) -> None:
    peer.packing = True
    peer.jobs.on_detach(DRIVER, m.Detach(7), 100.0)
    peer.packing = False
    peer.parts.processes.remove(WORKER)
    peer.jobs.look_after_ended(100.2)
    assert peer.ended_at == [100.2]
    assert peer.done == [(DRIVER, m.Answer(7))]


def test_a_driver_that_dies_while_it_packs_its_folder(peer: Peer) -> None:
    peer.packing = True
    peer.jobs.on_detach(DRIVER, m.Detach(7), 100.0)
    driver = peer.parts.processes.get(DRIVER)
    peer.jobs.on_driver_died(driver, 100.1)
    assert peer.ended_at == [100.1]
    peer.run(200.0)
    assert peer.done == [DRIVER], "nobody is there to be answered"
