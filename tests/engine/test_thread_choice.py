"""How many threads a pass takes. No model: a pass takes what the test says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeembed.engine.thread_choice import TRY_EVERY, TRY_EVERY_REDUCED, ThreadChoice


def run(choice: ThreadChoice, passes: int, seconds: Callable[[int, int], float]) -> list[int]:
    """Compute passes of 5 to 60 tokens; give the threads that each had."""
    taken = []
    for number in range(passes):
        tokens = 5 + number * 7 % 56
        threads = choice.next()
        taken.append(threads)
        choice.record(tokens, seconds(threads, tokens))
    return taken


def quiet(threads: int, tokens: int) -> float:
    return tokens * 1e-3 / (0.2 + 0.8 * threads)


def one_processor_is_taken(threads: int, tokens: int) -> float:
    """Of eight: whoever needs all of them stands still most of the time."""
    return tokens * 1e-3 * (8 if threads == 8 else 1 / (0.2 + 0.8 * threads))


def all_are_taken(threads: int, tokens: int) -> float:
    return tokens * 1e-3 * (1 if threads == 1 else 4 * threads)


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_a_quiet_machine_computes_with_all_threads_but_for_one_pass_in_a_hundred(most: int) -> None:
    choice = ThreadChoice(most)
    run(choice, 20, quiet)
    taken = run(choice, 10 * TRY_EVERY, quiet)
    assert sum(threads != most for threads in taken) <= len(taken) / 100
    assert most == 1 or any(threads != most for threads in taken)


def test_neighbours_take_threads_away_and_give_them_back() -> None:
    choice = ThreadChoice(8)
    run(choice, 50, quiet)
    assert run(choice, 40, one_processor_is_taken)[-20:].count(4) >= 18
    assert run(choice, 4 * TRY_EVERY_REDUCED, all_are_taken)[-20:].count(1) >= 18
    assert run(choice, 20 * TRY_EVERY_REDUCED, quiet)[-100:].count(8) >= 98


def test_a_machine_that_was_never_quiet_is_found_out_soon() -> None:
    choice = ThreadChoice(2)
    assert run(choice, 40, all_are_taken)[10:].count(1) >= 28
