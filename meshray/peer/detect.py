"""What this host has to offer: CPUs, memory, GPUs, labels.

A container or a scheduler may leave us less than the machine has, so each is the least of several answers:

- CPUs: the affinity mask, and the CPU quota of our control group and of each group above it;
- memory: what the kernel reports, and the memory limits of those groups;
- GPUs: what NVML counts, and CUDA_VISIBLE_DEVICES.

Everything is read below a `root` folder, so that tests can show another machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from meshray.errors import MeshrayError
from meshray.launch import PeerSettings
from meshray.resources import UNIT, to_amounts

ROOT = Path("/")
_UNLIMITED_BYTES = 1 << 60  # control groups of version 1 say "no limit" by a number near 2**63
OTHERS_FRACTION = 0.1
"""The part of the host's memory that is never lent: the system, the driver, the peer itself."""

RESERVED = ("CPU", "GPU", "memory", "object_store_memory")


class DetectError(MeshrayError):
    """The settings ask for something that cannot be; the text names it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device that this peer may lend."""

    index: int  # its id, as programs see it in `get_gpu_ids()`
    visible: str  # what CUDA_VISIBLE_DEVICES calls it: its index (programs read numbers there), or the user's own entry
    uuid: str = ""  # "" where NVML was not asked
    model: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """What a peer offers."""

    totals: dict[str, int]  # resources.Amounts
    labels: dict[str, str]
    gpus: list[Gpu] = field(default_factory=list)

    def lend(self, devices: Sequence[int]) -> tuple[list[int], str]:
        """For a worker that was given these devices, as places in `gpus`: their ids as programs see them, and its
        CUDA_VISIBLE_DEVICES. The two differ from the places where the peer itself sees only some devices."""
        lent = [self.gpus[place] for place in devices]
        return [gpu.index for gpu in lent], ",".join(gpu.visible for gpu in lent)


def detect(settings: PeerSettings, store_capacity: int) -> Host:
    """What this peer offers: what `settings` say, and what was found where they say nothing.

    Raises `DetectError` when `settings` ask for the impossible.
    """
    gpus = find_gpus(settings.num_gpus, os.environ)
    quantities = dict(settings.resources)
    for name in RESERVED:
        if name in quantities and name != "memory":
            raise DetectError(f"resources may not name {name!r}: it has an option of its own")
    quantities["CPU"] = settings.num_cpus if settings.num_cpus is not None else cpus()
    quantities["GPU"] = settings.num_gpus if settings.num_gpus is not None else len(gpus)
    quantities.setdefault("memory", usable_memory(store_capacity))
    quantities["object_store_memory"] = store_capacity
    try:
        totals = to_amounts(quantities)
    except ValueError as error:
        raise DetectError(str(error)) from error
    labels = {"ray.io/node-id": settings.node.hex()}
    if gpus and gpus[0].model:
        labels["ray.io/accelerator-type"] = gpus[0].model
    return Host(totals, labels | settings.labels, gpus)


# -- CPUs and memory ---------------------------------------------------------------------------------------------------


def cpus(root: Path = ROOT) -> int:
    """The CPUs that this process may keep busy, at least 1; a fraction of a CPU quota is not counted."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quotas = [_cpu_quota(folder) for folder in _group_folders("cpu", root)]
    return max(1, int(min([count, *(quota for quota in quotas if quota)])))


def memory_bytes(root: Path = ROOT) -> int:
    """The memory that the processes of this control group may use."""
    limits = [_memory_limit(folder) for folder in _group_folders("memory", root)]
    return min([_memory_total(root), *(limit for limit in limits if limit)])


def usable_memory(store_capacity: int, root: Path = ROOT) -> int:
    """The resource `memory`: what the store and everybody else on the host leave, in bytes."""
    total = memory_bytes(root)
    return max(0, total - store_capacity - int(total * OTHERS_FRACTION))


def _cpu_quota(folder: Path) -> float | None:
    """The CPUs that a control group allows, None when it sets no limit."""
    words = _words(folder / "cpu.max")  # version 2: quota (or "max") and period, microseconds
    if not words:
        words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]  # version 1; -1: no limit
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit() or words[1] == "0":
        return None
    return int(words[0]) / int(words[1])


def _memory_limit(folder: Path) -> int | None:
    """The bytes that a control group allows, None when it sets no limit."""
    words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
    if not words or not words[0].isdigit():
        return None
    limit = int(words[0])
    return limit if limit < _UNLIMITED_BYTES else None


def _memory_total(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# -- control groups ----------------------------------------------------------------------------------------------------


def _group_folders(controller: str, root: Path) -> Iterator[Path]:
    """The folders of our control group and of those above it, as far as they are mounted, for one controller."""
    groups = _own_groups(root)
    for mount in _group_mounts(root):
        kind, mount_root, mount_point, controllers = mount
        if kind == "cgroup2":
            group = groups.get("")
        elif controller in controllers:
            group = groups.get(controller)
        else:
            continue
        if group is None:
            continue
        inside = os.path.relpath(group, mount_root) if mount_root != "/" else group.lstrip("/")
        if inside.startswith(".."):
            inside = ""  # the mount shows another part of the tree than the one we know our name in
        top = root / mount_point.lstrip("/")
        folder = top / inside
        yield folder
        while folder != top:
            folder = folder.parent
            yield folder


def _own_groups(root: Path) -> dict[str, str]:
    """Our control group by controller (version 1); "" is that of version 2."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _group_mounts(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """The mounts of control groups: kind, the part of the tree that is mounted, where, controllers (version 1).

    A line of mountinfo: id parent device root mount-point options [optional ...] - type source super-options
    """
    for line in _lines(root / "proc/self/mountinfo"):
        front, found, back = line.partition(" - ")
        kind, *_, super_options = back.split(" ") if found else [""]
        fields = front.split(" ")
        if kind in ("cgroup", "cgroup2") and len(fields) >= 5:
            yield kind, _unescaped(fields[3]), _unescaped(fields[4]), super_options.split(",")


def _unescaped(path: str) -> str:
    """mountinfo writes blanks and the like as octal numbers."""
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


# -- GPUs --------------------------------------------------------------------------------------------------------------


def find_gpus(wanted: float | None, environment: Mapping[str, str], devices: list[Gpu] | None = None) -> list[Gpu]:
    """The devices of this peer: as many as `wanted`, or all that are there; `devices` replaces NVML in tests.

    A number given by hand is believed even where NVML is not there. Raises `DetectError` when more are wanted than
    CUDA_VISIBLE_DEVICES shows.
    """
    if wanted == 0:
        return []
    if devices is None:
        devices = _nvml_devices()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = shown_devices(visible, devices)
    if wanted is None:
        return devices
    count = -(-int(wanted * UNIT) // UNIT)  # a part of a device is a device
    if visible is not None and count > len(devices):
        raise DetectError(f"num_gpus is {wanted:g}, but CUDA_VISIBLE_DEVICES={visible!r} shows {len(devices)}")
    known = {gpu.index for gpu in devices}
    by_hand = (Gpu(index, str(index)) for index in range(count) if index not in known)
    return [*devices, *by_hand][:count]


def shown_devices(visible: str, devices: list[Gpu]) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES shows of `devices`.

    Entries are indices or (beginnings of) UUIDs, and the first one that names nothing ends the list, as in CUDA.
    Without NVML (`devices` empty) every entry is believed.
    """
    shown: list[Gpu] = []
    for position, entry in enumerate(part.strip() for part in visible.split(",")):
        if not entry or entry == "-1" or entry == "NoDevFiles":
            break
        if entry.isdigit():
            index = int(entry)
            known = next((gpu for gpu in devices if gpu.index == index), None)
            if devices and known is None:
                break
            shown.append(known or Gpu(index, entry))
            continue
        named = [gpu for gpu in devices if gpu.uuid.startswith(entry)]
        if entry.startswith("MIG-") or not devices:
            shown.append(Gpu(position, entry))
        elif len(named) == 1:
            shown.append(replace(named[0], visible=entry))
        else:
            break
    return shown


def _nvml_devices() -> list[Gpu]:
    """The devices that NVML counts, with their UUIDs as names; none where there is no driver or no nvidia-ml-py."""
    if not os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/dxg"):
        return []  # no driver: spare the import
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            return [
                Gpu(
                    index,
                    str(index),
                    uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
                    model=_text(pynvml.nvmlDeviceGetName(handle)),
                )
                for index, handle in enumerate(handles)
            ]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []  # a driver that does not work lends nothing


def _text(value: str | bytes) -> str:
    """Old versions of nvidia-ml-py answer in bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
