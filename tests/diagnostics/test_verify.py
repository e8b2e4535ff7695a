"""Canary rows and the loss table, on tiny real models."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from edgeembed.cli.convert import convert
from edgeembed.cli.verify import verify as verify_command
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.diagnostics.verify import embed_texts, kendall_tau, ndcg, retrieval_set, verify
from edgeembed.engine import canary
from edgeembed.errors import EngineUnavailableError, HubError
from edgeembed.hub.catalogue import Check, catalogue, lookup
from edgeembed.hub.store import InstalledModel, Store
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_encoders import write_heads

pytestmark = pytest.mark.model

SETTINGS = Settings(threads=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("checkpoint") / "tiny", hidden=256, feed_forward=512, context=256)


@pytest.fixture
def model(checkpoint: Path, tmp_path: Path) -> InstalledModel:
    convert_checkpoint(checkpoint, tmp_path / "tiny.gguf", ConversionOptions(quantization="Q8_0"))
    return Store(Paths.resolve()).local(tmp_path / "tiny.gguf")


def test_a_converted_file_agrees_with_its_original_weights(model: InstalledModel) -> None:
    found = verify(SETTINGS, Paths.resolve(), model)
    assert len(found.canary_cosines) == len(canary.TEXTS)
    assert min(found.canary_cosines) > 0.99
    assert max(found.canary_cosines) < 1.0, "Q8_0 loses something: these are not the file's own rows"
    assert found.holds


def test_each_output_of_a_file_is_compared_alone_and_together(checkpoint: Path, tmp_path: Path) -> None:
    folder = write_heads(Path(shutil.copytree(checkpoint, tmp_path / "heads")), 256)
    convert_checkpoint(folder, tmp_path / "heads.gguf", ConversionOptions(quantization="Q8_0"))
    found = verify(SETTINGS, Paths.resolve(), Store(Paths.resolve()).local(tmp_path / "heads.gguf"))
    assert set(found.outputs) == {"multi", "sparse"} and found.holds
    assert 0.98 < found.outputs_least < min(found.outputs.values())
    wrong = msgspec.structs.replace(found, outputs={**found.outputs, "sparse": 0.9})
    assert wrong.holds is False


def test_a_file_whose_weights_changed_is_refused_with_the_numbers(model: InstalledModel) -> None:
    content = bytearray(model.path.read_bytes())
    content[-20_000:-10_000] = bytes(10_000)  # the last layer's weights
    model.path.write_bytes(content)
    with pytest.raises(EngineUnavailableError, match=r"cpu: canary rows are too far .*cosines .*cpu-plain: canary rows"):
        verify(SETTINGS, Paths.resolve(), Store(Paths.resolve()).local(model.path))


def test_a_file_with_damaged_canary_rows_is_refused(model: InstalledModel) -> None:
    content = model.path.read_bytes()
    at = content.find(canary.ROWS_KEY.encode()) + len(canary.ROWS_KEY) + 12
    model.path.write_bytes(content[:at] + b"!!!!" + content[at + 4 :])
    with pytest.raises(HubError, match="canary rows in the file are damaged"):
        verify(SETTINGS, Paths.resolve(), Store(Paths.resolve()).local(model.path))


def test_published_similarities_are_compared_with_measured_ones(model: InstalledModel) -> None:
    queries, documents = ["hello world"], ["the quick brown fox", "hello hello"]
    rows = embed_texts(SETTINGS, Paths.resolve(), model, [*queries, *documents]).rows
    true = [[float(rows[0] @ row) for row in rows[1:]]]
    entry = next(iter(catalogue().values()))
    for scores, holds in ((true, True), ([[true[0][0] + 0.1, true[0][1]]], False)):
        check = Check(source="the test", queries=queries, documents=documents, scores=scores)
        changed = _with_check(entry, check)
        found = verify(SETTINGS, Paths.resolve(), dataclasses.replace(model, entry=changed))
        assert found.measured is not None and found.measured[0] == pytest.approx(true[0], abs=1e-3)
        assert found.holds is holds


def _with_check(entry, check):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(entry, check=check)


def test_the_default_models_published_figures_are_those_of_its_card() -> None:
    entry = lookup("qwen3-embedding-0.6b")
    assert entry is not None and entry.check is not None
    assert entry.check.scores == [[0.7646, 0.1414], [0.1355, 0.6000]]


def test_the_command_prints_the_numbers_and_ends_with_a_status(model: InstalledModel) -> None:
    said = CliRunner().invoke(verify_command, [str(model.path)])
    assert said.exit_code == 0
    assert "cosine to the original weights: 0.9" in said.output
    fields = json.loads(CliRunner().invoke(verify_command, [str(model.path), "--json"]).stdout)
    assert fields["holds"] is True and fields["mode"] == "cpu"


def test_compare_prints_how_much_each_type_loses(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = retrieval_set(1)
    monkeypatch.setattr("edgeembed.diagnostics.verify.retrieval_set", lambda: small)
    said = CliRunner().invoke(convert, [str(checkpoint), "--compare", "Q8_0,Q4_K_M"])
    assert said.exit_code == 0, said.output
    _, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.stdout.splitlines()]
    assert [row[0] for row in rows] == ["F32", "Q8_0", "Q4_K_M"]
    cosines = [float(row[2]) for row in rows]
    assert cosines[0] == 1.0 > cosines[1] > cosines[2] > 0.8
    assert float(rows[0][5]) == 1.0, "the order of F32 agrees with itself"


def test_the_retrieval_set_comes_with_python() -> None:
    data = retrieval_set()
    assert len(data.queries) > 50 and len(data.documents) == len(data.sections) > 100
    assert set(data.sections) == set(range(len(data.queries)))


def test_ndcg_and_tau_on_cases_worked_by_hand() -> None:
    relevant = np.array([True, False, True, False])
    assert ndcg(np.array([4.0, 3.0, 2.0, 1.0]), relevant) == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))
    assert ndcg(np.array([4.0, 1.0, 3.0, 2.0]), relevant) == 1.0
    a = np.array([4.0, 3.0, 2.0, 1.0])
    assert kendall_tau(a, a) == 1.0
    assert kendall_tau(a, -a) == -1.0
    assert kendall_tau(a, np.array([4.0, 3.0, 1.0, 2.0])) == pytest.approx(4 / 6)
    assert kendall_tau(np.array([1.0, 1.0, 0.0]), np.array([5.0, 4.0, 3.0])) == 1.0


def test_canary_texts_longer_than_the_context_are_left_out(model: InstalledModel) -> None:
    everything = verify(SETTINGS, Paths.resolve(), model)
    short = verify(msgspec.structs.replace(SETTINGS, context_tokens=24), Paths.resolve(), model)
    assert short.holds
    assert 0 < len(short.canary_cosines) < len(everything.canary_cosines)
