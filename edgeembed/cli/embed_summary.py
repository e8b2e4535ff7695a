"""The last lines of `edgeembed embed` for whole files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeembed.bulk.job import JobResult
    from edgeembed.bulk.progress import JobProgress


def summary(title: str, dtype: str, size: int | None, result: JobResult, progress: JobProgress) -> str:
    """Return what a job wrote, and how fast. title, size: of the output; the size in bytes, None when unknown."""
    from edgeembed.common.progress import human_size, human_time

    taken = "" if size is None else f"{human_size(size)}, "
    new = result.rows - result.before
    rate = f" at {progress.new_texts / progress.seconds:,.0f} texts/s" if new and progress.seconds > 0 else ""
    before = f" ({result.before:,} of them from an earlier run)" if result.before else ""
    return (
        f"wrote {result.rows:,} {result.computed}{before} to {title} "
        f"({taken}{dtype}) in {human_time(progress.seconds)}{rate}"
    )
