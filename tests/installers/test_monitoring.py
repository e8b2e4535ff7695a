"""The kit for Prometheus and Grafana: rules by promtool, and all queries by a real Prometheus that reads a real daemon."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, post, running
from tests.e2e.models import install
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parents[2]
KIT = ROOT / "installers" / "monitoring"
SETTINGS_OF_PROMETHEUS = (KIT / "prometheus.yml").read_text(encoding="utf-8")
DASHBOARD = json.loads((KIT / "grafana.json").read_text(encoding="utf-8"))
EMPTY = {"Restarts and changes of mode", "Upstream"}
"""Panels that have nothing to show here: nothing fails, and no other server computes."""

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")), reason="Prometheus (Debian: prometheus) is not installed"
)


def queries() -> list[tuple[str, str]]:
    """Return the panels' titles and their queries."""
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


@needs_prometheus
@pytest.mark.parametrize(
    "check", [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_finds_nothing_wrong(check: tuple[str, ...]) -> None:
    found = subprocess.run(["promtool", *check], cwd=KIT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_each_rule_is_tested_when_it_fires_and_when_it_does_not() -> None:
    rules = re.findall(r"- alert: (\w+)", (KIT / "alerts.yml").read_text(encoding="utf-8"))
    quiet, firing = (KIT / "alerts_test.yml").read_text(encoding="utf-8").split("- name: each alert fires")
    assert len(rules) == len(set(rules)) > 10
    for rule in rules:
        assert re.search(rf"alertname: {rule}\b", quiet), rule
        assert re.search(rf"alertname: {rule}\n\s+exp_alerts:\n\s+- exp_labels", firing), rule


def test_all_metrics_that_the_kit_asks_for_are_documented() -> None:
    """The documented ones are those that there are: see tests/docs/test_metrics_table.py."""
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    table = page.partition("<!-- metrics: begin -->")[2].partition("<!-- metrics: end -->")[0]
    known = set(re.findall(r"`([a-z_]+)`", table))
    asked = (KIT / "alerts.yml").read_text(encoding="utf-8") + "".join(query for _, query in queries())
    for name in re.findall(r"edgeembed_([a-z_]+)\{?", asked.replace('job="edgeembed"', "")):
        assert name in known or re.sub(r"_(sum|count|bucket)$", "", name) in known, name


@contextmanager
def prometheus(folder: Path, daemon: Daemon) -> Iterator[str]:
    """Run Prometheus with the kit's settings, scraping fast, and yield its URL."""
    settings = SETTINGS_OF_PROMETHEUS.replace("127.0.0.1:8327", daemon.url.removeprefix("http://")).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(settings, encoding="utf-8")
    shutil.copy(KIT / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    flags = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}")
    with (
        (folder / "prometheus.log").open("w") as log,
        subprocess.Popen(["prometheus", *flags], cwd=folder, stderr=log) as process,
    ):
        try:
            yield f"http://{address}/api/v1"
        finally:
            process.kill()


def answer(url: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{url}/{path}?{urllib.parse.urlencode(query)}", timeout=10) as response:
        return json.load(response)["data"]


def scrapes(url: str) -> int:
    try:
        [found] = answer(url, "query", query='sum_over_time(up{job="edgeembed"}[5m])')["result"]
    except (OSError, ValueError):
        return 0
    return int(found["value"][1])


def has_scraped(url: str, times: int) -> bool:
    return scrapes(url) >= times


@needs_prometheus
@pytest.mark.e2e
def test_every_panel_has_data_and_no_alert_is_pending(minilm: Callable[[str], Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    install(home, "all-minilm-l6-v2", "Q8_0", minilm("Q8_0"))
    with running("--model", "all-minilm-l6-v2", home=home) as daemon, prometheus(tmp_path, daemon) as url:
        for turn in range(2):  # a rate needs a value before the increase
            for number in range(10):
                daemon.embed(f"Text {turn} {number % 5}.")
            post(daemon, "/v1/embeddings", input=[])
            enough = scrapes(url) + 2
            until(functools.partial(has_scraped, url, enough))
        for title, query in queries():
            filled = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
            found = answer(url, "query", query=filled)["result"]
            assert bool(found) or title in EMPTY, title
            assert not any(sample["value"][1] == "NaN" for sample in found), title
        until(lambda: all(rule["lastEvaluation"] > "0001-02" for rule in answer(url, "rules")["groups"][0]["rules"]))
        [group] = answer(url, "rules")["groups"]
        assert {rule["health"] for rule in group["rules"]} == {"ok"}
        assert [rule["name"] for rule in group["rules"] if rule["state"] != "inactive"] == []
