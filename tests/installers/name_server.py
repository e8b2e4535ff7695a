"""A name server on 127.0.0.1 for tests: the records of a headless Service, as pods come and go."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from typing import cast

_HEAD = struct.Struct("!6H")
_ANSWER = struct.Struct("!HHHLH")
_ANSWERS, _NO_SUCH_NAME = 0x8580, 0x8583
"""Flags: authoritative, recursion available; a status of 0 or 3 (NXDOMAIN)."""
_A, _OPT = 1, 41


class NameServer(asyncio.DatagramProtocol):
    """Answers questions for IPv4 addresses from `addresses`, by name; other names do not exist."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> int:
        """Return the port that it listens on."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return int(transport.get_extra_info("sockname")[1])

    def stop(self) -> None:
        """End; the port refuses from now on."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        number, _, _, _, _, _ = _HEAD.unpack_from(data)
        labels, at = [], _HEAD.size
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = data[_HEAD.size : at + 5]
        (kind,) = struct.unpack_from("!H", data, at + 1)
        name = ".".join(labels).lower()
        address = self.addresses.get(name)
        records = []
        if address is not None and kind == _A:
            packed = ipaddress.IPv4Address(address).packed
            records.append(_ANSWER.pack(0xC000 | _HEAD.size, _A, 1, 5, len(packed)) + packed)
        flags = _NO_SUCH_NAME if address is None else _ANSWERS
        assert self._transport is not None
        self._transport.sendto(_HEAD.pack(number, flags, 1, len(records), 0, 0) + question + b"".join(records), addr)
