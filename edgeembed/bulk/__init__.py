"""Files in, vectors out: jobs that are too large for one request and can be resumed.

A job is a list of shards: consecutive records of the inputs. What a shard holds depends only on the inputs and the job's
rules, not on who computes it or when, so shards can be computed in any order and by any process.

    inputs, lines, tables, folders    read records, starting at any position that a shard's receipt names
    shards                            records cut into shards; what a job is, and which shards are finished
    embedders, cluster, embedding     turn texts into vectors: the running daemon, this process, or a Ray cluster
    writers, outputs                  shards as files, and one file of all shards
    job                               runs a job from start to end

Without files: `embed_batches` is mapped over the partitions of Spark, Dask and others (batches). All tasks on a machine
share one engine (shared_engine, engine_process).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeembed.bulk.batches import embed_batches as embed_batches
    from edgeembed.bulk.batches import embedded_schema as embedded_schema

__all__ = ["embed_batches", "embedded_schema"]


def __getattr__(name: str) -> Any:
    """Return what `__all__` lists, imported when it is first used: commands import this package, too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgeembed.bulk import batches

    return getattr(batches, name)
