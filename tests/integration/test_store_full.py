"""A store with little room: what is free is used, who must wait waits, and what cannot be is said."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from meshray import context
from meshray.exceptions import ObjectStoreFullError
from tests.until import until

GET_S = 30.0
MB = 1 << 20
MESH = {"num_cpus": 2, "object_store_memory": 64 * MB}


@pytest.fixture(scope="module", autouse=True)
def _short_waits() -> Iterator[None]:
    os.environ["MESHRAY_PRESET"] = "test"
    yield
    del os.environ["MESHRAY_PRESET"]


def array(megabytes: float, fill: int = 1) -> Any:
    return np.full(int(megabytes * MB), fill, dtype="u1")


def test_an_object_larger_than_the_store(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def make() -> Any:
        return array(100)

    with pytest.raises(ObjectStoreFullError, match=r"10.\.. MiB does not fit .* 64\.0 MiB"):
        ray.put(array(100))
    with pytest.raises(ObjectStoreFullError, match="does not fit"):
        ray.get(make.remote(), timeout=GET_S)
    with pytest.raises(ObjectStoreFullError, match="does not fit"):
        ray.remote(len).remote(array(100))
    assert ray.get(ray.put(1)) == 1


def test_what_a_task_has_written_before_it_found_no_room_is_freed(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(num_returns=2)
    def make() -> Any:
        return array(40), array(100)

    for _ in range(2):
        refs = make.remote()
        with pytest.raises(ObjectStoreFullError, match="does not fit"):
            ray.get(refs, timeout=GET_S)
        del refs
        gc.collect()
    assert ray.get(ray.put(array(40))).nbytes == 40 * MB


def test_far_more_than_fits_goes_through_one_after_the_other(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def make(n: int) -> Any:
        return array(20, n)

    @ray.remote
    def check(value: Any, n: int) -> bool:
        return bool((value == n).all())

    for n in range(12):
        if n % 3 == 0:
            assert (ray.get(ray.put(array(20, n)), timeout=GET_S) == n).all()
        elif n % 3 == 1:
            assert (ray.get(make.remote(n), timeout=GET_S) == n).all()
        else:
            assert ray.get(check.remote(make.remote(n), n), timeout=GET_S)


def test_a_full_store_says_who_holds_what(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    held = [ray.put(array(24)), ray.put(array(16)), ray.put(array(8))]
    with pytest.raises(ObjectStoreFullError, match="no room for") as caught:
        ray.put(array(30))
    text = str(caught.value)
    assert held[0].hex() in text
    assert text.index(held[0].hex()) < text.index(held[1].hex())
    assert "24.0 MiB" in text
    assert f"made by pid {os.getpid()}" in text
    assert [value.nbytes for value in ray.get(held, timeout=GET_S)] == [24 * MB, 16 * MB, 8 * MB]

    @ray.remote
    def make() -> Any:
        return array(30)

    with pytest.raises(ObjectStoreFullError, match=held[0].hex()):
        ray.get(make.remote(), timeout=GET_S)
    del held
    gc.collect()
    assert ray.get(make.remote(), timeout=GET_S).nbytes == 30 * MB


def test_a_put_waits_for_room(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    held = [ray.put(array(40))]
    put: list[Any] = []
    thread = threading.Thread(target=lambda: put.append(ray.put(array(40, 5))))
    thread.start()
    until(lambda: bool(context.runtime().engine.replies), "the put to wait")  # type: ignore[attr-defined]
    held.clear()
    gc.collect()
    thread.join(GET_S)
    assert (ray.get(put[0], timeout=GET_S) == 5).all()


def test_a_view_keeps_its_room(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    view = ray.get(ray.put(array(40, 7)))  # nobody holds a reference any more
    with pytest.raises(ObjectStoreFullError):
        ray.put(array(40))
    assert (view == 7).all()
    del view
    gc.collect()
    assert ray.get(ray.put(array(40, 3)))[0] == 3


def in_small_shared_memory(program: str, folder: Path, size: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a mount namespace of its own, where /dev/shm is so small."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("needs unshare and user namespaces: " + probe.stderr.decode(errors="replace").strip()[:200])
    script = folder / "program.py"
    script.write_text(program)
    command = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {sys.executable} {script}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=False,
    )


@pytest.mark.fault(36)
def test_a_small_dev_shm(tmp_path: Path) -> None:
    """Files on disk instead, and a warning that says how to mend it."""
    program = """
import os, numpy as np
import meshray as ray
ray.init(num_cpus=1)

@ray.remote
def make(n):
    return np.full(20 << 20, n, dtype="u1")

kept = [ray.get(make.remote(n), timeout=60) for n in range(5)]
assert all((value == n).all() for n, value in enumerate(kept))
assert not any(names for _, _, names in os.walk("/dev/shm"))
print("all there")
"""
    done = in_small_shared_memory(program, tmp_path, "64m")
    assert done.returncode == 0, done.stderr
    assert "all there" in done.stdout
    assert ("/dev/shm" in done.stderr and "remount" in done.stderr) or "shm-size" in done.stderr


@pytest.mark.fault(36)
def test_a_dev_shm_that_others_fill(tmp_path: Path) -> None:
    """An ordinary error, no SIGBUS; all goes on when there is room again."""
    program = """
import os, numpy as np
import meshray as ray
from meshray.exceptions import ObjectStoreFullError, OutOfDiskError
ray.init(num_cpus=1, object_store_memory=200 << 20)

@ray.remote
def make(n):
    return np.full(40 << 20, n, dtype="u1")

kept = ray.get(make.remote(1), timeout=60)
with open("/dev/shm/foreign", "wb") as file:
    file.write(bytes(180 << 20))
for attempt in (lambda: ray.put(np.ones(60 << 20, dtype="u1")), lambda: ray.get(make.remote(2), timeout=60)):
    try:
        attempt()
    except (ObjectStoreFullError, OutOfDiskError) as error:
        print(type(error).__name__, str(error).splitlines()[0])
    else:
        raise AssertionError("there was no room")
os.unlink("/dev/shm/foreign")
assert (kept == 1).all() and (ray.get(make.remote(3), timeout=60) == 3).all()
print("all there")
"""
    done = in_small_shared_memory(program, tmp_path, "240m")
    assert done.returncode == 0, done.stderr
    assert "all there" in done.stdout
