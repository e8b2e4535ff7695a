"""`edgeembed devices`, and the settings about graphics cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeembed.cli.devices import devices
from edgeembed.config.resolution import resolve
from edgeembed.engine.gpu.inventory import LIBRARY_VARIABLE
from edgeembed.errors import ConfigError, HubError, UnknownModelError
from edgeembed.hub.catalogue import catalogue
from edgeembed.hub.gguf.weights import read_weights
from edgeembed.hub.planned_weights import planned_weights
from tests.engine.gpu.broken_cuda import build_with_broken_cuda
from tests.engine.tiny_qwen3 import make_tiny_qwen3


def run(*arguments: str, catch: bool = True) -> Result:
    return CliRunner().invoke(devices, arguments, catch_exceptions=catch)


def test_it_shows_the_cpu_and_why_no_gpu_is_used() -> None:
    done = run()
    assert done.exit_code == 0
    assert "CPU" in done.output and "no GPU: " in done.output


def test_a_missing_gpu_that_the_settings_name_is_status_1() -> None:
    done = run("--device", "cuda", "--json")
    assert done.exit_code == 1
    said = json.loads(done.output)
    assert said["used"] == [] and said["setting"] == "cuda"
    assert [reason["cause"] for reason in said["why_no_gpu"]] == ["no_build"]
    assert run("--device", "cpu").exit_code == 0


def test_a_broken_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(build_with_broken_cuda(tmp_path)))
    said = json.loads(run("--json").output)
    assert said["why_no_gpu"][0]["cause"] == "broken_module"
    assert said["modules"][0]["problem"]


def test_a_plan_shows_where_a_model_would_go(tmp_path: Path) -> None:
    file = make_tiny_qwen3(tmp_path / "tiny.gguf")
    done = run("--plan", str(file))
    assert done.exit_code == 0 and "all on the CPU" in done.output
    said = json.loads(run("--plan", str(file), "--device", "cuda", "--json").output)
    assert said["plan"]["gpu_layers"] == 0 and "no kernels for NVIDIA GPUs" in said["plan"]["text"]


def test_a_plan_of_a_model_that_is_not_installed_is_an_estimate(home: Path) -> None:
    done = run("--plan", "qwen3-embedding-0.6b")
    assert done.exit_code == 0, done.output
    assert "all on the CPU" in done.output and "not installed; the sizes are an estimate from the catalogue" in done.output
    assert "639" in done.output, "its file, in MB"
    said = json.loads(run("--plan", "qwen3-embedding-8b:F16", "--json").output)["plan"]
    assert said["estimate"] is True and said["file_bytes"] > 15e9 and said["memory_bytes"] > said["file_bytes"]
    with pytest.raises(UnknownModelError, match=r"Did you mean 'qwen3-embedding-0\.6b'"):
        run("--plan", "qwen3-embeding-0.6b", catch=False)
    with pytest.raises(HubError, match="`offline` forbids asking the hub for its size"):
        run("--plan", "hf:some/model", "--offline", catch=False)


def test_estimated_sizes_are_those_of_the_file(minilm: Callable[[str], Path]) -> None:
    weights, facts = read_weights(minilm("Q8_0"))
    planned = planned_weights(catalogue()["all-minilm-l6-v2"], "Q8_0")
    assert planned is not None
    assert planned[0].layers == pytest.approx(weights.layers, rel=0.01)
    assert planned[0].largest_matrix == weights.largest_matrix
    assert (planned[0].feed_forward, planned[0].heads_width, planned[0].heads) == (
        weights.feed_forward, weights.heads_width, weights.heads,
    )  # fmt: skip
    assert planned[1] == facts


@pytest.mark.parametrize(
    ("setting", "value"),
    [("device", "gpu"), ("device", "cuda:"), ("device", "cuda:x"), ("gpu_layers", "-1"), ("gpu_layers", "all"),
     ("gpu_memory_utilization", "0"), ("gpu_memory_utilization", "1.5")],
)  # fmt: skip
def test_bad_settings_are_refused(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--{setting.replace('_', '-')}"):
        resolve({setting: value}, {})


def test_layers_may_be_a_number_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('gpu_layers = 20\ndevice = "cuda:1"\ngpu_memory_utilization = 0.5\n')
    settings = resolve({}, {"EDGEEMBED_HOME": str(tmp_path)}).settings
    assert (settings.gpu_layers, settings.device, settings.gpu_memory_utilization) == ("20", "cuda:1", 0.5)
