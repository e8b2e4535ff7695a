"""Texts that differ from client to client."""

from __future__ import annotations

import numpy as np

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
]


def texts_of(client: int, count: int, words: int = 20) -> list[str]:
    rng = np.random.default_rng(client)
    return [" ".join(rng.choice(WORDS, words)) + f" {client} {number}" for number in range(count)]
