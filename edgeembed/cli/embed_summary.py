"""The last lines of `edgeembed embed` for whole files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeembed.cli.printing import to_stderr

if TYPE_CHECKING:
    from edgeembed.bulk.job import JobResult
    from edgeembed.bulk.progress import JobProgress

EXIT_REJECTS = 3
"""Exit status of a complete job some of whose rows could not be embedded."""


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


def end_with_rejects(result: JobResult, listed: str) -> None:
    """Name the first row that could not be embedded, and exit with EXIT_REJECTS; return if there is none."""
    if first := result.first_refused:
        if result.refused == 1:
            to_stderr(f"1 row could not be embedded; it is listed in {listed}")
            to_stderr(f"{first.where}: {first.reason}")
        else:
            to_stderr(f"{result.refused:,} rows could not be embedded; they are listed in {listed}")
            to_stderr(f"the first, {first.where}: {first.reason}")
        raise SystemExit(EXIT_REJECTS)
