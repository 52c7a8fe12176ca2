"""A proxy between a store and PostgreSQL that loses connections where it is told to: before, at and after an append's COMMIT."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum

from tests.serving import PATIENCE


class Cut(Enum):
    """Where in an append's transaction the connection is lost."""

    MIDST = "after the batch was sent, before COMMIT"
    BEFORE = "before COMMIT reaches the server"
    UNANSWERED = "after COMMIT was done, before its answer reaches the store"
    AFTER = "after the answer has reached the store"


class Proxy:
    """Passes connections on to a PostgreSQL, whose socket's path it is given, and loses them where it is told to. Close it.

    A transaction is an append's if it locks the head of the log; statements that were prepared before go by their names.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._next: Cut | None = None
        self._lost = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_next(self, cut: Cut) -> None:
        """Lose the connection of the next append, at this point of it."""
        self._next = cut

    def wait_until_lost(self) -> None:
        """Wait until the loss that was asked for has happened."""
        assert self._lost.acquire(timeout=PATIENCE), "no append came by"

    def take(self, *cuts: Cut) -> Cut | None:
        """The loss that is to happen now, if it is one of these; it will not happen again."""
        found = self._next
        if found not in cuts:
            return None
        self._next = None
        return found

    def told_lost(self) -> None:
        self._lost.release()

    def close(self) -> None:
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            thread = threading.Thread(target=_Link(self, client, server).run, daemon=True)
            thread.start()
            self._threads.append(thread)


class _Messages:
    """Cuts a stream of bytes into PostgreSQL's messages; the beginning of one is kept until the rest has come."""

    def __init__(self, *, begun: bool) -> None:
        self._begun = begun
        self._rest = b""

    def add(self, data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        """`(kind, content, the bytes themselves)` of each message that is now complete. The client's first has no kind."""
        self._rest += data
        while True:
            start = 1 if self._begun else 0
            if len(self._rest) < start + 4:
                return
            end = start + int.from_bytes(self._rest[start : start + 4], "big")
            if len(self._rest) < end:
                return
            whole, self._rest = self._rest[:end], self._rest[end:]
            self._begun = True
            yield whole[:start], whole[start + 4 :], whole


class _Lost(Exception):
    """The connection is to be lost now."""


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._asked = _Messages(begun=False)
        self._told = _Messages(begun=True)
        self._prepared: dict[bytes, bytes] = {}
        self._appending = False
        self._losing: Cut | None = None

    def run(self) -> None:
        with self._client, self._server, selectors.DefaultSelector() as selector, suppress(OSError, _Lost):
            selector.register(self._client, selectors.EVENT_READ, self._from_client)
            selector.register(self._server, selectors.EVENT_READ, self._from_server)
            while True:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(65_536)
                    if not data:
                        return
                    key.data(data)

    def _lose(self) -> None:
        # Reset, as a machine that has gone does; the other end has no chance to read what is still under way.
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._client.close()
        self._server.close()
        self._proxy.told_lost()
        raise _Lost

    def _from_client(self, data: bytes) -> None:
        for kind, content, whole in self._asked.add(data):
            sql = self._sql(kind, content)
            if b"log_head" in sql and b"FOR UPDATE" in sql:
                self._appending = True
            if self._appending and b"UPDATE log_head" in sql and self._proxy.take(Cut.MIDST):
                self._lose()
            if self._appending and sql.strip(b"\0; ") == b"COMMIT":
                self._losing = self._proxy.take(Cut.BEFORE, Cut.UNANSWERED, Cut.AFTER)
                self._appending = False
                if self._losing is Cut.BEFORE:
                    self._lose()
            self._server.sendall(whole)

    def _sql(self, kind: bytes, content: bytes) -> bytes:
        """The statement that a message has the server run; nothing for one that runs none."""
        if kind == b"Q":
            return content
        if kind == b"P":
            name, sql, _ = content.split(b"\0", 2)
            self._prepared[name] = sql
        if kind == b"B":
            _, name, _ = content.split(b"\0", 2)
            return self._prepared.get(name, b"")
        return b""

    def _from_server(self, data: bytes) -> None:
        for kind, content, whole in self._told.add(data):
            done = kind == b"C" and content == b"COMMIT\0"
            if done and self._losing is Cut.UNANSWERED:
                self._lose()
            self._client.sendall(whole)
            if kind == b"Z" and self._losing is Cut.AFTER:
                # The answer must have been read: a reset would overtake it.
                self._client.shutdown(socket.SHUT_WR)
                self._server.close()
                self._proxy.told_lost()
                raise _Lost
