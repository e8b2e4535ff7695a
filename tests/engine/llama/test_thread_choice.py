"""How many threads a pass uses. No model: the test decides how long a pass takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeembed.engine.llama.thread_choice import REDUCED_SECONDS, TRY_EVERY, ThreadChoice


class Clock:
    """A clock that only passes move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """A thread choice with a simulated clock."""

    def __init__(self, most: int) -> None:
        self.clock = Clock()
        self.choice = ThreadChoice(most, self.clock)

    def run(self, passes: int, seconds: Callable[[int, int], float]) -> list[int]:
        """Simulate passes of 5 to 60 tokens, and return the number of threads of each."""
        taken = []
        for number in range(passes):
            tokens = 5 + number * 7 % 56
            threads = self.choice.next()
            taken.append(threads)
            took = seconds(threads, tokens)
            self.clock.now += took
            self.choice.record(tokens, took)
        return taken


def quiet(threads: int, tokens: int) -> float:
    return tokens * 1e-3 / (0.2 + 0.8 * threads)


def one_processor_is_taken(threads: int, tokens: int) -> float:
    """Of eight: a pass that uses all of them waits most of the time."""
    return tokens * 1e-3 * (8 if threads == 8 else 1 / (0.2 + 0.8 * threads))


def all_are_taken(threads: int, tokens: int) -> float:
    return tokens * 1e-3 * (1 if threads == 1 else 4 * threads)


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_an_idle_machine_uses_all_threads_in_99_of_100_passes(most: int) -> None:
    machine = Machine(most)
    machine.run(20, quiet)
    taken = machine.run(10 * TRY_EVERY, quiet)
    assert sum(threads != most for threads in taken) <= len(taken) / 100
    assert most == 1 or any(threads != most for threads in taken)


def test_other_programs_reduce_the_threads_until_they_end() -> None:
    machine = Machine(8)
    machine.run(50, quiet)
    assert machine.run(40, one_processor_is_taken)[-20:].count(4) >= 18
    taken = machine.run(400, all_are_taken)
    assert taken[-200:].count(1) >= 160, "other numbers are tried now and then"
    before = machine.clock.now
    while machine.run(1, quiet) != [8]:
        pass
    assert machine.clock.now - before < 2 * REDUCED_SECONDS
    assert machine.run(100, quiet).count(8) >= 98


def test_a_machine_that_is_busy_from_the_start_is_noticed_soon() -> None:
    assert Machine(2).run(40, all_are_taken)[13:].count(1) >= 20


def test_an_occasional_slow_pass_changes_nothing() -> None:
    machine = Machine(2)
    machine.run(50, quiet)
    for _ in range(20):
        machine.run(1, lambda threads, tokens: 30 * quiet(threads, tokens))
        assert machine.run(4, quiet).count(2) >= 3
