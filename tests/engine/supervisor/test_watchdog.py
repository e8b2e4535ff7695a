"""When the watchdog reports a hang. Seconds are passed in; none elapse."""

from __future__ import annotations

from edgeembed.engine.ipc.activity_table import FIRST_BULK, NESTED, READING
from edgeembed.engine.supervisor.watchdog import Watchdog

LENGTHS = {1: 100, 2: 50, 3: 100_000}
WIDE = 0


def watchdog() -> Watchdog:
    return Watchdog(LENGTHS.get, token_seconds=0.1, context_tokens=1000, grace=10)


def second_of_hang(
    watch: Watchdog, entries: dict[int, tuple[float, tuple[int, ...]]], seconds: int, *, waiting: int = 1
) -> int | None:
    """Return the second in which the watchdog reports a hang when nothing changes; None when it never does."""
    for second in range(seconds):
        if watch.check(entries, waiting=waiting, received=0, seconds=1):
            return second
    return None


def test_the_limit_grows_with_the_work() -> None:
    assert second_of_hang(watchdog(), {WIDE: (1.0, (1,))}, 1000) == 21, "10 s, and a tenth for each of 100 tokens"
    assert second_of_hang(watchdog(), {WIDE: (1.0, (1, 2))}, 1000) == 26
    assert second_of_hang(watchdog(), {FIRST_BULK: (1.0, (3,))}, 1000) == 111, "a text is computed up to the context's end"
    assert second_of_hang(watchdog(), {FIRST_BULK: (1.0, (99,))}, 1000) == 111, "a cancelled text may have been long"
    assert second_of_hang(watchdog(), {READING["reader"]: (1.0, (3,))}, 1000) == 13, "tokenising takes less"


def test_a_text_on_whose_tokens_a_worker_hangs_is_named() -> None:
    watch = watchdog()
    entries = {WIDE: (1.0, (1,)), READING["tokenize-long"]: (1.0, (2,))}
    found = [watch.check(entries, waiting=2, received=0, seconds=1) for _ in range(12)][-1]
    assert found is not None and found.texts == (2,) and "tokenising a text of 50 characters" in found.description


def test_new_work_resets_the_time() -> None:
    watch = watchdog()
    for batch in range(100):
        assert second_of_hang(watch, {WIDE: (float(batch), (1,))}, 20) is None


def test_a_lane_that_hangs_is_reported_while_others_work() -> None:
    watch = watchdog()
    said = None
    for second in range(30):
        entries = {FIRST_BULK: (1.0, (1,)), FIRST_BULK + 1: (float(second), (2,))}
        said = said or watch.check(entries, waiting=3, received=second, seconds=1)
    assert said is not None and "1 text of at most 100 tokens" in said.description and not said.texts


def test_a_long_text_is_no_hang_while_queries_are_computed_between_its_pieces() -> None:
    watch = watchdog()
    for second in range(500):
        entries = {WIDE: (1.0, (1,)), NESTED: (float(second // 5), (2,))}
        assert watch.check(entries, waiting=2, received=0, seconds=1) is None
    assert second_of_hang(watch, {WIDE: (1.0, (1,)), NESTED: (1.0, (2,))}, 100) == 26


def test_waiting_texts_that_no_thread_takes_are_a_hang_and_idleness_is_not() -> None:
    assert second_of_hang(watchdog(), {}, 1000) is not None
    assert second_of_hang(watchdog(), {}, 1000, waiting=0) is None
    watch = watchdog()
    assert all(watch.check({}, waiting=1, received=second, seconds=1) is None for second in range(100)), "messages come"
