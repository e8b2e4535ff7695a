"""Requests from a seed that are full of secrets and break the rules of HTTP, of JSON or of our API, as raw bytes.

Against a running daemon, whose log must not have `xyzzy` in it then: python -m tests.e2e.broken_requests HOST PORT
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import random
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.server.malformed import EXAMPLES

MARK = "xyzzy"
"""Begins every text, key, header, cookie, path and query that is sent."""
KEY = f"{MARK}-key-0123456789"
PATHS = (
    *EXAMPLES,
    "/v1/chat/completions",
    "/v1/responses",
    f"/v1/{MARK}-path",
    f"/{MARK}-path",
    "/v1/models",
    "/v1/models/",
)
LONG = 12_000
"""Characters: more than aiohttp takes in one line of a head."""


def requests(seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` requests, the same ones for the same seed."""
    rng = random.Random(seed)
    for number in range(count):
        yield _SHAPES[number % len(_SHAPES)](rng)


def _marked(value: Any) -> Any:
    """Return a JSON value whose texts begin with the mark."""
    match value:
        case str():
            return f"{MARK}-text é\u202e {value}"
        case list():
            return [_marked(item) for item in value]
        case dict():
            return {name: _marked(item) for name, item in value.items()}
        case _:
            return value


FIELDS = ("model", "instruction", "input_type", "prompt_name", "user", "dimensions", "encoding_format", "truncate", "cache")


def _body(rng: random.Random, path: str) -> bytes:
    body = EXAMPLES.get(path) or {"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    marked = _marked(body) if rng.random() < 0.8 else body
    more = {name: f"{MARK}-{name}" for name in rng.sample(FIELDS, rng.choice([0, 0, 0, 1, 1, 2]))}
    return json.dumps({**marked, **more}, ensure_ascii=rng.random() < 0.5).encode()


def _head(rng: random.Random, method: str, target: str, *more: str, version: str = "HTTP/1.1") -> bytes:
    key = KEY if rng.random() < 0.7 else f"{MARK}-wrong-key"
    headers = [
        "Host: localhost",
        rng.choice([f"Authorization: Bearer {key}", f"api-key: {key}", f"X-Api-Key: {key}"]),
        f"Cookie: session={MARK}-cookie; {MARK}=1",
        f"X-Private: {MARK}-header",
        f"User-Agent: {MARK}-agent",
        *more,
    ]
    return "\r\n".join([f"{method} {target} {version}", *headers, "", ""]).encode()


def _target(rng: random.Random, path: str) -> str:
    return f"{path}?key={MARK}-query&q=%0d%0a%1b[31m" if rng.random() < 0.5 else path


def _post(rng: random.Random, *more: str, body: bytes | None = None, length: int | None = None) -> bytes:
    path = rng.choice(PATHS)
    body = _body(rng, path) if body is None else body
    length = len(body) if length is None else length
    method = "POST" if rng.random() < 0.9 else rng.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    return _head(rng, method, _target(rng, path), f"Content-Length: {length}", *more) + body


def _well_formed(rng: random.Random) -> bytes:
    return _post(rng)


def _wrong_length(rng: random.Random) -> bytes:
    """Return a request whose Content-Length counts characters, or anything; what is left is read as the next request."""
    body = _body(rng, rng.choice(PATHS))
    length = rng.choice([len(body.decode()), len(body) // 2, 0, 1, len(body) + 100])
    return _post(rng, body=body, length=length) + (b"" if rng.random() < 0.5 else b"\r\n\r\n" + body)


def _odd_length(rng: random.Random) -> bytes:
    odd = rng.choice([f"{MARK}-1", "-5", "+5", "5, 6", "0x10", "1_0", "9" * 30, " ", "5\r\nContent-Length: 6"])
    return _head(rng, "POST", "/v1/embeddings", f"Content-Length: {odd}") + _body(rng, "/v1/embeddings")


def _bad_header(rng: random.Random) -> bytes:
    line = rng.choice(
        [f"Authorization: Bearer {MARK}\x01", f"{MARK} no colon", f"{MARK} name: x", f" {MARK}: folded", f": {MARK}",
         f"X-A: {MARK}\rX-B: 1", f"X-A: {MARK}\nX-B: {MARK}", f"X-A: {MARK}\0", f"{MARK}\x1b[31m: 1", f"X\u00e9: {MARK}",
         f"Host: {MARK}.example", f"Cookie: {MARK * LONG}", f"X-Long: {MARK * LONG}", f"{MARK * LONG}: 1",
         "\r\n".join(f"X-{number}: {MARK}" for number in range(300)), f"Expect: {MARK}", f"Range: {MARK}",
         f"Content-Encoding: {MARK}", f"Content-Type: application/json; charset={MARK}", f"Accept-Encoding: {MARK}",
         f"Content-Type: multipart/form-data; boundary={MARK}", f"Connection: {MARK}", f"X-Edgeembed-Cache: {MARK}",
         f"Origin: https://{MARK}.example", f"X-Request-Id: {MARK} with blanks", f"Via: {MARK}", f"Date: {MARK}"]
    )  # fmt: skip
    return _post(rng, line)


def _bad_line(rng: random.Random) -> bytes:
    line = rng.choice(
        [f"{MARK} /v1/x HTTP/1.1", f"GET /{MARK} HTTP/9.x", f"GET /{MARK}", f"GET {MARK} HTTP/1.1", f"/{MARK}",
         f"GET /v1/models?q={MARK * LONG} HTTP/1.1", f"GET /{MARK * LONG} HTTP/1.1", f"{MARK * LONG} / HTTP/1.1",
         f"GET /{MARK} {MARK} HTTP/1.1", f"GET /%{MARK} HTTP/1.1", f"GET /\x1b[31m{MARK} HTTP/1.1",
         f"GET /{MARK}\0 HTTP/1.1",
         f"GET /v1/%0d%0a%1b[31m{MARK} HTTP/1.1", f"GET /v1/%e2%80%ae{MARK} HTTP/1.1", f"GET /{MARK}\u202e HTTP/1.1",
         f"GET http://{MARK}:{MARK}@localhost/v1/models HTTP/1.1", f"CONNECT {MARK}:443 HTTP/1.1", f"OPTIONS * {MARK}",
         f"GET http://[{MARK}/ HTTP/1.1", f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{MARK}", f"G\u00cbT /{MARK} HTTP/1.1",
         f"get /{MARK} HTTP/1.1", f"POST /v1/embeddings HTTP/1.1 {MARK}", f"\x16\x03\x01\x02\0\x01{MARK}",
         f"DELETE /v1/models/{MARK} HTTP/1.1", f"GET /v1/models/{MARK} HTTP/1.1", f"BREW /v1/{MARK} HTTP/1.1"]
    )  # fmt: skip
    return f"{line}\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


def _chunked(rng: random.Random) -> bytes:
    body = _body(rng, "/v1/embeddings")
    size = f"{len(body):x}"
    chunks = rng.choice(
        [MARK, f"{size} {MARK}", f"{size};{MARK}=1", f"-{size}", f"0x{size}", f"{size}{MARK}", "f" * 40, MARK * LONG,
         f"{len(body.decode()):x}", f"{len(body) // 2:x}", f"{size}\r", size]
    )  # fmt: skip
    tail = rng.choice([b"\r\n0\r\n\r\n", f"\r\n0\r\n{MARK}: 1\r\n\r\n".encode(), f"\r\n{MARK}\r\n".encode(), b""])
    more = rng.choice([(), ("Content-Length: 5",), (f"Transfer-Encoding: {MARK}",)])
    target = rng.choice(["/v1/embeddings", "/v1/chat/completions"])
    return _head(rng, "POST", target, "Transfer-Encoding: chunked", *more) + f"{chunks}\r\n".encode() + body + tail


def _compressed(rng: random.Random) -> bytes:
    body = _body(rng, "/v1/embeddings")
    packed = rng.choice(
        [body, gzip.compress(body)[: rng.randrange(1, 60)], gzip.compress(body) + body, gzip.compress(b"{" + body)]
    )
    return _post(rng, f"Content-Encoding: {rng.choice(['gzip', 'deflate', 'br', 'zstd'])}", body=packed)


def _upgrade(rng: random.Random) -> bytes:
    head = _head(rng, "GET", "/v1/models", "Connection: Upgrade", f"Upgrade: {rng.choice(['websocket', 'h2c', MARK])}")
    return head + rng.choice([f"{MARK} is read after it\r\n\r\n".encode(), _bad_line(rng), b""])


def _mutated(rng: random.Random) -> bytes:
    raw = bytearray(_post(rng))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(4):
            case 0:
                del raw[at:]
            case 1 if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            case 2:
                raw[at:at] = rng.randbytes(rng.randint(1, 5)) + MARK.encode()
            case _:
                raw[at:at] = (
                    rng.choice([b"\r\n", b"\n", b"\r", b"\0", b"\x1b[31m", b": ", b" ", b"\xff", b"\r\n\r\n"])
                    + MARK.encode()
                )
    return bytes(raw)


def _pipelined(rng: random.Random) -> bytes:
    return b"".join(rng.choice([_well_formed, _bad_header, _bad_line, _chunked])(rng) for _ in range(rng.randint(2, 5)))


def _malformed_json(rng: random.Random) -> bytes:
    text = f"{MARK}-text".encode()
    body = rng.choice(
        [b'{"input": "%b' % text, b'{"input": %b}' % text, b'"%b"' % text, b'{"%b": 1}' % text,
         b'{"input": ["%b", 7]}' % text,
         b'{"input": "%b", "model": "%b:query"}' % (text, text), b'{"input": "%b\\ud83d"}' % text, b"[" * 5000 + text,
         b'{"input": "%b", "encoding_format": "%b"}' % (text, text), b'{"input": "%b", "dimensions": "%b"}' % (text, text),
         b'{"input": {"%b": "%b"}}' % (text, text), b'{"input": "' + text * 3000 + b'"}', text.decode().encode("utf-16"),
         b'{"input": "%b", "truncate": "%b", "cache": "%b", "user": "%b"}' % (text, text, text, text), b"\xff" + text]
    )  # fmt: skip
    return _post(rng, "Content-Type: application/json", body=body)


_SHAPES: tuple[Callable[[random.Random], bytes], ...] = (
    _well_formed, _wrong_length, _odd_length, _bad_header, _bad_line, _chunked, _compressed, _upgrade, _mutated, _pipelined,
    _malformed_json,
)  # fmt: skip


async def send(host: str, port: int, raw: bytes, tls: ssl.SSLContext | None = None, seconds: float = 0.5) -> bytes:
    """Send a request and return what comes back until the server closes the connection or sends nothing for so long."""
    answer = b""
    with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            writer.write(raw)
            while chunk := await asyncio.wait_for(reader.read(1 << 16), seconds):
                answer += chunk
        finally:
            writer.transport.abort()
    return answer


async def send_all(
    host: str, port: int, count: int, *, seed: int = 1, clients: int = 16, tls: ssl.SSLContext | None = None
) -> Counter[str]:
    """Send `count` requests from several clients; return how often each status was the first one of a connection."""
    waiting = requests(seed, count)
    statuses: Counter[str] = Counter()

    async def client() -> None:
        for raw in waiting:
            answer = await send(host, port, raw, tls)
            statuses[answer.split(b" ", 2)[1].decode("latin-1") if answer.startswith(b"HTTP/") else "none"] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return statuses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(dict(asyncio.run(send_all(given.host, given.port, given.cases, seed=given.seed))))
