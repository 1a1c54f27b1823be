"""What the tests need of servers that they start themselves: a free port, a wait, and a line that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(reached: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it never was.
    """
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def listens(port: int) -> bool:
    """Tell whether somebody listens at a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Line:
    """A port that passes everything on to another one, and that can be cut in the middle and mended again.

    Attributes:
        port: Where it listens.
        passed: Bytes that went to the other side since it was whole.
    """

    def __init__(self, target: int) -> None:
        self._target, self._left, self.passed = target, float("inf"), 0
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def cut(self, after: int = 0) -> None:
        """Let so many bytes pass in either direction, then end all connections and take no new ones."""
        with self._guard:
            self._left = after
        if not after:
            self._hang_up()

    def mend(self) -> None:
        """Pass everything on again."""
        with self._guard:
            self._left, self.passed = float("inf"), 0

    @contextlib.contextmanager
    def broken(self, after: int = 0) -> Iterator[None]:
        """Cut it for a while."""
        self.cut(after)
        try:
            yield
        finally:
            self.mend()

    def is_cut(self) -> bool:
        """Tell whether nothing passes any more."""
        return self._left <= 0

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            if self.is_cut():
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            with self._guard:
                self._open |= {near, far}
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._guard:
                    data = data[: int(min(self._left, len(data)))]
                    self._left -= len(data)
                    self.passed += len(data)
                sink.sendall(data)
                if self.is_cut():
                    self._hang_up()
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        with self._guard:
            ends, self._open = self._open, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
