"""Files of web servers: what a server says of one, and reading it, with ranges where the server has them."""

from __future__ import annotations

from typing import Any

from edgeembed.bulk.place_status import PlaceStatus


def web_status(system: Any, url: str) -> PlaceStatus | None:
    """Return what a server says of a file by a request for its first byte; None if there is none.

    Not by HEAD, which signed URLs refuse. system: fsspec's. Raises what aiohttp raises.
    """
    from fsspec.asyn import sync  # type: ignore[import-untyped]

    async def ask() -> PlaceStatus | None:
        session = await system.set_session()
        # As it is: a compressed answer has another size, and no ranges.
        headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
        async with session.get(system.encode_url(url), headers=headers) as answer:
            if answer.status in (404, 410):
                return None
            if answer.status != 416:  # of an empty file
                answer.raise_for_status()
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            ranges = answer.status == 206 and total.isdigit()
            length = total if ranges or answer.status == 416 else answer.headers.get("Content-Length", "")
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return PlaceStatus("file", int(length) if length.isdigit() else None, version, ranges)

    found: PlaceStatus | None = sync(system.loop, ask)
    return found


def open_web_file(system: Any, url: str, status: PlaceStatus | None, block_size: int) -> Any:
    """Open a file of a server: seekable if the server has ranges. Raises FileNotFoundError, what aiohttp raises."""
    status = status or web_status(system, url)
    if status is None:
        raise FileNotFoundError(url)
    if status.ranges and status.size:
        return system.open(url, block_size=block_size, cache_type="none", size=status.size)
    stream = system.open(url, block_size=0, size=1, headers={"Accept-Encoding": "identity"})
    stream.seekable = lambda: False  # fsspec's says that it is
    return stream
