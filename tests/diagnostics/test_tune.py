"""Tuning: the search with engines of known speed, what is saved, and how the daemon uses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.diagnostics.tune import tune
from edgeembed.engine.interface import AutotuneResult, ModelInfo
from edgeembed.engine.machine import usable_threads
from edgeembed.hub.store import Store
from edgeembed.models.profiles import Measurement, RunProfile, TuningResult, TuningResults
from edgeembed.runtime.engines import chosen_profile, make_engine
from tests.engine.tiny_qwen3 import make_tiny_qwen3
from tests.fakes import FakeEngine

START = RunProfile(threads=8)


def speed_of(profile: RunProfile) -> float:
    """Fastest with 4 threads, 2 lanes and padding from 40 tokens; the batch size makes no difference."""
    slow = 1.0 if profile.threads == 4 else 2.0
    slow *= 0.7 if profile.bulk_lanes == 2 else 1.0
    slow *= 0.7 if profile.pad_from_tokens == 40 else 1.0
    return slow * (1.0 if profile.batch_tokens == 128 else 1.3)


async def measure(profile: RunProfile) -> tuple[Measurement, ModelInfo]:
    slow = speed_of(profile)
    found = Measurement(profile=profile, query_ms=3 * slow, sentence_ms=9 * slow, tokens_per_second=5000 / slow)
    return found, FakeEngine().info


async def test_the_best_profile_is_found() -> None:
    reported: list[Measurement] = []
    tuned = await tune(measure, START, thorough=True, on_measurement=reported.append)
    assert tuned.profile == RunProfile(threads=4, batch_tokens=128, bulk_lanes=2, pad_from_tokens=40)
    assert tuned.gain > 2.5
    assert reported == tuned.measured and reported[0].profile == START


async def test_on_a_gpu_only_batch_sizes_are_tried() -> None:
    def slowness_of(profile: RunProfile) -> float:
        return 0.5 if profile.card_batch_tokens == 4096 else 1.0

    async def on_card(profile: RunProfile) -> tuple[Measurement, ModelInfo]:
        slow = slowness_of(profile)
        found = Measurement(profile=profile, query_ms=slow, sentence_ms=slow, tokens_per_second=1 / slow, mode="gpu-full")
        return found, FakeEngine().info

    tuned = await tune(on_card, START, thorough=True)
    assert tuned.profile == RunProfile(threads=8, card_batch_tokens=4096)
    assert {each.profile.threads for each in tuned.measured} == {8}
    assert {each.profile.card_batch_tokens for each in tuned.measured} == {0, 512, 1024, 4096, 8192}


async def test_noise_does_not_replace_the_first_profile() -> None:
    async def noisy(profile: RunProfile) -> tuple[Measurement, ModelInfo]:
        slow = 1.0 if profile == START else 0.98
        return Measurement(profile=profile, query_ms=slow, sentence_ms=slow, tokens_per_second=1 / slow), FakeEngine().info

    assert (await tune(noisy, START, thorough=True)).profile == START


async def test_a_quick_run_tries_only_half_the_threads() -> None:
    tuned = await tune(measure, START, thorough=False)
    assert [each.profile for each in tuned.measured] == [RunProfile(threads=8), RunProfile(threads=4)]
    assert tuned.profile.threads == 4 and not tuned.thorough


def profile_of(profile: RunProfile) -> TuningResult:
    measured = Measurement(profile=profile, query_ms=1.0, sentence_ms=2.0, tokens_per_second=3.0)
    return TuningResult(profile=profile, made_at=0.0, thorough=True, measured=[measured])


def test_a_profile_is_kept_for_one_file_and_forgotten(tmp_path: Path) -> None:
    tuning_results = TuningResults(tmp_path)
    assert tuning_results.find("a" * 64) is None
    tuning_results.keep("a" * 64, profile_of(RunProfile(3, 64, 1, None)))
    tuning_results.keep("b" * 64, profile_of(RunProfile(5)))
    assert TuningResults(tmp_path).find("a" * 64) == profile_of(RunProfile(3, 64, 1, None))
    assert tuning_results.forget("a" * 64) and not tuning_results.forget("a" * 64)
    assert tuning_results.find("a" * 64) is None
    assert tuning_results.find("b" * 64) == profile_of(RunProfile(5))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}'])
def test_a_damaged_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    tuning_results = TuningResults(tmp_path)
    tuning_results.keep("a" * 64, profile_of(START))
    (tmp_path / "run-profiles.json").write_bytes(content)
    assert tuning_results.find("a" * 64) is None


def test_settings_override_the_profile_and_that_the_defaults() -> None:
    paths = Paths.resolve()
    digest = "c" * 64
    assert chosen_profile(Settings(), paths, digest).batch_tokens == 128
    TuningResults(paths.state).keep(digest, profile_of(RunProfile(3, 256, 1, 24)))
    assert chosen_profile(Settings(), paths, digest) == RunProfile(3, 256, 1, 24)
    assert chosen_profile(Settings(threads=7), paths, digest) == RunProfile(7, 256, 1, 24)
    assert chosen_profile(Settings(batch_tokens=64), paths, digest) == RunProfile(3, 64, 1, 24)


@pytest.mark.model
def test_the_command_measures_saves_and_forgets(tmp_path: Path) -> None:
    from edgeembed.cli.main import cli
    from edgeembed.hub.store import Store

    file = make_tiny_qwen3(tmp_path / "tiny.gguf")
    run = CliRunner().invoke(cli, ["tune", str(file), "--quick", "--seconds", "0.2", "--threads", "2"])
    assert run.exit_code == 0, run.output
    assert "tokens/s" in run.output and "saved the profile" in run.output
    paths = Paths.resolve()
    tuned = TuningResults(paths.state).find(Store(paths).local(file).digest)
    assert tuned is not None and {each.profile.threads for each in tuned.measured} == {1, 2}
    assert "forgotten" in CliRunner().invoke(cli, ["tune", str(file), "--forget"]).output
    assert "no saved result" in CliRunner().invoke(cli, ["tune", str(file), "--forget"]).output


@pytest.mark.model
async def test_a_model_is_autotuned_only_on_its_first_load(minilm: Callable[[str], Path]) -> None:
    paths = Paths.resolve()
    model = Store(paths).local(minilm("Q8_0"))

    async def autotune(settings: Settings) -> AutotuneResult | None:
        engine = make_engine(settings, paths, model)
        await engine.start()
        assert engine.info is not None
        await engine.close()
        return engine.info.autotune

    for _ in range(10):
        first = await autotune(Settings(threads=1, batch_tokens=64, kernels="llama.cpp"))
        assert first is not None
        if first.pad_from_tokens is not None:
            break
        assert TuningResults(paths.state).find(model.digest) is None, "this machine was too busy to autotune"
    tuned = TuningResults(paths.state).find(model.digest)
    assert tuned is not None and not tuned.thorough
    assert tuned.profile == RunProfile(threads=usable_threads(), pad_from_tokens=first.pad_from_tokens)
    assert chosen_profile(Settings(), paths, model.digest) == tuned.profile
    assert await autotune(Settings(kernels="llama.cpp")) is None
