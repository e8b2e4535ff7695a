"""Slow readers and disconnecting clients on the real daemon: other clients get correct responses, and nothing leaks."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from tests.e2e.bad_clients import MOMENTS, BadClients
from tests.e2e.daemon import Daemon, cosines, running
from tests.e2e.texts import texts_of
from tests.waiting import until

SETTLE_SECONDS = 60.0


def sample(metrics: str, name: str) -> float:
    """Return the sum of a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"^edgeembed_{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE))


def left_of_clients(daemon: Daemon) -> dict[str, float]:
    """Return what the daemon holds for clients, except for this request."""
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=30) as response:
        metrics = response.read().decode()
    status = daemon.get("/v1/status")[1]
    sockets = psutil.Process(daemon.process.pid).net_connections("tcp")
    return {
        "connections": sum(each.status in ("ESTABLISHED", "CLOSE_WAIT") for each in sockets),
        "requests in flight": sample(metrics, "http_requests_in_flight") - 1,
        "texts in the queue": sample(metrics, "queue_texts"),
        "tokens in the queue": sample(metrics, "queue_tokens"),
        "texts in the worker": sum(model["texts_waiting"] for model in status["models"]),
        "requests with the model": sum(model["active"] for model in status["models"]),
    }


def wait_until_nothing_is_left(daemon: Daemon) -> None:
    until(lambda: not any(left_of_clients(daemon).values()), SETTLE_SECONDS, lambda: left_of_clients(daemon))


def test_slow_and_vanishing_clients_do_not_affect_others(home: Path, minilm: Callable[[str], Path]) -> None:
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        port = int(daemon.url.rpartition(":")[2])
        texts = texts_of(7, 40)
        expected = daemon.embed(texts, cache=False)
        with BadClients(port, slow=64, vanishing=64) as bad:
            while min(bad.gone[moment] for moment in MOMENTS) < 20:
                alone = [daemon.embed(text, cache=False) for text in texts[:8]]
                rows = np.concatenate([*alone, daemon.embed(texts[8:], cache=False)])
                assert cosines(expected, rows).min() > 0.999
            assert left_of_clients(daemon)["connections"] >= 64, "the slow readers are still connected"
        wait_until_nothing_is_left(daemon)
        with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=30) as response:
            statuses = re.findall(r'http_requests_total{.*status="(\d+)".*}', response.read().decode())
        # 499: the client has disconnected. There must be no other statuses.
        assert set(statuses) == {"200", "499"}
        assert daemon.get("/v1/status")[1]["engine"]["restarts"] == 0
        assert "Traceback" not in daemon.log


def test_unread_responses_are_dropped_with_their_connection(home: Path, minilm: Callable[[str], Path]) -> None:
    """The responses are larger than the socket buffer, so the daemon holds the rest."""
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        port = int(daemon.url.rpartition(":")[2])
        expected = daemon.embed("somebody else", cache=False)
        with BadClients(port, slow=12, vanishing=0, texts=1500, words=1) as bad:
            for _ in range(20):
                assert cosines(expected, daemon.embed("somebody else", cache=False)).min() > 0.999
            assert bad.bytes_read < 10_000, "of 12 responses of 7 MB"
            # Until the daemon has closed the connections of these requests.
            until(lambda: left_of_clients(daemon)["connections"] == 12)
        wait_until_nothing_is_left(daemon)
