"""The deployment whose replicas compute: each runs a daemon and passes requests to it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from edgeembed.config.resolution import resolve
from edgeembed.errors import EngineUnavailableError
from edgeembed.ray_serve import daemon
from edgeembed.ray_serve.messages import Answer, Request
from edgeembed.ray_serve.scaling import QUEUE_TOKENS

log = logging.getLogger(__name__)

REPLICA_HEADER = b"X-Edgeembed-Replica"
_NO_STATUS = 70
"""Of a replica whose daemon has ended: an internal software error, as in sysexits.h."""


class Replica:
    """A daemon of its own, with the processors and graphics cards that Ray has assigned.

    Serve calls the methods; it starts another replica when this one's process ends or is not healthy.
    """

    async def __init__(self, settings: Mapping[str, str]) -> None:  # type: ignore[misc]
        """Start the daemon and wait until it embeds. settings: see `read_arguments`."""
        import ray
        from ray import serve

        self._name = serve.get_replica_context().replica_id.unique_id
        self._node = ray.get_runtime_context().get_node_id()
        self._closing = False
        self._daemon = daemon.start({**settings} | _resources(settings, ray.get_runtime_context()))
        try:
            await self._daemon.wait_until_ready()
        except BaseException:
            await self._daemon.close()
            raise
        self._watching = asyncio.create_task(self._end_with_daemon(), name="daemon")

    async def stream(self, request: Request) -> AsyncIterator[Answer | bytes]:
        """Yield the answer of the daemon and the parts of its body that follow."""
        async for part in self._daemon.ask(request):
            yield self._named(part) if isinstance(part, Answer) else part

    async def whole(self, request: Request) -> tuple[str, str, Answer]:
        """Return this replica's name and node, and the whole answer of the daemon."""
        parts = [part async for part in self._daemon.ask(request)]
        head = parts[0]
        assert isinstance(head, Answer)
        body = head.body + b"".join(part for part in parts[1:] if isinstance(part, bytes))
        return self._name, self._node, head._replace(body=body, complete=True)

    async def check_health(self) -> None:
        """Raise EngineUnavailableError if the daemon cannot embed now; Serve replaces a replica that stays so."""
        if not await self._daemon.is_ready():
            raise EngineUnavailableError("the daemon does not embed")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the policies of scaling may need."""
        return {QUEUE_TOKENS: await self._daemon.queue_tokens()}

    async def __del__(self) -> None:
        """Stop the daemon; Serve has waited for the requests in flight."""
        self._closing = True
        if hasattr(self, "_daemon"):
            await self._daemon.close()

    def _named(self, answer: Answer) -> Answer:
        return answer._replace(headers=[*answer.headers, (REPLICA_HEADER, self._name.encode())])

    async def _end_with_daemon(self) -> None:
        await self._daemon.end()
        if not self._closing:
            log.error("the daemon has ended; so does its replica, and Serve starts another one")
            os._exit(_NO_STATUS)


def _resources(settings: Mapping[str, str], context: Any) -> dict[str, str]:
    """Return the settings that follow from what Ray has assigned, unless somebody has set them."""
    assigned = context.get_assigned_resources()
    own = resolve(settings).settings
    found = {}
    if not own.threads:
        found["threads"] = str(max(1, int(assigned.get("CPU", 1))))
    if own.device == "auto" and not assigned.get("GPU"):
        found["device"] = "cpu"  # the cards of this node are others'
    return found
