"""The metrics of all replicas in one answer, each sample with the label `replica`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL = "replica"


class _Families(Collector):
    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the samples of all replicas."""
        found: dict[str, Metric] = {}
        for replica, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                merged = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={LABEL: replica, **sample.labels}))
        yield from found.values()


def merged(texts: Mapping[str, str]) -> bytes:
    """Return the metrics in Prometheus' text format. texts: those of each replica, in the same format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(texts))
    return generate_latest(registry)
