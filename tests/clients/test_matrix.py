"""The clients of environments.toml against the real daemon, each by its defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.clients.environments import PROGRAMS, Environment, environments, make_in_ci
from tests.clients.examples import Example, examples
from tests.clients.failing import failing, unexpected
from tests.clients.matrix import Matrix, References, daemons, judge

ENVIRONMENTS = environments()
CASES = [(environment, program) for environment in ENVIRONMENTS.values() for program in environment.programs]


@pytest.fixture(scope="module")
def matrix(minilm: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with daemons(tmp_path_factory.mktemp("matrix"), minilm("Q8_0")) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "program"), CASES, ids=[program for _, program in CASES])
def test_a_client_works_by_its_defaults(environment: Environment, program: str, matrix: Matrix) -> None:
    make_in_ci(environment)
    outcomes = list(matrix.run(environment, program))
    assert outcomes
    assert not unexpected(outcomes), "\n" + "\n".join(unexpected(outcomes))


@pytest.mark.parametrize(
    "example", examples(), ids=lambda example: f"{example.page.stem}:{example.line}:{example.environment}"
)
def test_an_example_of_the_docs_prints_what_it_says(example: Example, matrix: Matrix, tmp_path: Path) -> None:
    environment = ENVIRONMENTS[example.environment]
    make_in_ci(environment)
    assert example.run(environment, matrix.url, tmp_path).splitlines()[-1] == example.printed


def test_each_program_belongs_to_one_environment() -> None:
    listed = [program for _, program in CASES]
    assert sorted(listed) == sorted(file.name for file in PROGRAMS.iterdir() if "_clients." in file.name)


def test_each_package_has_one_version() -> None:
    for environment in ENVIRONMENTS.values():
        for package in environment.python:
            assert "==" in package, f"{environment.name}: {package}"
        for package in environment.npm:
            assert "@" in package[1:], f"{environment.name}: {package}"


def test_what_is_listed_names_cases_and_reasons() -> None:
    sources = "\n".join(file.read_text(encoding="utf-8") for file in PROGRAMS.iterdir() if file.is_file())
    for (client, operation), reason in failing().items():
        assert reason
        assert client.partition(",")[0] in sources and operation in sources, f"{client} | {operation}"


REFERENCES = References(
    rows={"empty": np.eye(2, 4, dtype=np.float32)},
    scores={"documents": [0.1, 0.9, 0.5], "long_documents": [0.1, 0.9, 0.5]},
)


def encoded(rows: np.ndarray) -> dict[str, object]:
    import base64

    return {"rows": base64.b64encode(rows.astype(np.float32).tobytes()).decode(), "count": len(rows)}


ROWS = {"rows": "empty", "dimensions": None, "least": 0.9999}
SCORES = {"scores": "documents", "count": None}


@pytest.mark.parametrize(
    ("got", "expected", "fault"),
    [
        (encoded(np.eye(2, 4)), ROWS, None),
        (encoded(3 * np.eye(2, 4)), ROWS, None),
        (encoded(np.eye(2, 4)[::-1]), ROWS, "cosine"),
        (encoded(np.eye(1, 4)), ROWS, "expected 2 rows"),
        (encoded(np.eye(2, 3)), ROWS, "expected 4 numbers"),
        ({"value": None}, ROWS, "expected rows"),
        ({"raised": ["a.Error"], "message": "why"}, ROWS, "raised a.Error: why"),
        (encoded(np.array([[1, 0, 0, 0], [0, 0, 0, 1]])), {"finite": "empty"}, None),
        (encoded(np.array([[1, 0, 0, 0], [0, 0, 0, 0]])), {"finite": "empty"}, "zero"),
        (encoded(np.array([[1, 0, 0, 0], [0, 0, 0, np.nan]])), {"finite": "empty"}, "not finite"),
        ({"scores": [[1, 0.9], [2, 0.5], [0, 0.1]]}, SCORES, None),
        ({"scores": [[2, 0.5], [1, 0.9], [0, 0.1]]}, SCORES, "expected documents"),
        ({"scores": [[1, 0.8], [2, 0.5], [0, 0.1]]}, SCORES, "expected scores"),
        ({"scores": [[1, 0.9]]}, SCORES, "expected documents"),
        ({"scores": [[1, 0.9]]}, {"scores": "documents", "count": 1}, None),
        ({"scores": [[0, 0.9], [1, 0.8], [2, 0.7]]}, {"scores": "long_documents", "count": None}, None),
        ({"raised": ["a.Error", "a.Base"], "message": "why"}, {"raises": ["a.Base"], "match": "wh"}, None),
        ({"raised": ["a.Error"], "message": "why"}, {"raises": ["a.Base"], "match": ""}, "expected a.Base"),
        ({"raised": ["a.Error"], "message": "why"}, {"raises": ["a.Error"], "match": "how"}, "without 'how'"),
        (encoded(np.eye(2, 4)), {"raises": ["a.Error"], "match": ""}, "expected a.Error, got 2 rows"),
        ({"value": 3}, {"value": 3}, None),
        ({"value": 3}, {"value": 4}, "expected 4"),
    ],
)
def test_the_judge(got: dict[str, object], expected: dict[str, object], fault: str | None) -> None:
    found = judge(got, expected, REFERENCES)
    assert found is None if fault is None else found is not None and fault in found
