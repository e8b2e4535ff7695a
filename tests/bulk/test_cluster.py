"""Which workers a job has on a cluster, and what they are given at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeembed.bulk import cluster as cluster_module
from edgeembed.bulk.cluster import (
    BLOCKS_PER_WORKER,
    MOST_PER_BLOCK,
    ClusterRules,
    blocks_of,
    connected_cluster,
    worker_range,
)
from edgeembed.errors import ConfigError


def cluster(**resources: float) -> Any:
    """Return what stands for the module `ray`, connected to a cluster with these resources."""
    return SimpleNamespace(cluster_resources=lambda: resources)


@pytest.mark.parametrize(
    ("rules", "workers"),
    [
        (ClusterRules(), (8, 8)),
        (ClusterRules(cpus=3), (2, 2)),
        (ClusterRules(cpus=2, gpus=0.5), (4, 4)),
        (ClusterRules(cpus=2, gpus=1), (2, 2)),
        (ClusterRules(workers=(3, 3)), (3, 3)),
        (ClusterRules(workers=(1, 500)), (1, 500)),
    ],
)
def test_as_many_workers_as_fit_are_started(rules: ClusterRules, workers: tuple[int, int]) -> None:
    messages: list[str] = []
    assert worker_range(cluster(CPU=8, GPU=2), rules, messages.append) == workers
    assert not messages


def test_a_worker_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no worker fits into the cluster, which has 8 CPU"):
        worker_range(cluster(CPU=8), ClusterRules(cpus=4096), lambda _line: None)


def test_more_workers_than_fit_wait_for_the_cluster_to_grow() -> None:
    messages: list[str] = []
    assert worker_range(cluster(CPU=8), ClusterRules(workers=(9, 9)), messages.append) == (9, 9)
    assert messages == ["the cluster has 8 CPU, room for 8 of 9 workers; the others wait for more"]


@pytest.mark.parametrize(
    ("address", "mode", "hinted"),
    [("auto", "", True), ("auto", "disabled", True), ("auto", "token", False), ("local", "", False)],
)
def test_a_cluster_that_may_ask_for_a_token_is_an_error_that_says_so(
    address: str, mode: str, hinted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_options: object) -> None:
        raise ConnectionError("Failed to connect")  # all that Ray says

    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(cluster_module, "import_ray", lambda: SimpleNamespace(init=refuse))
    nothing: Any = None
    with pytest.raises(ConfigError) as raised, connected_cluster(ClusterRules(address), nothing, nothing, print):
        pass
    assert ("copy ~/.ray/auth_token from its head and set RAY_AUTH_MODE=token" in raised.value.message) is hinted


@pytest.mark.parametrize(("fragments", "workers"), [(1, 8), (64, 3), (1000, 3), (100_000, 3)])
def test_all_workers_are_busy_until_the_end(fragments: int, workers: int) -> None:
    numbers: Any = range(fragments)
    blocks = blocks_of(numbers, workers)
    assert [number for block in blocks for number in block] == list(numbers)
    assert len(blocks) >= min(fragments, BLOCKS_PER_WORKER * workers)
    assert max(map(len, blocks)) <= MOST_PER_BLOCK
