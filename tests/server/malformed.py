"""Malformed bodies from a seed, for each route that takes a body.

Against a running daemon, with its memory before and after: python -m tests.server.malformed URL --cases 10000
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from edgeembed.server.ops.operations import OPERATIONS

EXAMPLES: dict[str, dict[str, Any]] = {
    path: operation.example or {"model": "no-such-model"}
    for (method, path), operation in OPERATIONS.items()
    if method == "POST" and operation.body and not path.startswith("/v1/admin")
}
"""Valid bodies by path, without the routes for the owner, which only daemons have (`test_admin.py`)."""


@dataclass(frozen=True)
class Case:
    """One request: path, body, and headers that may not match the body."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield `count` cases, the same ones for the same seed."""
    rng = random.Random(seed)
    paths = sorted(EXAMPLES)
    for number in range(count):
        path = paths[number % len(paths)]
        yield rng.choice(_KINDS)(rng, path)


def _value(rng: random.Random, depth: int = 0) -> Any:
    """Return a random JSON value, mostly an odd one."""
    kind = rng.randrange(11 if depth < 3 else 9)
    match kind:
        case 0:
            return None
        case 1:
            return rng.choice([True, False])
        case 2:
            return rng.choice([0, -1, 1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400])
        case 3:
            return rng.choice([0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")])
        case 4:
            return rng.choice(["", " ", "\0", "\x7f", "\ud800", "\udfff\ud800", "é", "e\u0301", "\U0001f600", "a" * 50_000])
        case 5:
            return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(20)))
        case 6:
            return rng.choice(
                ["none", "float", "base64", "query", "no-model", "5m", "-1", "../../etc/passwd", "${x}", "%00"]
            )
        case 7:
            return [rng.randrange(-5, 200_000) for _ in range(rng.randrange(5))]
        case 8:
            return rng.choice([[], {}, [[]], [{}], [None], [""], {"text": ""}, {"": ""}])
        case 9:
            return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(["text", "content", "a", ""]): _value(rng, depth + 1) for _ in range(rng.randrange(3))}


def _fields(path: str) -> list[str]:
    bodies = [operation.body for (method, where), operation in OPERATIONS.items() if where == path and method == "POST"]
    structs = [struct for body in bodies for struct in (body if isinstance(body, tuple) else (body,))]
    return sorted({name for struct in structs for name in struct.__struct_encode_fields__})


def _wrong_fields(rng: random.Random, path: str) -> Case:
    body = dict(EXAMPLES[path])
    fields = _fields(path)
    for name in rng.sample(fields, k=min(rng.randint(1, 2), len(fields))):
        body[name] = _value(rng)
    if rng.random() < 0.2:
        body.pop(rng.choice(sorted(body)))
    return Case(path, _json(body))


def _wrong_shape(rng: random.Random, path: str) -> Case:
    return Case(path, _json(_value(rng)))


def _mutated(rng: random.Random, path: str) -> Case:
    body = bytearray(_json(EXAMPLES[path]))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(4):
            case 0:
                del body[at:]
            case 1 if at < len(body):
                body[at] ^= 1 << rng.randrange(8)
            case 2:
                body[at:at] = rng.randbytes(rng.randint(1, 5))
            case _:
                body[at:at] = rng.choice(
                    [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u", b"\\ud83d", b"\xff", b"\0", b"//"]
                )
    return Case(path, bytes(body))


def _noise(rng: random.Random, path: str) -> Case:
    return Case(path, rng.randbytes(rng.randrange(200)))


def _deep(rng: random.Random, path: str) -> Case:
    depth = rng.choice([100, 1000, 10_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inside = opening * depth + b"1" + (closing * depth if rng.random() < 0.5 else b"")
    name = rng.choice(_fields(path)).encode()
    return Case(path, b'{"%b":%b}' % (name, inside) if rng.random() < 0.7 else inside)


def _twice(rng: random.Random, path: str) -> Case:
    one, other = _json(EXAMPLES[path]), _json({rng.choice(_fields(path)): _value(rng)})
    return Case(path, one[:-1] + b"," + other[1:] if rng.random() < 0.5 else one + other)


def _encoded(rng: random.Random, path: str) -> Case:
    """Return a body whose headers do not match it, or that grows when it is decompressed."""
    body = _json(EXAMPLES[path])
    encoding = rng.choice(["gzip", "deflate", "br", "zstd", "identity", "nonsense"])
    packed = rng.choice(
        [
            body,
            gzip.compress(body)[: rng.randrange(1, 40)],
            gzip.compress(b" " * 10_000_000),
            zlib.compress(b"[" * 1_000_000),
        ]
    )
    return Case(path, packed, {"Content-Encoding": encoding})


def _typed(rng: random.Random, path: str) -> Case:
    kinds = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "",
    ]
    body = rng.choice(
        [_json(EXAMPLES[path]).decode().encode("utf-16"), b"input=a&model=b", b"--x\r\n\r\n", b"\xef\xbb\xbf{}"]
    )
    return Case(path, body, {"Content-Type": rng.choice(kinds)})


_KINDS = (
    _wrong_fields,
    _wrong_fields,
    _wrong_fields,
    _wrong_shape,
    _mutated,
    _mutated,
    _noise,
    _deep,
    _twice,
    _encoded,
    _typed,
)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


async def send(session: aiohttp.ClientSession, url: str, case: Case) -> tuple[int, str]:
    """Send a case; return the status and text of the response. Raises aiohttp.ClientError if there is none."""
    headers = {"Content-Type": "application/json", **case.headers}
    async with session.post(url + case.path, data=case.body, headers=headers) as response:
        return response.status, await response.text()


async def run(url: str, count: int, seed: int, clients: int) -> int:
    """Send cases to a daemon from several clients, and print the responses' statuses; return the exit status."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        async with session.get(f"{url}/v1/status") as response:
            status = await response.json()
        daemon = psutil.Process(status["pid"])
        statuses: Counter[int] = Counter()
        bad: list[str] = []
        waiting = cases(seed, count)

        async def client() -> None:
            for case in waiting:
                try:
                    got, text = await send(session, url, case)
                except aiohttp.ClientError as error:
                    got, text = 0, repr(error)
                statuses[got] += 1
                if not (200 <= got < 300 or 400 <= got < 500):
                    bad.append(f"{case.path} {case.headers} {case.body[:200]!r}: {got} {text[:200]}")

        async def watch() -> None:
            while True:
                print(f"{sum(statuses.values()):>7,} sent  {_memory(daemon)}", flush=True)
                await asyncio.sleep(5)  # between two lines for who watches

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(client() for _ in range(clients)))
        watching.cancel()
        print(f"{sum(statuses.values()):>7,} sent  {_memory(daemon)}")
        print("statuses:", dict(sorted(statuses.items())))
        print("\n".join(bad[:20]))
        async with session.get(f"{url}/health") as response:
            print("health:", response.status)
            return int(bool(bad) or response.status != 200)


def _memory(daemon: psutil.Process) -> str:
    processes = [daemon, *daemon.children(recursive=True)]
    return "memory of daemon and workers, MiB: " + ", ".join(f"{each.memory_info().rss / 2**20:.1f}" for each in processes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    raise SystemExit(asyncio.run(run(given.url, given.cases, given.seed, given.clients)))
