"""Misbehaving clients: slow readers, and clients that disconnect at three moments. Plain sockets in one thread.

python -m tests.e2e.bad_clients PORT SLOW VANISHING TEXTS      until its standard input ends; a line of JSON then
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from edgeembed.diagnostics.bench.texts import TextMaker

Moment = Literal["after the body", "in the body", "in the answer"]
MOMENTS: tuple[Moment, ...] = ("after the body", "in the body", "in the answer")

READ_EVERY_SECONDS = 0.05
"""Seconds between two bytes that a slow reader reads."""
VANISH_EVERY_SECONDS = 1.0
"""Seconds between two connections of a vanishing client."""
NEW_TEXTS = 8
"""Texts in a request whose client does not wait: a bulk load for the daemon."""
WORDS = 10


class BadClients:
    """Slow readers and vanishing clients of one daemon, until `stop`."""

    def __init__(self, port: int, *, slow: int, vanishing: int, texts: int = 64, words: int = WORDS, seed: int = 1) -> None:
        """Prepare. texts: number of texts, of `words` words each, in the request of a slow reader or of a client that
        disconnects within the response. They are always the same, so that the response is what costs, not the model.
        """
        self.gone: Counter[str] = Counter()
        """Number of disconnects, by moment."""
        self.bytes_read = 0
        """By all slow readers."""
        self._port = port
        self._slow = slow
        self._vanishing = vanishing
        self._maker = TextMaker(seed)
        self._random = random.Random(seed)
        self._large = self._request(self._maker.texts(texts, words))
        self._readers: list[socket.socket] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bad clients")
        self._failure: BaseException | None = None

    def __enter__(self) -> BadClients:
        """Start; when this returns, every slow reader has received the beginning of its response."""
        # One after the other: the texts of the first are computed, those of the others come from the cache.
        for _ in range(self._slow):
            # A small window, so that the system does not buffer the response for the client.
            reader = self._connect(receive_buffer=4096)
            self._readers.append(reader)
            reader.sendall(self._large)
            assert reader.recv(12) == b"HTTP/1.1 200"
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Disconnect all clients. Raises the exceptions of the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for each in self._readers:
            each.close()
        self._readers.clear()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as failure:
            self._failure = failure

    def _act(self) -> None:
        numbers = itertools.count()
        now = time.monotonic()
        due: list[tuple[float, int, socket.socket | Iterator[Moment]]] = []
        for index, reader in enumerate(self._readers):
            heapq.heappush(due, (now + READ_EVERY_SECONDS * index / self._slow, next(numbers), reader))
        for index in range(self._vanishing):
            moments = itertools.cycle(MOMENTS[index % 3 :] + MOMENTS[: index % 3])
            heapq.heappush(due, (now + VANISH_EVERY_SECONDS * index / self._vanishing, next(numbers), moments))
        while due and not self._stopping.is_set():
            at, _, who = due[0]
            if (left := at - time.monotonic()) > 0:
                self._stopping.wait(left)
                continue
            if isinstance(who, socket.socket):
                self.bytes_read += len(who.recv(1))
                heapq.heapreplace(due, (time.monotonic() + READ_EVERY_SECONDS, next(numbers), who))
            else:
                self.vanish(next(who))
                heapq.heapreplace(due, (time.monotonic() + VANISH_EVERY_SECONDS, next(numbers), who))

    def vanish(self, moment: Moment) -> None:
        """Connect and disconnect at that moment, with a normal close or a reset."""
        client = self._connect()
        if moment == "in the answer":
            client.sendall(self._large)
            client.recv(1000)
        else:
            request = self._request(self._maker.texts(NEW_TEXTS, WORDS))
            client.sendall(request if moment == "after the body" else request[: -self._random.randrange(1, 200)])
        if self._random.random() < 0.5:
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            )
        client.close()
        self.gone[moment] += 1

    def _connect(self, receive_buffer: int | None = None) -> socket.socket:
        client = socket.socket()
        client.settimeout(60)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", self._port))
        return client

    def _request(self, texts: list[str]) -> bytes:
        body = json.dumps({"input": texts, "encoding_format": "float", "cache": "keep" if len(texts) > NEW_TEXTS else True})
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def main(port: int, slow: int, vanishing: int, texts: int) -> None:
    """Misbehave until standard input ends; print a line at the start, and JSON with the counts at the end."""
    clients = BadClients(port, slow=slow, vanishing=vanishing, texts=texts)
    with clients:
        sys.stdout.write("all there\n")
        sys.stdout.flush()
        sys.stdin.read()
        seconds = time.process_time()
    json.dump({"gone": clients.gone.total(), "bytes_read": clients.bytes_read, "driver_seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
