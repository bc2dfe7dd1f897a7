"""What a host offers, shown on hosts made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshray.launch import PeerSettings
from meshray.peer import detect
from meshray.peer.detect import DetectError, Gpu
from meshray.resources import UNIT

TWO = [Gpu(0, "0", "GPU-aaaa-1", "Tesla"), Gpu(1, "1", "GPU-bbbb-2", "Tesla")]

V2_MOUNT = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
V1_MOUNTS = """31 1 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 1 0:28 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"""


class FakeHost:
    """A root folder with the files that the kernel would show."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def groups(self, own: str, mounts: str) -> None:
        self.write("proc/self/cgroup", own)
        self.write("proc/self/mountinfo", "22 1 0:20 / /proc rw - proc proc rw\n" + mounts + "\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return FakeHost(tmp_path)


class TestCpus:
    def test_affinity_counts_where_nothing_else_is_known(self, host: FakeHost) -> None:
        assert detect.cpus(host.root) == 8

    def test_a_quota_of_version_2(self, host: FakeHost) -> None:
        host.groups("0::/pod/box\n", V2_MOUNT)
        host.write("sys/fs/cgroup/pod/box/cpu.max", "350000 100000\n")
        assert detect.cpus(host.root) == 3

    def test_the_least_of_all_groups_above(self, host: FakeHost) -> None:
        host.groups("0::/pod/box\n", V2_MOUNT)
        host.write("sys/fs/cgroup/pod/box/cpu.max", "max 100000\n")
        host.write("sys/fs/cgroup/pod/cpu.max", "200000 100000\n")
        assert detect.cpus(host.root) == 2

    def test_a_quota_below_one_is_one(self, host: FakeHost) -> None:
        host.groups("0::/\n", V2_MOUNT)
        host.write("sys/fs/cgroup/cpu.max", "20000 100000\n")
        assert detect.cpus(host.root) == 1

    def test_a_quota_of_version_1_in_a_container(self, host: FakeHost) -> None:
        host.groups("4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n", V1_MOUNTS.format(root="/docker/abc"))
        host.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n")
        host.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
        assert detect.cpus(host.root) == 4

    def test_no_quota_of_version_1(self, host: FakeHost) -> None:
        host.groups("4:cpu,cpuacct:/\n", V1_MOUNTS.format(root="/"))
        host.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
        host.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
        assert detect.cpus(host.root) == 8

    @pytest.mark.parametrize("text", ["", "max", "nonsense 5", "100 0", "1 2 3"])
    def test_nonsense_is_no_quota(self, host: FakeHost, text: str) -> None:
        host.groups("0::/\n", V2_MOUNT)
        host.write("sys/fs/cgroup/cpu.max", text)
        assert detect.cpus(host.root) == 8

    def test_this_machine(self) -> None:
        assert 1 <= detect.cpus() <= (os.cpu_count() or 1)


class TestMemory:
    def test_the_kernel_counts_where_nothing_else_is_known(self, host: FakeHost) -> None:
        assert detect.memory_bytes(host.root) == 16_000_000 * 1024

    def test_a_limit_of_version_2(self, host: FakeHost) -> None:
        host.groups("0::/box\n", V2_MOUNT)
        host.write("sys/fs/cgroup/box/memory.max", "1000000\n")
        host.write("sys/fs/cgroup/memory.max", "max\n")
        assert detect.memory_bytes(host.root) == 1_000_000

    def test_a_limit_of_version_1(self, host: FakeHost) -> None:
        host.groups("4:cpu,cpuacct:/a\n3:memory:/a\n", V1_MOUNTS.format(root="/"))
        host.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2000000\n")
        host.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
        assert detect.memory_bytes(host.root) == 2_000_000

    def test_what_is_left_beside_the_store(self, host: FakeHost) -> None:
        host.write("proc/meminfo", "MemTotal: 1000 kB\n")
        assert detect.usable_memory(300 * 1024, host.root) == 1000 * 1024 - 300 * 1024 - 100 * 1024
        assert detect.usable_memory(10**9, host.root) == 0


class TestGpus:
    def test_all_that_are_there(self) -> None:
        assert detect.find_gpus(None, {}, TWO) == TWO

    def test_none_are_wanted(self) -> None:
        assert detect.find_gpus(0, {}, TWO) == []

    def test_some_are_wanted(self) -> None:
        assert [gpu.index for gpu in detect.find_gpus(1, {}, TWO)] == [0]

    def test_a_part_is_a_device(self) -> None:
        assert len(detect.find_gpus(0.5, {}, TWO)) == 1

    def test_a_number_given_by_hand_is_believed(self) -> None:
        assert detect.find_gpus(3, {}, []) == [Gpu(0, "0"), Gpu(1, "1"), Gpu(2, "2")]

    def test_the_variable_masks_by_index_and_keeps_the_numbers(self) -> None:
        shown = detect.find_gpus(None, {"CUDA_VISIBLE_DEVICES": "1"}, TWO)
        assert [(gpu.index, gpu.visible) for gpu in shown] == [(1, "1")]

    def test_the_variable_masks_by_the_beginning_of_a_uuid(self) -> None:
        shown = detect.find_gpus(None, {"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}, TWO)
        assert [(gpu.index, gpu.visible) for gpu in shown] == [(1, "GPU-bbbb")]

    @pytest.mark.parametrize("value", ["", "-1", "NoDevFiles", "7,0", "GPU-"])
    def test_what_names_nothing_ends_the_list(self, value: str) -> None:
        assert detect.find_gpus(None, {"CUDA_VISIBLE_DEVICES": value}, TWO) == []

    def test_the_variable_is_believed_without_nvml(self) -> None:
        shown = detect.find_gpus(None, {"CUDA_VISIBLE_DEVICES": "2, 3"}, [])
        assert [(gpu.index, gpu.visible) for gpu in shown] == [(2, "2"), (3, "3")]

    def test_more_than_the_variable_shows(self) -> None:
        with pytest.raises(DetectError, match=r"num_gpus is 2.*CUDA_VISIBLE_DEVICES='0' shows 1"):
            detect.find_gpus(2, {"CUDA_VISIBLE_DEVICES": "0"}, TWO)


class TestDetect:
    def test_settings_win(self) -> None:
        settings = PeerSettings(num_cpus=3, num_gpus=0, resources={"disk": 1.5}, labels={"zone": "a"}, node=b"12345678")
        host = detect.detect(settings, store_capacity=1000)
        assert host.totals["CPU"] == 3 * UNIT
        assert "GPU" not in host.totals
        assert host.totals["disk"] == 15_000
        assert host.totals["object_store_memory"] == 1000 * UNIT
        assert host.totals["memory"] > 0
        assert host.labels == {"ray.io/node-id": b"12345678".hex(), "zone": "a"}

    def test_memory_by_hand(self) -> None:
        host = detect.detect(PeerSettings(num_cpus=1, num_gpus=0, resources={"memory": 10}), 0)
        assert host.totals["memory"] == 10 * UNIT

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            (PeerSettings(resources={"CPU": 1}), "'CPU'"),
            (PeerSettings(resources={"disk": -1}), "'disk' is negative"),
            (PeerSettings(num_cpus=-1), "'CPU' is negative"),
        ],
    )
    def test_the_impossible_is_named(self, settings: PeerSettings, named: str) -> None:
        with pytest.raises(DetectError, match=named):
            detect.detect(settings, 0)

    def test_devices_for_a_worker(self) -> None:
        host = detect.Host({}, {}, [Gpu(2, "2"), Gpu(5, "GPU-bbbb")])
        assert host.lend([0, 1]) == ([2, 5], "2,GPU-bbbb")
        assert host.lend([]) == ([], "")
