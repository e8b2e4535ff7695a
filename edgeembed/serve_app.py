"""Replicas of edgeembed on a Ray cluster, by Ray Serve.

    serve run edgeembed.serve_app:build model=all-minilm-l6-v2 replicas=1:4 gpus=1
    serve run edgeembed.serve_app:app                                   one replica, settings as for the daemon

docs/ray-serve.md describes the arguments and the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeembed.ray_serve.application import make_application


def build(args: Mapping[str, Any]) -> Any:
    """Return the application with arguments, as `serve run` and Serve's configuration pass them. Raises ConfigError."""
    return make_application(args)


def __getattr__(name: str) -> Any:
    """Return the application without arguments as `app`, made when somebody asks for it."""
    if name == "app":
        return make_application({})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
