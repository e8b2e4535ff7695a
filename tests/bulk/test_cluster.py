"""How many workers a job starts on a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeembed.bulk.cluster import ClusterRules, worker_count
from edgeembed.errors import ConfigError


def cluster(**resources: float) -> Any:
    """Return what stands for the module `ray`, connected to a cluster with these resources."""
    return SimpleNamespace(cluster_resources=lambda: resources)


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        (ClusterRules(), 8),
        (ClusterRules(cpus=3), 2),
        (ClusterRules(cpus=2, gpus=0.5), 4),
        (ClusterRules(cpus=2, gpus=1), 2),
        (ClusterRules(workers=3), 3),
    ],
)
def test_as_many_workers_as_fit_are_started(rules: ClusterRules, count: int) -> None:
    messages: list[str] = []
    assert worker_count(cluster(CPU=8, GPU=2), rules, messages.append) == count
    assert not messages


def test_a_worker_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no worker fits into the cluster, which has 8 CPU"):
        worker_count(cluster(CPU=8), ClusterRules(cpus=4096), lambda _line: None)


def test_more_workers_than_fit_wait_for_the_cluster_to_grow() -> None:
    messages: list[str] = []
    assert worker_count(cluster(CPU=8), ClusterRules(workers=9), messages.append) == 9
    assert messages == ["the cluster has 8 CPU, room for 8 of 9 workers; the others wait for more"]
