"""What ``/metrics`` tells about the vector indexes of the open collections and about ingestion, read off when it is
asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from embedsvc.opened import Collections
from embedsvc.service.jobs import Jobs
from embedsvc.vectors import Recall

_RECALL = "Recall@10 of the vector index: measured when it was built, and of the live queries looked at since."
_BOUNDS = "The 95 % confidence interval of embedsvc_index_recall_at_10."
_INPUTS = (
    "Inputs of jobs, by what became of them: indexed, replaced, unchanged, removed, duplicate, empty, quarantined."
)
_SAMPLE = "Queries that embedsvc_index_recall_at_10 was measured with; 0: exact by construction."


class IndexMetrics(Collector):
    """One per application. Of a service with several workers, each tells its own."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def collect(self) -> Iterator[GaugeMetricFamily]:
        by_queries = ("collection", "queries")
        recall = GaugeMetricFamily("embedsvc_index_recall_at_10", _RECALL, labels=by_queries)
        bounds = GaugeMetricFamily("embedsvc_index_recall_at_10_bound", _BOUNDS, labels=(*by_queries, "bound"))
        sample = GaugeMetricFamily("embedsvc_index_recall_sample", _SAMPLE, labels=by_queries)
        rows = GaugeMetricFamily("embedsvc_index_vectors", "Vectors that can be found.", labels=("collection", "kind"))
        held = GaugeMetricFamily("embedsvc_index_bytes", "Memory that the vector index takes.", labels=("collection",))
        for name, collection in self._collections.loaded():
            index, live = collection.upkeep.loaded, collection.upkeep.live
            if index is None:
                continue
            rows.add_metric((name, index.kind), len(index))
            held.add_metric((name,), index.bytes_resident)
            measured: dict[str, Recall | None] = {
                "stand_ins": index.recall,
                "live": live.recall(filtered=False),
                "live_filtered": live.recall(filtered=True),
            }
            for queries, found in measured.items():
                if found is not None:
                    recall.add_metric((name, queries), found.mean)
                    bounds.add_metric((name, queries, "low"), found.low)
                    bounds.add_metric((name, queries, "high"), found.high)
                    sample.add_metric((name, queries), found.sample)
        yield from (recall, bounds, sample, rows, held)


class IngestMetrics(Collector):
    """As :class:`IndexMetrics`, of the jobs of this process."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[CounterMetricFamily]:
        inputs = CounterMetricFamily("embedsvc_ingest_inputs", _INPUTS, labels=("collection", "status"))
        for (collection, status), count in sorted(self._jobs.inputs.copy().items()):
            inputs.add_metric((collection, status), count)
        yield inputs


def exposition(collections: Collections, jobs: Jobs) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(IndexMetrics(collections))
    registry.register(IngestMetrics(jobs))
    return generate_latest(registry)
