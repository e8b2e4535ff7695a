"""From stamps to the table of `edgeembed bench --trace`."""

from __future__ import annotations

import pytest

from edgeembed.common.trace import Stamp
from edgeembed.diagnostics.bench.stages import report_of


def test_each_time_belongs_to_the_stage_whose_stamp_ends_it_and_all_add_up() -> None:
    stamps = [
        # of a request before the first one that is measured
        Stamp(5_000, "compute"),
        Stamp(12_000, "arrive"),
        Stamp(12_000, "compute: attention", 3_000),
        Stamp(20_000, "compute"),
        Stamp(22_000, "arrive"),  # a stage that a request has twice
        Stamp(31_000, "store"),  # behind the answer, so that nobody waits for it
        Stamp(41_000, "arrive"),
    ]
    report = report_of([(10_000, 30_000), (40_000, 46_000)], reversed(stamps))
    assert [stage.stage for stage in report.stages] == ["arrive", "compute", "write"]
    arrive, compute, write = report.stages
    assert (arrive.median_us, arrive.p99_us) == (2.5, 4.0)
    assert (compute.median_us, compute.p99_us) == (4.0, 8.0)  # one request computed nothing
    assert write.median_us == 6.5
    assert sum(stage.share for stage in report.stages) == pytest.approx(1.0)
    assert (report.total.median_us, report.total.share, report.requests) == (13.0, 1.0, 2)
    (part,) = report.parts
    assert (part.stage, part.p99_us, part.share) == ("compute: attention", 3.0, pytest.approx(3 / 26))
