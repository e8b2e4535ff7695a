"""Statistics of rows: what they say, when they raise an alarm, and when they must not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edgeembed.cache import CachedRow
from edgeembed.engine.interface import Float32Row, Reference, Row
from edgeembed.errors import BadVectorError
from edgeembed.inference.drift import ADOPT_ROWS, VectorHealth, VectorStats
from edgeembed.inference.moments import NORM_BOUNDS
from edgeembed.inference.row_watch import BASELINE_ROWS
from tests.fakes import FakeEngine, fake_model, fake_service

MODEL = fake_model()
DIMENSIONS = 64
CENTRE = np.random.default_rng(7).standard_normal(DIMENSIONS)
CENTRE /= np.linalg.norm(CENTRE)


def rows(count: int, seed: int, *, centre: np.ndarray = CENTRE, norm: float = 3.0, noise: float = 0.2) -> list[Row]:
    """Make rows like a model's: a common direction, a direction of their own, norms close together."""
    rng = np.random.default_rng(seed)
    directions = centre + noise * rng.standard_normal((count, DIMENSIONS))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    lengths = norm * np.exp(0.2 * rng.standard_normal(count))
    return [Row((length * one).astype(np.float32), 5) for length, one in zip(lengths, directions, strict=True)]


def feed(health: VectorHealth, given: list[Row], tag: str, *, batch: int = 10, input_type: str | None = None) -> None:
    keys = [f"{tag} {number}".encode() for number in range(len(given))]
    for start in range(0, len(given), batch):
        health.observe(MODEL, input_type, keys[start : start + batch], given[start : start + batch])


def reference(row: Float32Row, *, given: bool = False, made_at: float = 1.0) -> Reference:
    return Reference(text="hello", row=row.tobytes(), least=0.9, given=given, made_at=made_at)


def stats(health: VectorHealth, input_type: str = "plain") -> VectorStats:
    return next(one for one in health.stats() if one.input_type == input_type)


@pytest.fixture
def health() -> VectorHealth:
    """With a baseline."""
    health = VectorHealth()
    feed(health, rows(BASELINE_ROWS, 0), "first")
    return health


def test_the_figures_are_those_of_the_rows() -> None:
    health = VectorHealth()
    given = rows(50, 1)
    feed(health, given, "x")
    found = stats(health)
    matrix = np.stack([row.vector for row in given]).astype(np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    mean = (matrix / norms[:, None]).mean(0)
    assert found.rows == 50 and found.baseline is None and found.baseline_rows == 50
    assert found.norm_sum == pytest.approx(norms.sum(), rel=1e-6)
    assert sum(found.norm_buckets) == 50
    counted = np.cumsum(found.norm_buckets)
    bounds = NORM_BOUNDS
    assert counted[:-1].tolist() == [(norms <= bound).sum() for bound in bounds]
    assert found.now is not None
    # 50 rows out of a window that halves every 500 weigh all but the same.
    assert found.now.value_mean == pytest.approx(matrix.mean(), abs=2e-3)
    assert found.now.value_variance == pytest.approx(matrix.var(), rel=0.02)
    assert found.now.spread == pytest.approx(1 - mean @ mean, abs=0.01)
    assert found.now.log_norm_deviation == pytest.approx(np.log(norms).std(), rel=0.05)


def test_rows_of_the_cache_and_texts_that_come_again_do_not_count(health: VectorHealth) -> None:
    before = stats(health).rows
    lone = rows(1, 5, centre=-CENTRE)[0]
    for _ in range(3000):
        health.observe(MODEL, None, [b"the same text"], [lone])
    health.observe(MODEL, None, [b"known"], [CachedRow(lone.vector, 5)])
    assert stats(health).rows == before + 1
    assert health.alarm(MODEL) is None


def test_more_of_the_same_is_no_alarm(health: VectorHealth) -> None:
    feed(health, rows(3000, 2), "more")
    found = stats(health)
    assert found.alarm is None
    assert found.drift_cosine is not None and found.drift_cosine > 0.98


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: rows(1500, 3, norm=60.0), "norms are about"),
        (lambda: rows(1500, 3, noise=0.001), "nearly the same vector"),
        (lambda: rows(1500, 3, centre=np.roll(CENTRE, 1) - (np.roll(CENTRE, 1) @ CENTRE) * CENTRE), "mean direction"),
        (
            lambda: [Row(row.vector * (np.nan if n % 20 == 0 else 1), 5) for n, row in enumerate(rows(1500, 3))],
            "% of the rows are NaN",
        ),
        (lambda: [Row(row.vector * (n % 10 > 0), 5) for n, row in enumerate(rows(1500, 3))], "zero"),
    ],
)
def test_rows_outside_a_band_raise_an_alarm(health: VectorHealth, wrong, words: str) -> None:
    feed(health, wrong(), "wrong")
    assert words in str(health.alarm(MODEL))
    feed(health, rows(6000, 4), "well again")
    assert health.alarm(MODEL) is None, "and it goes when the rows are as before"


def test_a_few_odd_rows_are_no_alarm(health: VectorHealth) -> None:
    feed(health, rows(15, 3, centre=-CENTRE, norm=50.0), "odd")
    health.refused(MODEL)
    assert health.alarm(MODEL) is None
    assert stats(health).bad == 1


def test_queries_and_documents_have_baselines_of_their_own() -> None:
    health = VectorHealth()
    feed(health, rows(1200, 0), "d", input_type="document")
    feed(health, rows(1200, 1, centre=-CENTRE, norm=9.0), "q", input_type="query")
    assert health.alarm(MODEL) is None
    assert {one.input_type: one.baseline_rows for one in health.stats()} == {"document": 1000, "query": 1000}


async def test_a_baseline_outlives_the_daemon(tmp_path: Path) -> None:
    first = VectorHealth(tmp_path)
    feed(first, rows(600, 0), "a")
    await first.sync()
    # Collected in two lives, then held against in a third.
    second = VectorHealth(tmp_path)
    feed(second, rows(1, 50), "b")
    await second.sync()
    feed(second, rows(500, 1), "c")
    await second.sync()
    assert stats(second).baseline is not None
    third = VectorHealth(tmp_path)
    feed(third, rows(1, 51), "d")
    await third.sync()
    feed(third, rows(1000, 2, norm=40.0), "e")
    assert "norms" in str(third.alarm(MODEL))
    probe = rows(1, 9)[0].vector
    assert third.probed(MODEL, probe, reference(probe)) is None
    assert "cosine of -1.00" in str(third.probed(MODEL, -probe, reference(probe)))
    assert "the model computes other vectors than before" in str(third.alarm(MODEL))


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": 1}', b"\xff"])
async def test_a_damaged_baseline_is_made_anew(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{MODEL.digest[:32]}.json").write_bytes(content)
    health = VectorHealth(tmp_path)
    feed(health, rows(1000, 0), "a")
    await health.sync()
    assert "is rebuilt" in caplog.text
    assert stats(health).baseline is not None


async def test_a_folder_that_cannot_be_written_costs_the_memory_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    health = VectorHealth(tmp_path / "file" / "folder")
    feed(health, rows(1000, 0), "a")
    await health.sync()
    await health.sync()
    assert caplog.text.count("cannot keep the baseline") == 1, "said once"
    assert stats(health).baseline is not None


async def test_alarms_come_and_go_in_the_log_and_what_stays_becomes_normal(
    health: VectorHealth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    probe = rows(1, 9)[0].vector
    feed(health, rows(1500, 3, norm=40.0), "other texts")
    await health.sync()
    assert "have left their band: norms" in caplog.text
    assert health.probed(MODEL, probe, reference(probe)) is None
    assert "the texts have changed, not the model" in str(health.alarm(MODEL))
    feed(health, rows(ADOPT_ROWS, 4, norm=40.0), "still other texts")
    await health.sync()
    assert "recent rows are the new baseline" in caplog.text
    assert "within their band again" in caplog.text
    feed(health, rows(500, 5, norm=40.0), "yet more")
    assert health.alarm(MODEL) is None


async def test_what_two_workers_agreed_on_is_kept_and_holds_for_the_next(tmp_path: Path) -> None:
    right, wrong = rows(1, 9)[0].vector, -rows(1, 9)[0].vector

    async def load(row: Float32Row, made_at: float) -> str | None:
        """Probe a worker that computes this row, in a daemon of its own."""
        health = VectorHealth(tmp_path)
        feed(health, rows(1, int(made_at)), f"{made_at}")
        await health.sync()
        found = health.probed_before(MODEL, row, reference(row, made_at=made_at))
        health.probed_before(MODEL, row, reference(row, made_at=made_at))  # the same worker confirms nothing
        await health.sync()
        return found

    assert [await load(row, made_at) for made_at, row in enumerate((wrong, right, right), 1)] == [None, None, None]
    assert "that other workers computed" in str(await load(wrong, 4))
    assert "that other workers computed" in str(await load(wrong, 5)), "what is known stays"
    assert await load(right, 6) is None


def test_a_row_that_the_file_gives_needs_nothing_that_is_kept() -> None:
    health, right = VectorHealth(), rows(1, 9)[0].vector
    assert health.probed_before(MODEL, -right, reference(right, given=True)) is None
    assert "in the model file" in str(health.probed(MODEL, -right, reference(right, given=True)))
    assert "in the model file" in str(health.probed(MODEL, right[:-1], reference(right, given=True)))
    assert health.probed(MODEL, right, reference(right, given=True)) is None


# --- in the service --------------------------------------------------------------------------------------------------


async def test_a_model_that_has_changed_is_not_well_even_under_load() -> None:
    engine = FakeEngine(DIMENSIONS)
    sign = 1.0

    def row_of(text: str) -> Float32Row:
        (row,) = rows(1, sum(text.encode()) if text == "hello" else int(text))
        return (sign * row.vector).astype(np.float32)

    engine.row_of = row_of
    engine.reference = reference(row_of("hello"))
    service = fake_service(engine)
    await service.pool.load(service.registry.models[0])
    await service.check()

    async def load(start: int, count: int) -> None:
        from edgeembed.inference.requests import EmbedRequest

        await service.embed(EmbedRequest([str(number) for number in range(start, start + count)]))

    await load(0, 1100)
    await service.check()
    sign = -1.0
    await load(2000, 1500)
    with pytest.raises(BadVectorError, match="probe text's vector"):
        await service.check()
    assert "mean direction" in str(service.vectors.alarm(service.registry.models[0]))
    await asyncio.gather(service.pool.close())
