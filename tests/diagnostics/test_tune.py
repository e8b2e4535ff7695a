"""Tuning: the search on engines of known speed, what is remembered, and what the daemon makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.diagnostics.tune import tune
from edgeembed.engine.interface import ModelInfo, QuickLook
from edgeembed.engine.machine import usable_threads
from edgeembed.hub.store import Store
from edgeembed.models.profiles import Measurement, Profile, Profiles, Way
from edgeembed.runtime.assembly import chosen_way, make_engine
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.fakes import FakeEngine

START = Way(threads=8)


def speed_of(way: Way) -> float:
    """Best at 4 threads and 2 lanes; filling up from 40 tokens on helps; other batches do not."""
    slow = 1.0 if way.threads == 4 else 2.0
    slow *= 0.7 if way.bulk_lanes == 2 else 1.0
    slow *= 0.7 if way.pad_from_tokens == 40 else 1.0
    return slow * (1.0 if way.batch_tokens == 128 else 1.3)


async def measure(way: Way) -> tuple[Measurement, ModelInfo]:
    slow = speed_of(way)
    found = Measurement(way=way, query_ms=3 * slow, sentence_ms=9 * slow, tokens_per_second=5000 / slow)
    return found, FakeEngine().info


async def test_the_best_way_is_found() -> None:
    told: list[Measurement] = []
    profile = await tune(measure, START, thorough=True, tell=told.append)
    assert profile.way == Way(threads=4, batch_tokens=128, bulk_lanes=2, pad_from_tokens=40)
    assert profile.gain > 2.5
    assert told == profile.measured and told[0].way == START


async def test_on_a_card_only_its_batches_are_tried() -> None:
    def way_of(way: Way) -> float:
        return 0.5 if way.card_batch_tokens == 4096 else 1.0

    async def on_card(way: Way) -> tuple[Measurement, ModelInfo]:
        slow = way_of(way)
        found = Measurement(way=way, query_ms=slow, sentence_ms=slow, tokens_per_second=1 / slow, rung="gpu-full")
        return found, FakeEngine().info

    profile = await tune(on_card, START, thorough=True)
    assert profile.way == Way(threads=8, card_batch_tokens=4096)
    assert {each.way.threads for each in profile.measured} == {8}
    assert {each.way.card_batch_tokens for each in profile.measured} == {0, 512, 1024, 4096, 8192}


async def test_noise_does_not_replace_the_first_way() -> None:
    async def noisy(way: Way) -> tuple[Measurement, ModelInfo]:
        slow = 1.0 if way == START else 0.98
        return Measurement(way=way, query_ms=slow, sentence_ms=slow, tokens_per_second=1 / slow), FakeEngine().info

    assert (await tune(noisy, START, thorough=True)).way == START


async def test_the_quick_look_tries_half_the_threads_and_nothing_else() -> None:
    profile = await tune(measure, START, thorough=False)
    assert [each.way for each in profile.measured] == [Way(threads=8), Way(threads=4)]
    assert profile.way.threads == 4 and not profile.thorough


def profile_of(way: Way) -> Profile:
    measured = Measurement(way=way, query_ms=1.0, sentence_ms=2.0, tokens_per_second=3.0)
    return Profile(way=way, made_at=0.0, thorough=True, measured=[measured])


def test_a_profile_is_kept_for_one_file_and_forgotten(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    assert profiles.find("a" * 64) is None
    profiles.keep("a" * 64, profile_of(Way(3, 64, 1, None)))
    profiles.keep("b" * 64, profile_of(Way(5)))
    assert Profiles(tmp_path).find("a" * 64) == profile_of(Way(3, 64, 1, None))
    assert profiles.forget("a" * 64) and not profiles.forget("a" * 64)
    assert profiles.find("a" * 64) is None
    assert profiles.find("b" * 64) == profile_of(Way(5))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}'])
def test_a_damaged_file_is_no_profile(tmp_path: Path, content: bytes) -> None:
    profiles = Profiles(tmp_path)
    profiles.keep("a" * 64, profile_of(START))
    (tmp_path / "profiles.json").write_bytes(content)
    assert profiles.find("a" * 64) is None


def test_settings_go_before_the_profile_and_that_before_the_defaults() -> None:
    paths = Paths.resolve()
    digest = "c" * 64
    assert chosen_way(Settings(), paths, digest).batch_tokens == 128
    Profiles(paths.state).keep(digest, profile_of(Way(3, 256, 1, 24)))
    assert chosen_way(Settings(), paths, digest) == Way(3, 256, 1, 24)
    assert chosen_way(Settings(threads=7), paths, digest) == Way(7, 256, 1, 24)
    assert chosen_way(Settings(batch_tokens=64), paths, digest) == Way(3, 64, 1, 24)


def test_the_command_measures_remembers_and_forgets(tmp_path: Path) -> None:
    from edgeembed.cli.main import cli
    from edgeembed.hub.store import Store

    file = make_tiny_qwen3(tmp_path / "tiny.gguf")
    run = CliRunner().invoke(cli, ["tune", str(file), "--quick", "--seconds", "0.2", "--threads", "2"])
    assert run.exit_code == 0, run.output
    assert "tokens/s" in run.output and "it is remembered" in run.output
    paths = Paths.resolve()
    profile = Profiles(paths.state).find(Store(paths).local(file).digest)
    assert profile is not None and {each.way.threads for each in profile.measured} == {1, 2}
    assert "forgotten" in CliRunner().invoke(cli, ["tune", str(file), "--forget"]).output
    assert "nothing was known" in CliRunner().invoke(cli, ["tune", str(file), "--forget"]).output


async def test_a_model_is_looked_at_on_its_first_load_and_not_again(minilm: Callable[[str], Path]) -> None:
    paths = Paths.resolve()
    model = Store(paths).local(minilm("Q8_0"))

    async def look(settings: Settings) -> QuickLook | None:
        engine = make_engine(settings, paths, model)
        await engine.start()
        assert engine.info is not None
        await engine.close()
        return engine.info.looked

    for _ in range(10):
        first = await look(Settings(threads=1, batch_tokens=64, kernels="llama.cpp"))
        assert first is not None
        if first.pad_from_tokens is not None:
            break
        assert Profiles(paths.state).find(model.digest) is None, "this machine was too slow for a look just now"
    profile = Profiles(paths.state).find(model.digest)
    assert profile is not None and not profile.thorough
    assert profile.way == Way(threads=usable_threads(), pad_from_tokens=first.pad_from_tokens)
    assert chosen_way(Settings(), paths, model.digest) == profile.way
    assert await look(Settings(kernels="llama.cpp")) is None
