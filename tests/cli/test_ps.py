"""`edgeembed ps`, against a server that answers as the daemon does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeembed.cli.ps import ps
from edgeembed.errors import EdgeEmbedError
from edgeembed.hub.catalogue import Prompts
from edgeembed.hub.store import InstalledModel
from tests.cli.helpers import answering, edgeembed, loaded, status_of


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(catch_exceptions=False)


def entry(name: str, **changed: Any) -> dict[str, Any]:
    model = InstalledModel(
        name=name,
        type="Q8_0",
        path=Path(f"/models/{name}.gguf"),
        digest="d" * 64,
        size_bytes=1,
        license=None,
        prompts=Prompts(),
        dimensions=8,
        matryoshka=None,
        source="",
        entry=None,
    )
    return loaded(model, **changed)


def columns(output: str) -> list[dict[str, str]]:
    """Return the cells of a printed table."""
    titles, *lines = output.split("\n\n")[0].splitlines()
    names = ["NAME", "TYPE", "TASK", "STATE", "DEVICE", "MEMORY", "REQUESTS", "IDLE", "UNLOADS IN"]
    assert titles.split("  ")[0].strip() == "NAME"
    return [dict(zip(names, [cell.strip() for cell in line.split("  ") if cell.strip()], strict=False)) for line in lines]


def test_what_is_loaded(run: CliRunner) -> None:
    told = status_of(
        entry("alpha", default=True, keep_alive_seconds=None),
        entry("beta", task="rerank", active=2, idle_seconds=None, device="cpu-plain"),
        entry("gamma", pinned=True, idle_seconds=45.7),
        entry("delta", idle_seconds=1795.0),
    )
    with answering(told) as (port, _):
        result = run.invoke(ps, ["--port", str(port)])
    assert result.exit_code == 0
    alpha, beta, gamma, delta = columns(result.output)
    assert alpha == {
        "NAME": "alpha*",
        "TYPE": "Q8_0",
        "TASK": "embed",
        "STATE": "ready",
        "DEVICE": "cpu",
        "MEMORY": "712.3 MB",
        "REQUESTS": "1,234",
        "IDLE": "5 min",
        "UNLOADS IN": "never",
    }
    assert (beta["TASK"], beta["DEVICE"], beta["IDLE"], beta["UNLOADS IN"]) == ("rerank", "cpu-plain", "busy", "30 min")
    assert (gamma["IDLE"], gamma["UNLOADS IN"]) == ("45 s", "never")
    assert delta["UNLOADS IN"] == "5 s"
    assert "memory 712.3 MB of 4.00 GB\n" in result.output
    assert f"edgeembed 0.1.0, process 99, up 2 h, http://127.0.0.1:{port}\n" in result.output


def test_what_is_not_ready(run: CliRunner) -> None:
    told = status_of(
        entry("alpha", state="loading", memory_bytes=0, idle_seconds=None, device=None),
        entry("beta", state="failed", reason="no mode holds:\n\x1b[31mred", memory_bytes=0),
        memory={"used_bytes": 0, "budget_bytes": None},
    )
    with answering(told) as (port, _):
        output = run.invoke(ps, ["--port", str(port)]).output
    alpha, *_ = columns(output)
    assert [alpha[title] for title in ("STATE", "DEVICE", "MEMORY", "IDLE", "UNLOADS IN")] == ["loading", "-", "-", "-", "-"]
    assert "beta: no mode holds:\\n\\x1b[31mred\n" in output
    assert "memory 0 B, no limit\n" in output


def test_nothing_is_loaded(run: CliRunner) -> None:
    with answering(status_of()) as (port, _):
        output = run.invoke(ps, ["--port", str(port)]).output
    assert output.startswith("No model is loaded") and "memory" in output


def test_json_is_the_whole_status(run: CliRunner) -> None:
    told = status_of(entry("alpha"), new_in_a_later_version=[1])
    with answering(told) as (port, asked):
        output = run.invoke(ps, ["--port", str(port), "--json"]).output
    assert json.loads(output) == {"url": f"http://127.0.0.1:{port}", **told}
    assert asked == ["/v1/status"]


def test_json_has_no_charts(run: CliRunner) -> None:
    vectors = {"model": "alpha", "rows": 7, "norm_bounds": [0.5, 1.0], "norm_buckets": [0, 7, 0]}
    told = status_of(activity={"step_seconds": 2, "requests_per_second": [0] * 150}, vectors=[vectors])
    with answering(told) as (port, _):
        said = json.loads(run.invoke(ps, ["--port", str(port), "--json"]).output)
    assert "activity" not in said and said["vectors"] == [{"model": "alpha", "rows": 7}]
    assert said["cache"] == told["cache"]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_wildcard_address_is_reached_on_this_machine(run: CliRunner, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    with answering(status_of()) as (port, _):
        monkeypatch.setenv("EDGEEMBED_HOST", host)
        monkeypatch.setenv("EDGEEMBED_PORT", str(port))
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # the daemon must not be reached through a proxy
        assert f"http://127.0.0.1:{port}\n" in run.invoke(ps).output


def test_a_port_on_the_command_line_overrides_a_socket_in_the_settings(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEEMBED_UDS", "/no/such/socket")
    with answering(status_of()) as (port, _):
        assert f"http://127.0.0.1:{port}\n" in run.invoke(ps, ["--port", str(port)]).output
    with pytest.raises(EdgeEmbedError, match=r"no daemon is running at http\+unix:///no/such/socket; "):
        run.invoke(ps)


def test_no_daemon(unused_tcp_port: int) -> None:
    done = edgeembed("ps", "--port", str(unused_tcp_port), "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: no daemon is running at http://127.0.0.1:{unused_tcp_port}; start one: edgeembed start\n"


def test_an_automatic_port_cannot_be_found(run: CliRunner) -> None:
    with pytest.raises(EdgeEmbedError, match="give its port with --port"):
        run.invoke(ps, ["--port", "0"])


@pytest.mark.parametrize(
    ("body", "options", "says"),
    [
        ("<html>", {"server": "nginx"}, "a program other than edgeembed answers at http://127.0.0.1:"),
        ({"error": {"message": "a key is needed"}}, {"status": 401}, "answers with status 401: a key is needed"),
        ("busy", {"status": 503}, "answers with status 503: no reason given"),
        ({"model": "alpha", "version": 2}, {}, r"is edgeembed/0\.1\.0, whose status .* cannot read .*restart the daemon"),
    ],
)
def test_answers_of_other_programs_are_recognised(run: CliRunner, body: Any, options: dict[str, Any], says: str) -> None:
    with answering(body, **options) as (port, _), pytest.raises(EdgeEmbedError, match=says) as error:
        run.invoke(ps, ["--port", str(port)])
    assert error.value.exit_code == 1


@pytest.mark.parametrize("paused", [True, False])
def test_a_paused_daemon_is_not_shown_as_if_it_were_ready(run: CliRunner, paused: bool) -> None:
    with answering(status_of(entry("alpha"), paused=paused)) as (port, _):
        output = run.invoke(ps, ["--port", str(port)]).output
    assert ("paused: only texts in the cache are answered" in output) is paused
