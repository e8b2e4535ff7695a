"""`edgeembed status`, `restart`, `open` and `start` against a stand-in for the daemon."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from edgeembed.cli.logs import logs
from edgeembed.cli.open_page import open_
from edgeembed.cli.start import restart, start
from edgeembed.cli.status import status
from edgeembed.errors import ConfigError, EdgeEmbedError
from tests.cli.helpers import answering, status_of
from tests.ports import free_port

DEFAULT = {"name": "alpha", "type": "Q8_0", "state": "ready", "default": True, "device": "cpu"}


@pytest.fixture
def run(home: object) -> CliRunner:
    return CliRunner(catch_exceptions=False)


def said(run: CliRunner, port: int) -> tuple[int, dict[str, object]]:
    done = run.invoke(status, ["--port", str(port), "--json"])
    return done.exit_code, json.loads(done.output)


def test_status_of_a_daemon_that_downloads_its_model(run: CliRunner) -> None:
    with answering(status_of(starting="fetching alpha: alpha.gguf 43 %")) as (port, _):
        code, found = said(run, port)
    assert code == 0 and found["running"] is True and found["state"] == "fetching alpha: alpha.gguf 43 %"


def test_status_of_a_daemon_whose_model_failed(run: CliRunner) -> None:
    failed = {**DEFAULT, "state": "failed", "reason": "not a GGUF file"}
    with answering(status_of(failed, model={"name": "alpha"})) as (port, _):
        code, found = said(run, port)
    assert (code, found["state"], found["problem"]) == (0, "failed", "not a GGUF file")


def test_without_the_key_a_daemon_runs_but_is_not_restarted(run: CliRunner) -> None:
    with answering(status_of(DEFAULT), key="sesame") as (port, asked):
        code, found = said(run, port)
        assert code == 0 and "requires an API key" in str(found["problem"])
        with pytest.raises(ConfigError, match="cannot be asked to restart"):
            run.invoke(restart, ["--port", str(port)])
        assert "/v1/admin/shutdown" not in asked, "the next one might require no key"


def test_of_another_users_daemon_no_log_is_shown_as_its_own(run: CliRunner) -> None:
    own = dict(status_of(DEFAULT), pid=1)  # a process that is there, and no edgeembed of ours
    with answering(own) as (port, _):
        assert said(run, port)[1]["started_by"] == "another user, or another machine"
        with pytest.raises(EdgeEmbedError, match="another user's, or another machine's"):
            run.invoke(logs, ["--port", str(port)])


def test_nothing_runs_or_another_program_does(run: CliRunner) -> None:
    port = free_port()
    assert said(run, port)[0] == 3
    with pytest.raises(EdgeEmbedError, match="start one: edgeembed start"):
        run.invoke(open_, ["--port", str(port)])
    with answering({}, server="nginx") as (port, _):
        assert said(run, port) == (3, said(run, port)[1]) and said(run, port)[1]["running"] is False
        with pytest.raises(ConfigError, match="a program other than edgeembed"):
            run.invoke(start, ["--port", str(port)])


def test_a_port_that_the_system_chooses_cannot_be_asked(run: CliRunner) -> None:
    with pytest.raises(ConfigError, match="set a port other than 0"):
        run.invoke(start, ["--port", "0"])
