"""`edgeembed pull` with models that are not in the catalogue: `hf:` and files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner, Result

from edgeembed.cli.list_models import list_models
from edgeembed.cli.pull import pull
from edgeembed.cli.show import show
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.errors import ConversionError, HubError, SourceUnreachableError, UnknownModelError
from edgeembed.hub import catalogue as catalogue_module
from edgeembed.hub import uncatalogued
from edgeembed.hub.catalogue import DEFAULT_MODEL, STARTER_MODEL
from edgeembed.hub.download.huggingface import adapter_of, checkpoint_of
from edgeembed.hub.install import ensure_installed
from edgeembed.hub.store import Store
from tests.fakes import Lines
from tests.hub.fakes import COMMIT, DEFAULT_FILE, DEFAULT_REPO, STARTER_REPO, FakeConverter, FakeHub, leftovers, model_bytes
from tests.hub.gguf.splitting import split
from tests.overwriting import overwrite_in_place, rename_over

pytestmark = pytest.mark.usefixtures("small_catalogue")

REPO = "acme/Nice-Model-GGUF"
Q8, Q4 = model_bytes(9_000, general__license="mit"), model_bytes(7_000, general__file_type=2)
CONFIG = b'{"architectures": ["BertModel"]}'


@pytest.fixture
def repository(hub: FakeHub) -> FakeHub:
    hub.files[REPO] = {"README.md": b"", "Nice-Model-Q8_0.gguf": Q8, "Nice-Model-Q4_0.gguf": Q4}
    return hub


def run(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(pull, list(arguments))


def names(paths: Paths) -> list[str]:
    return [model.spec for model in Store(paths).installed()]


def test_a_repository_by_name(paths: Paths, repository: FakeHub) -> None:
    result = run(f"hf:{REPO}")
    assert result.stdout.startswith("nice-model:Q8_0  8.9 kB  mit  ")
    model = Store(paths).find("nice-model")
    assert model is not None and model.path.read_bytes() == Q8
    assert model.source == f"model hub: {REPO} @ {COMMIT[:12]}, Nice-Model-Q8_0.gguf"
    assert sorted(leftovers(paths)) == ["nice-model-Q8_0.gguf", "nice-model-Q8_0.json"]
    assert not (model.path.parent / ".partial").exists()
    assert "nice-model" in CliRunner().invoke(list_models).output
    shown = json.loads(CliRunner().invoke(show, ["nice-model", "--json"]).output)
    assert shown["installed"][0]["source"] == model.source

    seen = len(repository.log)
    again = run(f"hf:{REPO.lower()}:q8_0")
    assert "nice-model:Q8_0 is already installed" in again.stderr
    assert again.stdout == result.stdout
    assert len(repository.log) == seen, "the hub is not asked again"


def test_a_type_a_file_and_a_revision(paths: Paths, repository: FakeHub) -> None:
    run(f"hf:{REPO}:q4_0")
    assert names(paths) == ["nice-model:Q4_0"]
    run(f"hf:{REPO}@v2:Nice-Model-Q8_0.gguf")
    assert names(paths) == ["nice-model:Q4_0", "nice-model:Q8_0"]
    assert f"hub:api/models/{REPO}/revision/v2" in [path for _, path, _ in repository.requests]
    assert run(f"hf:{REPO}", "--type", "q4_0").exit_code == 0
    assert run(f"hf:{REPO}:q4_0", "--type", "q4_0").exit_code == 2


def test_a_newer_file_of_the_same_repository_replaces_the_older_one(paths: Paths, repository: FakeHub) -> None:
    run(f"hf:{REPO}")
    newer = model_bytes(9_500)
    repository.files[REPO]["Nice-Model-Q8_0.gguf"], repository.commits[REPO] = newer, "c" * 40
    run(f"hf:{REPO}")
    [older] = Store(paths).installed()
    assert older.path.read_bytes() == Q8, "without a revision, the installed model is used"
    run(f"hf:{REPO}@main")
    [model] = Store(paths).installed()
    assert model.path.read_bytes() == newer
    assert "cccccccccccc" in model.source
    assert "is already installed" in run(f"hf:{REPO}@main").stderr


def test_two_repositories_with_models_of_one_name(paths: Paths, repository: FakeHub) -> None:
    run(f"hf:{REPO}")
    repository.files["other/Nice-Model-GGUF"] = {"nice-model-q8_0.gguf": model_bytes(9_500)}
    with pytest.raises(HubError, match=r"another file .*acme/Nice-Model-GGUF.*--name.*edgeembed rm nice-model:Q8_0"):
        run("hf:other/Nice-Model-GGUF")
    run("hf:other/Nice-Model-GGUF", "--name", "nicer")
    assert names(paths) == ["nice-model:Q8_0", "nicer:Q8_0"]
    assert "nicer:Q8_0 is already installed" in run("hf:other/Nice-Model-GGUF").stderr


def test_names_of_the_catalogue(paths: Paths, repository: FakeHub) -> None:
    file = f"{DEFAULT_MODEL}-Q8_0.gguf"
    repository.files["stranger/x"] = {file: Q8}
    run("hf:stranger/x")
    assert names(paths) == [f"stranger-{DEFAULT_MODEL}:Q8_0"]
    with pytest.raises(HubError, match="name of another model"):
        run("hf:stranger/x", "--name", DEFAULT_MODEL)
    repository.files[DEFAULT_REPO] = {file: DEFAULT_FILE}
    run(f"hf:{DEFAULT_REPO}")
    model = Store(paths).find(DEFAULT_MODEL, "Q8_0")
    assert model is not None and model.entry is not None
    assert model.prompts.instruction == "find"


def test_another_model_does_not_get_a_name_of_the_catalogue(
    paths: Paths, repository: FakeHub, small_catalogue: Path
) -> None:
    entry = small_catalogue / f"{DEFAULT_MODEL}.toml"
    entry.write_text(entry.read_text().replace("dimensions = 8", "dimensions = 16"))
    catalogue_module.catalogue.cache_clear()
    repository.files[DEFAULT_REPO] = {f"{DEFAULT_MODEL}-Q8_0.gguf": DEFAULT_FILE}
    with pytest.raises(HubError, match=r"not the catalogue's .* 8 dimensions.*--name"):
        run(f"hf:{DEFAULT_REPO}")
    assert leftovers(paths) == []


def test_a_model_of_the_catalogue_cannot_be_renamed(repository: FakeHub) -> None:
    with pytest.raises(UnknownModelError, match="--name is for"):
        run(DEFAULT_MODEL, "--name", "mine")


def test_the_type_comes_from_the_header_if_the_name_has_none(paths: Paths, repository: FakeHub) -> None:
    repository.files["acme/plain"] = {"plain.gguf": Q4}
    run("hf:acme/plain")
    assert names(paths) == ["plain:Q4_0"]
    assert "plain:Q4_0 is already installed" in run("hf:acme/plain@main").stderr


@pytest.mark.parametrize(("card", "said"), [("apache-2.0", "apache-2.0"), (None, "licence unknown")])
def test_the_licence_of_the_card_where_the_file_has_none(repository: FakeHub, card: str | None, said: str) -> None:
    if card:
        repository.licenses[REPO] = card
    assert f"  {said}  " in run(f"hf:{REPO}:Q4_0").stdout


def test_a_checkpoint_without_gguf_is_converted(paths: Paths, hub: FakeHub, converter: FakeConverter) -> None:
    hub.files["acme/Some-Model"] = {"config.json": CONFIG, "model.safetensors": b"weights", "pytorch_model.bin": b"no"}
    hub.licenses["acme/Some-Model"] = "mit"
    result = run("hf:acme/Some-Model:f16")
    assert result.stdout.startswith("some-model:F16  ") and "  mit  " in result.stdout
    [call] = converter.calls
    assert (call["quantization"], call["source_repo"], call["source_revision"]) == ("F16", "acme/Some-Model", COMMIT)
    assert "some-model: 2 tensors are F16" in result.stderr
    assert sorted(leftovers(paths)) == ["some-model-F16.gguf", "some-model-F16.json"]
    assert "some-model:F16 is already installed" in run("hf:acme/Some-Model").stderr
    assert "some-model:F16 is already installed" in run("hf:acme/Some-Model@main:F16").stderr
    assert len(converter.calls) == 1
    with pytest.raises(UnknownModelError, match="would have to be converted"):
        run("hf:acme/Some-Model:Q9_9")


def test_pickled_weights_are_fetched_where_there_are_no_others(hub: FakeHub, converter: FakeConverter) -> None:
    files = {
        "config.json": CONFIG, "pytorch_model-00001-of-00001.bin": b"weights", "pytorch_model.bin.index.json": b"{}",
        "2_Dense/model.safetensors": b"dense", "2_Dense/pytorch_model.bin": b"no", "training_args.bin": b"no",
    }  # fmt: skip
    hub.files["acme/Some-Model"] = files
    assert run("hf:acme/Some-Model:F16").stdout.startswith("some-model:F16  ")
    asked = {path for _, path, _ in hub.requests}
    assert not any(name in path for path in asked for name in ("training_args", "2_Dense/pytorch_model"))
    assert any("pytorch_model-00001-of-00001.bin" in path for path in asked)
    assert len(converter.calls) == 1


def converted(target: Path) -> SimpleNamespace:
    target.write_bytes(model_bytes())
    return SimpleNamespace(path=target, fallbacks=[], notes=[])


def test_a_failed_conversion_keeps_the_checkpoint(paths: Paths, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = {f"model-0000{number}-of-00002.safetensors": bytes([number]) * 50_000 for number in (1, 2)}
    hub.files["acme/Some-Model"] = {"config.json": CONFIG, "model.safetensors.index.json": b"{}", **shards}
    hub.trouble.cut = [None, 20_000, *[0] * 20]
    with pytest.raises(SourceUnreachableError, match=r"20\.0 kB of 50\.0 kB are kept"):
        run("hf:acme/Some-Model")
    assert hub.sent == 70_000
    hub.trouble.cut = []

    def fails(source: Path, target: Path, *options: object) -> None:
        # Like the real converter.
        assert {path.name: path.stat().st_size for path in source.glob("*.safetensors")} == dict.fromkeys(shards, 50_000)
        raise ConversionError("not today")

    monkeypatch.setattr("edgeembed_convert.convert_checkpoint", fails)
    with pytest.raises(ConversionError, match="not today"):
        run("hf:acme/Some-Model")
    monkeypatch.setattr("edgeembed_convert.convert_checkpoint", lambda source, target, *options: converted(target))
    assert run("hf:acme/Some-Model").stdout.startswith("some-model:Q8_0")
    assert hub.sent == 100_000, "each shard was downloaded once"
    assert sorted(leftovers(paths)) == ["some-model-Q8_0.gguf", "some-model-Q8_0.json"]


def test_an_unsupported_family_is_refused_before_the_weights_are_downloaded(paths: Paths, hub: FakeHub) -> None:
    hub.files["acme/gpt"] = {"config.json": b'{"architectures": ["GPT2LMHeadModel"]}', "model.safetensors": b"large"}
    with pytest.raises(ConversionError, match="GPT2LMHeadModel"):
        run("hf:acme/gpt")
    assert hub.downloads == []
    assert leftovers(paths) == []


def test_an_adapter_is_refused_before_its_weights_are_downloaded(
    tmp_path: Path, paths: Paths, hub: FakeHub, settings: Settings, report: Lines
) -> None:
    adapter = {"adapter_config.json": b'{"base_model_name_or_path": "acme/base"}', "adapter_model.safetensors": b"large"}
    hub.files["acme/lora"] = adapter
    hub.files["acme/both"] = {**adapter, "config.json": CONFIG, "model.safetensors": b"large"}
    for repo, said in (
        ("acme/lora", "an adapter of acme/base.*: edgeembed convert acme/base --merge-adapter acme/lora$"),
        ("acme/both", "the checkpoint has an adapter.*: edgeembed convert acme/both --merge-adapter acme/both;"),
    ):
        with pytest.raises(ConversionError, match=said):
            run(f"hf:{repo}")
        with pytest.raises(ConversionError, match=said), checkpoint_of(repo, settings, report, tmp_path):
            pass
    assert not [name for name in hub.downloads if name.endswith(".safetensors")]
    assert leftovers(paths) == []


def test_a_checkpoint_is_downloaded_for_the_adapter_that_is_chosen(
    tmp_path: Path, hub: FakeHub, settings: Settings, report: Lines
) -> None:
    """What `edgeembed convert OWNER/NAME --merge-adapter retrieval` does, and with an adapter of another repository."""
    adapter = {"adapter_config.json": b'{"base_model_name_or_path": "acme/base"}', "adapter_model.safetensors": b"small"}
    hub.files["acme/lora"] = adapter
    hub.files["acme/base"] = {"config.json": CONFIG, "model.safetensors": b"large"}
    tasks = {f"adapters/retrieval/{name}": content for name, content in adapter.items()}
    hub.files["acme/tasks"] = hub.files["acme/base"] | tasks
    with checkpoint_of("acme/tasks", settings, report, tmp_path, "retrieval") as (folder, _, _):
        assert (folder / "adapters" / "retrieval" / "adapter_model.safetensors").read_bytes() == b"small"
    with adapter_of("acme/lora", settings, report, tmp_path) as lora:
        assert (lora / "adapter_model.safetensors").read_bytes() == b"small"
        with checkpoint_of("acme/base", settings, report, tmp_path, str(lora)) as (folder, _, _):
            assert (folder / "model.safetensors").read_bytes() == b"large"


def test_a_checkpoint_beside_the_result_stays_until_the_conversion_succeeds(
    tmp_path: Path, hub: FakeHub, settings: Settings, report: Lines
) -> None:
    """What `edgeembed convert OWNER/NAME` does."""
    hub.files["acme/Some-Model"] = {"config.json": CONFIG, "model.safetensors": bytes(60_000)}
    hub.trouble.cut = [20_000, *[0] * 20]
    beside = tmp_path / "results"
    beside.mkdir()
    with (
        pytest.raises(SourceUnreachableError, match=r"20\.0 kB of 60\.0 kB are kept"),
        checkpoint_of("acme/Some-Model", settings, report, beside),
    ):
        pass
    [kept] = beside.iterdir()
    assert f"of acme/Some-Model are kept in {kept}; run the same command again to resume" in str(report)
    hub.trouble.cut = []
    with (
        pytest.raises(ConversionError, match="not today"),
        checkpoint_of("acme/Some-Model", settings, report, beside),
    ):
        raise ConversionError("not today")
    assert (hub.sent, kept.exists()) == (60_000, True)
    with checkpoint_of("acme/Some-Model@main", settings, report, beside) as (folder, repo, commit):
        assert (folder.name, repo, commit) == ("Some-Model", "acme/Some-Model", COMMIT)
        assert (folder / "model.safetensors").read_bytes() == bytes(60_000)
    assert hub.sent == 60_000
    assert list(beside.iterdir()) == []


def test_offline(paths: Paths, repository: FakeHub) -> None:
    with pytest.raises(HubError, match="offline is set"):
        run(f"hf:{REPO}", "--offline")
    run(f"hf:{REPO}")
    seen = len(repository.log)
    assert "is already installed" in run(f"hf:{REPO}", "--offline").stderr
    assert len(repository.log) == seen


def test_a_repository_can_be_served(paths: Paths, repository: FakeHub, report: Lines) -> None:
    settings = Settings(hub_timeout=5.0)
    model = ensure_installed(f"hf:{REPO}", paths=paths, settings=settings, report=report)
    said = len(report.said)
    assert ensure_installed(f"hf:{REPO}", paths=paths, settings=settings, report=report) == model
    assert len(report.said) == said


def test_a_file_in_a_folder_of_the_repository(paths: Paths, repository: FakeHub) -> None:
    repository.files["acme/deep"] = {"gguf/Q8_0/deep-model-Q8_0.gguf": Q8}
    run("hf:acme/deep:gguf/Q8_0/deep-model-Q8_0.gguf")
    assert names(paths) == ["deep-model:Q8_0"]
    assert not Store(paths).partials("deep-model").root.exists()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"the disk of .*nice-model.* is full; nothing was installed, and partial downloads are kept"),
        (errno.EDQUOT, r"the disk of .*nice-model.* has no space left for this user \(quota\); nothing was installed"),
        (errno.EIO, r"Input/output error \(in .*nice-model.*\)"),  # the system names no file for a write
    ],
)
def test_a_disk_that_cannot_be_written_is_named(
    number: int, said: str, paths: Paths, repository: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("edgeembed.hub.download.transfer.os.fsync", full)
        with pytest.raises(HubError, match=said):
            run(f"hf:{REPO}")
    run(f"hf:{REPO}")
    assert repository.sent == len(Q8)


def test_a_mirror_that_names_neither_sizes_nor_checksums(paths: Paths, repository: FakeHub) -> None:
    repository.tells_sizes = False
    repository.trouble.cut = [3_000]
    assert "names no checksum" in run(f"hf:{REPO}").stderr
    [model] = Store(paths).installed()
    assert model.path.read_bytes() == Q8


def test_a_hub_that_cannot_be_reached(closed_port: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEMBED_HUB_TIMEOUT", "0.3")
    with pytest.raises(SourceUnreachableError, match=rf"hf:{REPO} could not be downloaded: .*refused.*HTTPS_PROXY"):
        run(f"hf:{REPO}")


def test_a_file_is_copied(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "My Model-Q8_0.gguf"
    file.write_bytes(Q8)
    result = run(str(file))
    assert result.stdout.startswith("my-model:Q8_0  8.9 kB  mit  ")
    [model] = Store(paths).installed()
    assert (model.path.read_bytes(), model.digest) == (Q8, hashlib.sha256(Q8).hexdigest())
    assert model.source == f"copied from {file}"
    assert file.exists()
    assert "is already installed" in run(str(file)).stderr
    assert "is already installed" in run(str(model.path)).stderr
    file.write_bytes(model_bytes(9_500))
    with pytest.raises(HubError, match=r"my-model:Q8_0 is already installed, from another file"):
        run(str(file))
    run(str(file), "--name", "mine", "--offline")
    assert names(paths) == ["mine:Q8_0", "my-model:Q8_0"]
    assert run(str(file), "--type", "Q8_0").exit_code == 2


def test_the_catalogues_own_file_gets_its_name(paths: Paths, tmp_path: Path) -> None:
    """Copied from a USB stick to a machine without network."""
    file = tmp_path / "download.gguf"
    file.write_bytes(DEFAULT_FILE)
    run(str(file), "--offline")
    assert names(paths) == [f"{DEFAULT_MODEL}:Q8_0"]
    other = tmp_path / f"{DEFAULT_MODEL}-Q8_0.gguf"
    other.write_bytes(Q8)
    run(str(other))
    assert names(paths) == [f"local-{DEFAULT_MODEL}:Q8_0", f"{DEFAULT_MODEL}:Q8_0"]


def test_a_damaged_file_is_not_installed(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(Q8[:-100])
    # The damage is found before the file is copied.
    monkeypatch.setattr("edgeembed.hub.uncatalogued._copy", lambda *_: pytest.fail("it was copied"))
    with pytest.raises(HubError, match="ends at byte"):
        run(str(file))
    assert list(paths.models.glob("*")) == []
    assert file.exists()
    with pytest.raises(UnknownModelError, match="there is no file"):
        run(str(tmp_path / "y.gguf"))


@pytest.mark.parametrize("write", [rename_over, overwrite_in_place])
@pytest.mark.parametrize("moment", ["require_space", "sha256_of", "_copy"])
def test_a_file_that_is_replaced_during_the_copy_is_not_installed(
    moment: str, write: Callable[[Path, Path], None], paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another file of the same size, after the name was chosen or before the copy is complete."""
    file, other = tmp_path / "download.gguf", tmp_path / "other.gguf"
    file.write_bytes(DEFAULT_FILE)
    other.write_bytes(DEFAULT_FILE[:-1] + b"?")
    at, real = f"edgeembed.hub.uncatalogued.{moment}", getattr(uncatalogued, moment)

    def replace_then(*arguments: object) -> object:
        done = real(*arguments)
        if other.exists():
            write(other, file)
            other.unlink()
        return done

    monkeypatch.setattr(at, replace_then)
    with pytest.raises(HubError, match="changed while it was copied"):
        run(str(file), "--offline")
    assert leftovers(paths) == []
    run(str(file), "--offline")
    assert names(paths) == ["download:Q8_0"], "its new content is not a file of the catalogue"


def test_a_file_that_does_not_fit_on_the_disk(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    file = tmp_path / "x.gguf"
    file.write_bytes(Q8)
    monkeypatch.setattr("edgeembed.hub.download.checks.shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(HubError, match="not enough disk space"):
        run(str(file))
    assert leftovers(paths) == []


def test_a_manifest_of_an_older_version_has_no_repository(paths: Paths, repository: FakeHub) -> None:
    """Older versions did not record the repository."""
    run(f"hf:{DEFAULT_REPO}", "--name", DEFAULT_MODEL)
    [model] = Store(paths).installed()
    manifest = Store(paths).manifest(model.path)
    assert manifest is not None
    old = msgspec.structs.replace(manifest, repo=None, revision=None, file=None, facts=None)
    model.path.with_suffix(".json").write_bytes(msgspec.json.encode(old))
    assert Store(paths).installed() == [model]
    assert "is already installed" in run(f"hf:{DEFAULT_REPO}", "--name", DEFAULT_MODEL).stderr
    assert STARTER_REPO not in repository.files and STARTER_MODEL not in names(paths)


def test_a_model_in_several_parts_is_joined(paths: Paths, tmp_path: Path) -> None:
    whole = tmp_path / "My-Model-Q8_0.gguf"
    whole.write_bytes(Q8)
    parts = split(whole, 2)
    for part in parts:
        result = run(str(part))
        assert result.exit_code == 0, result.output
        model = Store(paths).find("my-model", "Q8_0")
        assert model is not None and model.path.read_bytes() == Q8
    assert "already installed" in result.stderr
    assert sorted(leftovers(paths)) == ["my-model-Q8_0.gguf", "my-model-Q8_0.json"]


def test_a_repository_of_a_model_in_several_parts(paths: Paths, hub: FakeHub, tmp_path: Path) -> None:
    whole = tmp_path / "Nice-Model-Q8_0.gguf"
    whole.write_bytes(Q8)
    hub.files[REPO] = {part.name: part.read_bytes() for part in split(whole, 2)}
    result = run(f"hf:{REPO}")
    assert result.exit_code == 0, result.output
    model = Store(paths).find("nice-model", "Q8_0")
    assert model is not None and model.path.read_bytes() == Q8
    assert "1 other parts, joined here" in model.source
    assert sorted(leftovers(paths)) == ["nice-model-Q8_0.gguf", "nice-model-Q8_0.json"]
    assert not (model.path.parent / ".partial").exists()
    assert "already installed" in run(f"hf:{REPO}:Q8_0").stderr
    # A part that the hub lacks is missed before anything is downloaded.
    del hub.files[REPO]["Nice-Model-Q8_0-00002-of-00002.gguf"]
    with pytest.raises(HubError, match="the repository has no Nice-Model-Q8_0-00002"):
        run(f"hf:{REPO}", "--name", "other")
