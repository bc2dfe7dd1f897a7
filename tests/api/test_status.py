from __future__ import annotations

import pytest

import meshray as ray
from meshray.ids import FIRST_RETURN
from tests.api.fake import FakeRuntime, FakeTask


def test_nodes_and_resources(fake: FakeRuntime) -> None:
    fake.answers = {"nodes": [{"NodeID": "ab"}], "resources": {"total": {"CPU": 2.0}, "available": {"CPU": 1.0}}}
    assert ray.nodes() == [{"NodeID": "ab"}]
    assert ray.cluster_resources() == {"CPU": 2.0}
    assert ray.available_resources() == {"CPU": 1.0}


def test_timeline_is_not_there_yet(fake: FakeRuntime) -> None:
    with pytest.raises(NotImplementedError, match="timeline"):
        ray.timeline()


def test_the_context_of_a_driver(fake: FakeRuntime) -> None:
    here = ray.get_runtime_context()
    assert here.get_job_id() == fake.job_id.hex()
    assert here.get_node_id() == fake.process_id[:8].hex()
    assert here.get_worker_id() == fake.process_id.hex()
    assert here.namespace == "here"
    assert here.get_task_id() is None
    assert here.get_task_name() is None
    assert here.get_actor_id() is None
    assert here.get_actor_name() is None
    assert here.get_accelerator_ids() == {"GPU": []}
    assert ray.get_gpu_ids() == []
    assert "task_id" not in here.get()
    assert repr(here) == f"RuntimeContext(job={fake.job_id.hex()}, node={fake.process_id[:8].hex()})"
    with pytest.raises(RuntimeError, match="driver"):
        here.get_assigned_resources()
    with pytest.raises(RuntimeError, match="actors"):
        _ = here.was_current_actor_reconstructed
    with pytest.raises(RuntimeError, match="actors"):
        _ = here.current_actor


def test_the_context_of_an_actor(fake: FakeRuntime) -> None:
    class Actor:
        def me(self) -> int:
            return 1

    handle = ray.remote(Actor).remote()
    actor = handle._actor_id.binary()
    fake.is_driver = False
    fake.task = FakeTask(
        task_id=b"t" * 24,
        task_name="Actor.me",
        actor_id=actor,
        actor_name="",
        actor_methods=handle._meshray_table.encoded,
        resources={"GPU": 0.5},
        gpu_ids=[3],
        restarted=True,
    )
    here = ray.get_runtime_context()
    assert here.get_task_id() == (b"t" * 24).hex()
    assert here.get_task_name() == "Actor.me"
    assert here.get_actor_id() == actor.hex()
    assert here.get_actor_name() == ""
    assert here.get_assigned_resources() == {"GPU": 0.5}
    assert here.get_accelerator_ids() == {"GPU": ["3"]}
    assert ray.get_gpu_ids() == [3]
    assert here.was_current_actor_reconstructed
    assert here.is_canceled() is False
    assert here.current_actor == handle
    assert fake.adopted == [actor + FIRST_RETURN]
    assert here.get()["actor_id"] == actor.hex()


@pytest.mark.parametrize("name", ["get_placement_group_id", "get_node_labels", "get_runtime_env_string"])
def test_what_is_not_there_yet_says_so(fake: FakeRuntime, name: str) -> None:
    with pytest.raises(NotImplementedError, match=name):
        getattr(ray.get_runtime_context(), name)()
