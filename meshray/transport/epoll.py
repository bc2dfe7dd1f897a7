"""One descriptor to wait for in the place of many.

Who opens a descriptor has it watched, and ends that before it is closed: closing alone is not enough where a forked
child has it, too. So what is ready here is what is watched now, and never an older one of the same number.
"""

from __future__ import annotations

import select

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Epoll:
    """`fd` is readable when one of those that are watched is ready. All levels, no edges."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.fd = self._epoll.fileno()

    def watch(self, fd: int, events: int = READ) -> None:
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def ready(self) -> list[int]:
        """Some of those that are ready; the next call has the others."""
        return [fd for fd, _ in self._epoll.poll(0)]

    def close(self) -> None:
        self._epoll.close()
