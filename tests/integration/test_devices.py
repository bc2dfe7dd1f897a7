"""GPUs that are really there: found, lent, seen by the tasks that have them and by no other, and given back whole.

Skipped where there is none; what the books say of devices is in tests/core/test_slots.py and tests/test_detect.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cloudpickle
import numpy as np
import pytest

import tests.integration.cuda as cuda
from tests.integration.programs import Program, write
from tests.until import until

pytestmark = pytest.mark.skipif(not cuda.is_there(), reason="needs an NVIDIA GPU with its driver")
GET_S = 60.0


@pytest.fixture(autouse=True)
def _by_value() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(cuda)
    yield
    cloudpickle.unregister_pickle_by_value(cuda)


@pytest.fixture
def found(_leaves_nothing: None) -> Iterator[ModuleType]:
    """A mesh of four CPUs and whatever GPUs the peer finds."""
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    import meshray

    meshray.init(num_cpus=4)
    yield meshray
    meshray.shutdown()


@pytest.fixture
def one(_leaves_nothing: None) -> Iterator[ModuleType]:
    """A mesh of four CPUs and the first GPU, named by hand."""
    import meshray

    meshray.init(num_cpus=4, num_gpus=1)
    yield meshray
    meshray.shutdown()


def uuids() -> list[str]:
    """What the driver's own tool says, in the order of NVML's indices."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()


def used_bytes() -> int:
    """Memory of the first device that is in use, by whomever."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout) << 20


def test_devices_are_found(found: ModuleType) -> None:
    ray = found
    assert ray.cluster_resources()["GPU"] == len(uuids())
    (node,) = ray.nodes()
    assert "NVIDIA" in node["Labels"]["ray.io/accelerator-type"]


def test_a_task_sees_its_device_and_no_other(found: ModuleType) -> None:
    ray = found

    @ray.remote(num_gpus=1)
    def look() -> tuple[int, str, list[int]]:
        device = cuda.Device()
        return device.count(), device.uuid(), ray.get_gpu_ids()

    count, uuid, (index,) = ray.get(look.remote(), timeout=GET_S)
    assert count == 1
    assert uuid == uuids()[index]


def test_a_task_without_a_gpu_sees_none(one: ModuleType) -> None:
    ray = one

    @ray.remote
    def look() -> int:
        try:
            cuda.Device()
        except cuda.CudaError as error:
            return error.code
        return 0

    assert ray.get(look.remote(), timeout=GET_S) == cuda.NO_DEVICE


def test_arrays_of_the_store_go_to_the_device(one: ModuleType) -> None:
    ray = one

    @ray.remote(num_gpus=0.5)
    def saxpy(factor: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        assert not x.flags.writeable  # mapped from the store, not copied
        return cuda.Device().saxpy(factor, x, y)

    generator = np.random.default_rng(7)
    x, y = (generator.standard_normal(3_000_001, dtype=np.float32) for _ in range(2))
    results = [saxpy.remote(factor, ray.put(x), ray.put(y)) for factor in (1.5, -2.0, 0.25)]
    for factor, result in zip((1.5, -2.0, 0.25), ray.get(results, timeout=GET_S), strict=True):
        # a fused multiply-add rounds once, numpy twice
        np.testing.assert_allclose(result, np.float32(factor) * x + y, rtol=1e-5, atol=1e-5)


def test_parts_of_a_device_are_lent_until_it_is_full(one: ModuleType) -> None:
    ray = one

    @ray.remote(num_gpus=0.25, num_cpus=0)
    class Holder:
        def __init__(self) -> None:
            self.device = cuda.Device()

        def where(self) -> tuple[int, str, int]:
            return os.getpid(), self.device.uuid(), self.device.count()

    holders = [Holder.remote() for _ in range(4)]
    told = ray.get([holder.where.remote() for holder in holders], timeout=GET_S)
    assert len({pid for pid, _, _ in told}) == 4
    assert {(uuid, count) for _, uuid, count in told} == {(uuids()[0], 1)}
    assert ray.available_resources().get("GPU", 0) == 0
    late = Holder.remote()
    answer = late.where.remote()
    assert ray.wait([answer], timeout=0.5) == ([], [answer])
    ray.kill(holders.pop())
    assert ray.get(answer, timeout=GET_S)[1:] == (uuids()[0], 1)


@pytest.mark.parametrize("how", ["kill", "end of scope", "SIGKILL"])
def test_memory_of_an_actor_is_free_when_its_gpu_is_lent_again(one: ModuleType, how: str) -> None:
    """The next one may need all of the device: it must not begin while the last one's memory is still being freed."""
    ray = one

    @ray.remote(num_gpus=1, num_cpus=0)
    class Holder:
        def hold(self, part: float) -> int:
            self.device = cuda.Device()
            self.held = self.device.allocate(int(self.device.memory()[1] * part))
            return os.getpid()

    for _ in range(3):
        holder = Holder.remote()
        pid = ray.get(holder.hold.remote(0.8), timeout=GET_S)
        if how == "kill":
            ray.kill(holder)
        elif how == "SIGKILL":
            os.kill(pid, signal.SIGKILL)
        del holder
    ray.get(Holder.remote().hold.remote(0.8), timeout=GET_S)


def test_memory_of_an_idle_worker_makes_room_for_another_kind_of_task(one: ModuleType) -> None:
    """A worker keeps what its task left on the device; one that asks for other resources gets a worker of its own."""
    ray = one

    def hold(part: float) -> int:
        global kept
        device = cuda.Device()
        kept = device.allocate(int(device.memory()[1] * part))  # type: ignore[name-defined]
        return os.getpid()

    first = ray.remote(num_gpus=1)(hold)
    second = ray.remote(num_gpus=1, num_cpus=2)(hold)
    assert ray.get(first.remote(0.8), timeout=GET_S) != ray.get(second.remote(0.8), timeout=GET_S)
    ray.get(first.remote(0.8), timeout=GET_S)


HOLDER = """
import sys
import cloudpickle
import meshray as ray
import tests.integration.cuda as cuda

cloudpickle.register_pickle_by_value(cuda)
ray.init()

@ray.remote(num_gpus=1)
def hold():
    global kept
    device = cuda.Device()
    kept = device.allocate(int(device.memory()[1] * 0.8))
    return device.uuid()

print("held", ray.get(hold.remote(), timeout=60), flush=True)
sys.stdin.readline()
"""


def test_two_programs_use_a_device_in_turn(tmp_path: Path) -> None:
    """The worker of the first is idle, and still has most of the memory: it goes before the second's begins."""
    start = [sys.executable, "-m", "meshray.cli"]
    subprocess.run([*start, "start", "--local", "--num-cpus", "4", "--num-gpus", "1"], check=True, timeout=60)
    programs: list[Program] = []
    try:
        path = write(tmp_path / "holder.py", HOLDER)
        for _ in range(3):
            programs.append(Program(sys.executable, path))
            programs[-1].read_until("held GPU-")
        for program in programs:
            program.say("\n")
            program.end()
    finally:
        for program in programs:
            program.close()
        subprocess.run([*start, "stop", "--all"], check=True, timeout=60)


def test_a_task_that_breaks_its_context(one: ModuleType) -> None:
    """An error of the device belongs to the task; a process that ends in the middle is tried again elsewhere."""
    ray = one

    @ray.remote(num_gpus=1, max_retries=0)
    def too_much() -> None:
        device = cuda.Device()
        device.allocate(2 * device.memory()[1])

    @ray.remote(num_gpus=1, max_retries=2)
    def dies_once(path: str) -> str:
        device = cuda.Device()
        device.allocate(1 << 20)
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) == 1:
            os._exit(3)
        return device.uuid()

    with pytest.raises(cuda.CudaError) as caught:
        ray.get(too_much.remote(), timeout=GET_S)
    assert caught.value.code == cuda.OUT_OF_MEMORY
    path = os.path.join(os.environ["MESHRAY_RUNTIME_DIR"], "..", "attempts")
    assert ray.get(dies_once.remote(path), timeout=GET_S) == uuids()[0]


DRIVER = """
import cloudpickle
import numpy as np
import meshray as ray
import tests.integration.cuda as cuda

cloudpickle.register_pickle_by_value(cuda)
driver = cuda.Device()
x = np.arange(1000, dtype=np.float32)
assert np.array_equal(driver.saxpy(1.0, x, x), 2 * x)
ray.init(num_cpus=2, num_gpus=1)

@ray.remote(num_gpus=1)
def double(x):
    return cuda.Device().saxpy(1.0, x, x)

@ray.remote
def count():
    try:
        return cuda.Device().count()
    except cuda.CudaError as error:
        return error.code

assert np.array_equal(ray.get(double.remote(x), timeout=60), 2 * x)
assert ray.get(count.remote(), timeout=60) == cuda.NO_DEVICE
assert np.array_equal(driver.saxpy(2.0, x, x), 3 * x)
ray.shutdown()
assert np.array_equal(driver.saxpy(3.0, x, x), 4 * x)
print("as before")
"""


def test_a_driver_that_uses_the_device_itself(tmp_path: Path) -> None:
    """CUDA does not survive a fork: workers must not descend from a process that has a context. In a program of its
    own, since a context leaves some descriptors in its process."""
    program = Program(sys.executable, write(tmp_path / "driver.py", DRIVER))
    try:
        assert program.end() == "as before\n"
    finally:
        program.close()


def test_nothing_is_left_on_the_device() -> None:
    import meshray as ray

    before = used_bytes()
    ray.init(num_cpus=2, num_gpus=1)

    @ray.remote(num_gpus=0.5)
    def hold(seconds: float) -> None:
        global kept
        device = cuda.Device()
        kept = device.allocate(8 << 30)  # type: ignore[name-defined]
        time.sleep(seconds)

    ray.get(hold.remote(0), timeout=GET_S)
    running = hold.remote(60)
    until(lambda: used_bytes() > before + (8 << 30), "a task that holds memory")
    ray.shutdown()
    del running
    until(lambda: used_bytes() <= before, "memory that is free again")


def test_only_the_devices_that_are_shown(tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    path = write(
        tmp_path / "shown.py",
        """
        import os
        import meshray as ray

        ray.init(num_cpus=2)
        print("GPUs", ray.cluster_resources().get("GPU", 0))
        if ray.cluster_resources().get("GPU"):
            look = ray.remote(num_gpus=1)(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
            print("named", ray.get(look.remote(), timeout=60))
        """,
    )

    def told(visible: str) -> str:
        program = Program(sys.executable, path, env={"CUDA_VISIBLE_DEVICES": visible})
        try:
            return program.end()
        finally:
            program.close()

    assert "GPUs 0" in told("")
    assert "GPUs 0" in told("-1")
    name = uuids()[0][:12]  # the beginning of a UUID will do
    assert told(name).splitlines() == ["GPUs 1.0", f"named {name}"]
