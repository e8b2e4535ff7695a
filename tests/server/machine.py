"""A server with a store of models, for tests of what its owner may change."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from edgeembed.common.pull_lines import PullLine
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.config.values import Origin
from edgeembed.hub.store import Store
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import served
from edgeembed.server.app import make_app
from edgeembed.server.auth import Access
from edgeembed.server.lifecycle import add_owner_routes
from edgeembed.server.live_settings import LiveSettings
from edgeembed.server.model_manager import ModelManager
from tests.e2e.models import install
from tests.fakes import FakeEngine, fake_model
from tests.hub.fakes import model_bytes
from tests.server.dialect_requests import NO_ENDING, resolved


class Machine:
    """A server with an installed model, "tiny", beside its default model, and pulls that a test decides on."""

    def __init__(self, home: Path, *, origins: dict[str, Origin] | None = None, **settings: Any) -> None:
        """origins: of settings that come from elsewhere than the defaults."""
        self.paths = Paths.resolve({"EDGEEMBED_HOME": str(home)})
        self.store = Store(self.paths)
        file = home / "tiny.gguf"
        file.write_bytes(model_bytes())
        install(home, "tiny", "F32", file)
        self.engine = FakeEngine()
        self.settings = Settings(**settings)
        registry = ModelRegistry(
            fake_model("embedder"),
            aliases=self.settings.aliases,
            scan=lambda: [served(model) for model in self.store.installed()],
        )
        self.pool = ModelPool(lambda _model: self.engine, PoolRules(budget_bytes=1))
        self.service = EmbeddingService(registry, self.pool, None)
        self.live = LiveSettings(resolved(self.settings, self.paths, **(origins or {})))
        self.manager = ModelManager(self.service, self.live)
        self.pulled: list[str] = []
        self.lines: Sequence[PullLine] = [PullLine(installed="new:Q8_0")]
        self.manager.pulls.follow = self._follow  # type: ignore[method-assign]

    def app(self, **access: Any) -> web.Application:
        app = make_app(self.service, access=Access(**access))
        add_owner_routes(app, self.live, self.manager, NO_ENDING)
        return app

    async def _follow(self, spec: str) -> AsyncGenerator[PullLine, None]:
        self.pulled.append(spec)
        for line in self.lines:
            yield line

    @property
    def aliases(self) -> dict[str, str]:
        """What config.toml has now."""
        file = self.paths.config_file
        return tomllib.loads(file.read_text()).get("aliases", {}) if file.exists() else {}
