"""A TCP proxy that cuts, stalls, drops and spoils what runs through it, between a dialler and a port on loopback."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a port of its own and forwards to `port`. One thread; `close` ends it."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []  # dialler's side, port's side
        self._deaf: list[socket.socket] = []  # port's sides whose dialler is gone, and nobody tells the port
        self._lock = threading.Lock()  # guards everything below and above
        self.stalled = False  # nothing is forwarded, nothing closed
        self.refusing = False  # new connections are closed at once
        self.lose = 0  # so many of the next chunks to the port are lost
        self.spoil = 0  # in so many of the next chunks to the port one bit is turned
        self.spoil_back = 0  # the same for chunks from the port
        self.accepted = 0
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def stall(self) -> None:
        """Forward nothing from now on, until `stalled` is set to False."""
        with self._lock:
            self.stalled = True

    def cut(self) -> int:
        """End all connections, at both ends. How many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            for pair in pairs:
                for end in pair:
                    end.close()
            return len(pairs)

    def cut_unseen(self) -> int:
        """End all connections towards the dialler; the port's ends stay open, as after a power cut."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            for dialler, port in pairs:
                dialler.close()
                self._deaf.append(port)
            return len(pairs)

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        self.cut()
        for end in [*self._deaf, self._listener]:
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while not self._ends:
            with self._lock, selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                if not self.stalled:
                    for pair in self._pairs:
                        for end in pair:
                            selector.register(end, selectors.EVENT_READ, pair)
                ready = selector.select(0.002)
                for key, _ in ready:
                    if key.data is None:
                        self._accept()
                    elif key.data in self._pairs:
                        self._forward(key.fileobj, key.data)  # type: ignore[arg-type]
            threading.Event().wait(0.0005)  # lets the test take the lock

    def _accept(self) -> None:
        dialler, _ = self._listener.accept()
        self.accepted += 1
        try:
            if self.refusing:
                raise ConnectionRefusedError
            self._pairs.append((dialler, socket.create_connection(("127.0.0.1", self.target), timeout=5)))
        except OSError:
            dialler.close()

    def _forward(self, source: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        dialler, port = pair
        try:
            data = source.recv(CHUNK_BYTES)
            if not data:
                raise ConnectionResetError
            if source is dialler and self.lose > 0:
                self.lose -= 1
                return
            if source is dialler and self.spoil > 0:
                self.spoil -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
            if source is port and self.spoil_back > 0:
                self.spoil_back -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
            (port if source is dialler else dialler).sendall(data)
        except OSError:
            self._pairs.remove(pair)
            dialler.close()
            port.close()
