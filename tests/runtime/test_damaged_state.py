"""Damaged files in the state folder, and manifests: whatever is in them, they are read as if they were missing."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeembed.common.status import Demotion
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.interface import Row
from edgeembed.engine.supervisor.fallback_policy import FallbackMemory, FallbackPolicy
from edgeembed.hub.digests import Digests
from edgeembed.hub.store import Store
from edgeembed.hub.usage import Usage
from edgeembed.inference.drift import VectorHealth
from edgeembed.inference.row_watch import BASELINE_ROWS
from edgeembed.models.profiles import Measurement, RunProfile, TuningResult, TuningResults
from edgeembed.models.served_model import served
from edgeembed.runtime.engines import chosen_profile
from edgeembed.upstream.identity import IdentityStore, ProbeResult
from tests.cli.helpers import install
from tests.fakes import fake_model, fake_row

DIGEST = "a" * 64
MODEL = fake_model()
PROFILE = RunProfile(threads=2, batch_tokens=64, bulk_lanes=1, pad_from_tokens=40)
Use = Callable[[], object]


def run_profiles(paths: Paths) -> tuple[Path, Use]:
    measured = Measurement(profile=PROFILE, query_ms=1.0, sentence_ms=2.0, tokens_per_second=100.0)
    tuned = TuningResult(profile=PROFILE, made_at=time.time(), thorough=True, measured=[measured])
    TuningResults(paths.state).keep(DIGEST, tuned)

    def use() -> None:
        profile = chosen_profile(Settings(), paths, DIGEST)
        assert 1 <= profile.threads < 10_000 and 1 <= profile.batch_tokens < 10**7, "a worker runs with this"

    return paths.state / "run-profiles.json", use


def execution_modes(paths: Paths) -> tuple[Path, Use]:
    file = paths.state / "execution-modes.json"
    demotion = Demotion(mode="cpu", reason="it crashed", at=time.time(), cause="crash", again_at=time.time() + 60)
    FallbackMemory(file, DIGEST).save([demotion])

    def use() -> None:
        policy = FallbackPolicy(None, FallbackMemory(file, DIGEST))
        policy.demote("it crashed", cause="crash", temporary=False)
        for each in policy.demotions:
            time.localtime(each.at)
        policy.remember()

    return file, use


def digests(paths: Paths) -> tuple[Path, Use]:
    model = paths.state / "x.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"content")
    Digests(paths.state / "digests.json").of(model)
    return paths.state / "digests.json", lambda: Digests(paths.state / "digests.json").of(model)


def last_used(paths: Paths) -> tuple[Path, Use]:
    file = paths.state / "last-used.json"
    Usage(file).mark(DIGEST)

    def use() -> None:
        Usage(file).mark("b" * 64)
        for when in Usage(file).all().values():
            time.localtime(when)

    return file, use


def manifest(paths: Paths) -> tuple[Path, Use]:
    model = install("alpha", "F16")

    def use() -> None:
        store = Store(paths)
        for found in store.installed():
            assert (found.spec, served(found).name) == ("alpha:F16", "alpha")
            assert found.damage or found.digest == model.digest
        store.find("alpha", "F16")

    return model.path.with_suffix(".json"), use


def identities(paths: Paths) -> tuple[Path, Use]:
    file = paths.state / "upstream-identities.json"
    result = ProbeResult(
        rows=[fake_row(text) for text in "abc"], canary_tokens=[3, 3, 3], context_tokens=0, encoding="base64"
    )

    def use() -> None:
        store = IdentityStore(file)
        store.last("http://gpu-box", "model")
        store.recognise("http://gpu-box", "model", result, 0.99)

    use()
    return file, use


def baseline(paths: Paths) -> tuple[Path, Use]:
    folder = paths.state / "vector-baselines"
    rows = [Row(fake_row(str(number)), 3) for number in range(BASELINE_ROWS)]

    def use() -> None:
        health = VectorHealth(folder)
        for first in range(0, len(rows), 50):
            keys = [str(number).encode() for number in range(first, first + 50)]
            health.observe(MODEL, None, keys, rows[first : first + 50])
            asyncio.run(health.sync())
        health.alarm(MODEL)
        health.stats()

    use()
    [file] = folder.iterdir()
    return file, use


FILES = {made.__name__: made for made in (run_profiles, execution_modes, digests, last_used, manifest, identities, baseline)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_never_fatal(name: str) -> None:
    file, use = FILES[name](Paths.resolve())
    use()
    good = file.read_bytes()
    for content in damaged(good):
        file.write_bytes(content)
        try:
            use()
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}; the file was {content[:500]!r}")


def damaged(good: bytes) -> Iterator[bytes]:
    """Yield what disks, editors and power cuts leave, and values of other types in each place."""
    yield from (b"", b"{", b"null", b"[]", b"\xff\xfe\0", bytes(64), b"[" * 100_000, b'{"a":' * 50_000, b"1e999")
    rng = random.Random(1)
    for _ in range(20):
        yield good[: rng.randrange(len(good))]
        flipped = bytearray(good)
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
    for number, path in enumerate(places(json.loads(good))):
        for value in (None, -1, 10**30, "x", [], {}) if number < 60 else ():
            yield json.dumps(replaced(json.loads(good), path, value)).encode()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    at = value
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return value
