"""The frequency sketch counts lookups, and forgets old ones."""

from __future__ import annotations

import hashlib

from edgeembed.cache.sketch import FrequencySketch


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def test_estimates_are_never_too_low() -> None:
    sketch = FrequencySketch(1000)
    for number in range(1000):
        for _ in range(number % 7):
            sketch.add(key(number))
    assert all(sketch.estimate(key(number)) >= number % 7 for number in range(1000))
    right = sum(sketch.estimate(key(number)) == number % 7 for number in range(1000))
    assert right > 950, "few share all four of their counters with others"
    assert sketch.estimate(key(5000)) <= 1


def test_counters_stop_at_fifteen() -> None:
    sketch = FrequencySketch(1000)
    for _ in range(100):
        sketch.add(key(1))
    assert sketch.estimate(key(1)) == 15


def test_old_lookups_are_forgotten() -> None:
    sketch = FrequencySketch(100)
    for _ in range(10):
        sketch.add(key(1))
    for number in range(2, 3000):
        sketch.add(key(number))
    assert sketch.estimate(key(1)) <= 3
    sketch.clear()
    assert sketch.estimate(key(1)) == 0
