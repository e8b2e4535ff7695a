"""docs/scale.md: its tables are what the model prints, and the model stays within the errors that it states."""

from __future__ import annotations

import pytest

from edgeembed.bulk.fragments import PLANNING_THREADS
from tests.benchmarks.scale.checks import Check, checks
from tests.benchmarks.scale.failures import Job, simulate
from tests.benchmarks.scale.inputs import Inputs, sources, with_values
from tests.benchmarks.scale.rates import MINILM, shard_rows
from tests.benchmarks.scale.serving import replicas
from tests.benchmarks.scale.tables import TABLES
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "scale.md"
FEW = Job(MINILM, 100, 2e7, 16, "cpu", spot=True)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_is_what_the_model_prints(name: str) -> None:
    shown = PAGE.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
    assert shown == "".join(f"{line}\n" for line in TABLES[name](Inputs())), (
        "run `python -m tests.benchmarks.scale --docs docs`"
    )


@pytest.mark.parametrize("check", [*checks(Inputs())], ids=lambda check: check.name)
def test_the_model_is_within_the_error_that_it_states(check: Check) -> None:
    assert check.met, f"predicted {check.predicted:.3g}, measured {check.measured:.3g}: {check.error:+.1%}"


def test_every_input_is_within_its_range() -> None:
    assert [name for name, value, source in sources() if not source.low <= value <= source.high] == []


def test_planning_is_as_parallel_as_the_model_has_it() -> None:
    assert Inputs().plan_parallel == PLANNING_THREADS


def test_a_job_without_failures_takes_its_work_and_loses_nothing() -> None:
    given = with_values(Inputs(), {"slow_share": 0, "spot_hour": 0, "box_mtbf_h": 1e12})
    found = simulate(given, FEW)
    assert (found.failures, found.lost) == (0, 0)
    assert found.ideal < found.seconds < 1.2 * found.ideal


def test_lost_boxes_cost_shards_and_time_but_the_job_ends() -> None:
    calm, stormy = (simulate(with_values(Inputs(), {"spot_hour": each}), FEW) for each in (0, 1.0))
    assert stormy.failures > calm.failures
    assert 0 < stormy.lost < FEW.texts / shard_rows(Inputs(), FEW.tokens)
    assert stormy.seconds > calm.seconds


def test_the_same_seed_gives_the_same_job() -> None:
    assert simulate(Inputs(), FEW, seed=3) == simulate(Inputs(), FEW, seed=3)


@pytest.mark.parametrize("p99", [20, 50])
def test_more_hits_never_need_more_boxes(p99: float) -> None:
    counts = [replicas(Inputs(), 1000 * (1 - share), p99, 1000 * share) for share in (0, 0.5, 0.9)]
    assert counts == sorted(counts, reverse=True)


def test_an_input_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no such input: prise"):
        with_values(Inputs(), {"prise": 1})


def test_fragments_larger_than_a_worker_s_share_make_a_job_longer() -> None:
    fine, coarse = (simulate(Inputs(), Job(MINILM, 100, 2e7, 16, "cpu", fragment_rows=rows)) for rows in (65_536, 2_000_000))
    assert coarse.seconds > 1.2 * fine.seconds
