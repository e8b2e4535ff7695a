"""What the handlers of one application share, and what a request carries between them."""

from __future__ import annotations

from aiohttp import web

from edgeembed.common.spans import Tracing
from edgeembed.inference.service import EmbeddingService
from edgeembed.server.access_log import AccessLog
from edgeembed.server.auth import Access

SERVICE = web.AppKey("service", EmbeddingService)
MAX_REQUEST_TEXTS = web.AppKey("max_request_texts", int)
STARTED_AT = web.AppKey("started_at", float)
ACCESS = web.AppKey("access", Access)
ACCESS_LOG = web.AppKey("access_log", AccessLog)
"""Only if the setting asks for one."""
TRACING = web.AppKey("tracing", Tracing)
"""Only if the setting `traces` is on."""

BODY_DIGEST = web.RequestKey("body_digest", bytes)
"""SHA-256 of the request's body, if the response may be stored under it."""
