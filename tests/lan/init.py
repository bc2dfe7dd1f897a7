"""The first process of a host of `tests/lan`: furnishes its namespaces, then waits until the host shall end.

Run by `unshare` in namespaces of its own, as `python -I -S init.py NAME BYTES_OF_SHARED_MEMORY`. It is number 1 of a
pid namespace, so when it ends, the kernel kills every process of the host. It ends when its standard input does: also
when whoever made the host was killed. Standard library only, and little of it: it starts in some ten milliseconds.
"""

import ctypes
import os
import signal
import sys

SETTINGS = {
    "/proc/sys/kernel/hostname": "",  # filled in
    # An IPv6 address can be used at once, and nobody is asked for a router: each would cost seconds.
    "/proc/sys/net/ipv6/conf/default/accept_dad": "0",
    "/proc/sys/net/ipv6/conf/all/accept_dad": "0",
    "/proc/sys/net/ipv6/conf/default/router_solicitations": "0",
    # Programs without root's rights may ping, so may ours.
    "/proc/sys/net/ipv4/ping_group_range": "0 2147483647",
}


def mount(source: bytes, target: bytes, kind: bytes, options: bytes = b"") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source, target, kind, 0, options):
        raise OSError(ctypes.get_errno(), f"mount {target.decode()}")


def reap(*_: object) -> None:
    """Processes whose parent is gone become ours."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def main(name: str, shared_memory_bytes: int) -> None:
    pid_outside = os.readlink("/proc/self")  # as seen from where this /proc is mounted
    mount(b"proc", b"/proc", b"proc")
    mount(b"tmpfs", b"/dev/shm", b"tmpfs", f"size={shared_memory_bytes},mode=1777".encode())
    for path, value in SETTINGS.items():
        try:
            with open(path, "w") as file:
                file.write(value or name)
        except FileNotFoundError:  # a kernel without IPv6
            continue
    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("ready", pid_outside, flush=True)
    while os.read(0, 1):
        continue


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
