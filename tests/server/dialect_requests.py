"""A server with an embedder, a reranker and a classifier on fake engines, for the tests of dialects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestClient

from edgeembed.cache import VectorCache
from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved
from edgeembed.config.settings import Settings
from edgeembed.config.values import Origin, field_names
from edgeembed.engine.classes import Classes
from edgeembed.hub.catalogue import Prompts
from edgeembed.inference.service import EmbeddingService, ServiceOptions
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from edgeembed.server.app import make_app
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.auth import Access
from edgeembed.server.lifecycle import add_owner_routes
from edgeembed.server.live_settings import LiveSettings
from edgeembed.server.model_manager import ModelManager
from edgeembed.server.ops.admin import Ending
from tests.fakes import FakeEngine, fake_model, fake_row

PROMPTS = Prompts(query="Q: {text}", document="D: {text}")
LOGITS = {"best": 3.0, "good": 1.0, "so-so": -1.0, "bad": -4.0}
"""The reranker's logits for documents with these words."""
CLASSES = Classes(("negative", "neutral", "positive"), "softmax", pairs=True)
"""Those of the classifier, whose logits are `fake_row(text, 3)`."""


def score(text: str) -> np.ndarray:
    """Return the reranker's row for `instruction|query|document`."""
    return np.array([LOGITS.get(text.rpartition("|")[2], 0.0)], dtype=np.float32)


def unit(text: str, dimensions: int | None = None) -> np.ndarray:
    """Return the unit vector of the embedder's row, shape (dimensions,)."""
    row = fake_row(text).astype(np.float64)[:dimensions]
    return row / np.linalg.norm(row)


def probabilities(text: str) -> np.ndarray:
    """Return the classifier's probabilities, shape (3,), for a text or for `None|first|second`."""
    powers = np.exp(fake_row(text, 3).astype(np.float64))
    return powers / powers.sum()


NO_ENDING = Ending(lambda: None, lambda: None)


def resolved(settings: Settings, paths: Paths | None = None, **origins: Origin) -> Resolved:
    """Return settings as if they were the defaults, or came from where `origins` says, by name."""
    paths = paths or Paths.resolve()
    return Resolved(settings, {**dict.fromkeys(field_names(), "default"), **origins}, paths)


class Server:
    """The application and its engines."""

    def __init__(
        self,
        embedder: FakeEngine | None = None,
        *,
        access: Access | None = None,
        max_body_bytes: int = 100_000,
        max_request_texts: int = 50,
        aliases: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        """fields: of the embedder's `ServedModel`."""
        self.embedder = embedder or FakeEngine()
        self.ranker = FakeEngine()
        self.ranker.row_of = score
        self.ranker.dimensions = 1
        self.judge = FakeEngine(len(CLASSES.labels))
        engines = {"embedder": self.embedder, "ranker": self.ranker, "judge": self.judge}
        self.registry = registry = ModelRegistry(
            dataclasses.replace(fake_model("embedder", prompts=PROMPTS), **fields),
            [
                fake_model("ranker", "rerank", prompts=Prompts(instruction="Find answers")),
                fake_model("judge", "classify", classes=CLASSES),
            ],
            aliases={"nomic-embed-text": "embedder", **(aliases or {})},
        )
        self.keep_alive: float | None = None
        rules = PoolRules(budget_bytes=1, keep_alive=lambda _model: self.keep_alive)
        self.pool = ModelPool(lambda model: engines[model.name], rules)
        cache = VectorCache(None, memory_mib=8, disk_mib=0)
        service = EmbeddingService(registry, self.pool, cache, ServiceOptions(timeout=5))
        self.app: web.Application = make_app(
            service, access=access, max_body_bytes=max_body_bytes, max_request_texts=max_request_texts
        )


def daemon(**options: Any) -> Server:
    """Return a server with the routes for the owner, as the daemon has."""
    server = Server(**options)
    live = LiveSettings(resolved(Settings()))
    add_owner_routes(server.app, live, ModelManager(server.app[SERVICE], live), NO_ENDING)
    return server


async def post(client: TestClient, path: str, **body: Any) -> tuple[int, Any]:
    """POST a body; return the status and the JSON of the response."""
    response = await client.post(path, json=body)
    return response.status, await response.json()


async def get(client: TestClient, path: str) -> tuple[int, Any]:
    """GET a path; return the status and the JSON of the response."""
    response = await client.get(path)
    return response.status, await response.json()
