"""What autotune measures. No model: the test decides how long a pass takes."""

from __future__ import annotations

import pytest

from edgeembed.engine.context_plan import TILE
from edgeembed.engine.llama.autotune import TIME_LIMIT_SECONDS, autotune


class Machine:
    """A clock that only passes move, and passes whose plain attention grows with the square of the length."""

    def __init__(self, *, pass_seconds: float = 1e-3, attention: float = 1.0) -> None:
        self.now = 0.0
        self.passes = 0
        self._pass, self._attention = pass_seconds, attention

    def clock(self) -> float:
        return self.now

    def time_pass(self, tokens: int) -> float:
        self.passes += 1
        plain = tokens + (self._attention * tokens**2 / TILE if tokens < TILE else 10)
        took = self._pass * plain / TILE
        self.now += took
        return took


@pytest.mark.parametrize(
    ("attention", "expected"),
    [(0.0, 0), (1.0, 48), (4.0, 32), (20.0, 24)],
    ids=["no padding", "long texts", "medium texts", "nearly all texts"],
)
def test_the_length_from_which_padding_is_faster(attention: float, expected: int) -> None:
    machine = Machine(attention=attention)
    found = autotune(machine.time_pass, clock=machine.clock)
    assert found.pad_from_tokens == expected
    assert found.seconds == pytest.approx(machine.now, abs=1e-3)


def test_a_large_model_is_not_delayed() -> None:
    machine = Machine(pass_seconds=1.0)
    assert autotune(machine.time_pass, clock=machine.clock).pad_from_tokens is None
    assert machine.passes == 1
    machine = Machine(pass_seconds=TIME_LIMIT_SECONDS / 8)
    assert autotune(machine.time_pass, clock=machine.clock).pad_from_tokens is None
    assert machine.now < 2 * TIME_LIMIT_SECONDS
