"""The parts of the Serve application that need no Ray: arguments, keys, headers, metrics, scaling, folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeembed.errors import ConfigError
from edgeembed.ray_serve.arguments import read_arguments
from edgeembed.ray_serve.child import claim_folder
from edgeembed.ray_serve.daemon import variables
from edgeembed.ray_serve.merged_metrics import merged
from edgeembed.ray_serve.messages import forwarded, passed_on
from edgeembed.ray_serve.scaling import QueueTokensPolicy
from edgeembed.ray_serve.text_key import MOST_BYTES, key_of


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEEMBED_HOME", str(tmp_path))


def test_arguments_are_replicas_and_settings() -> None:
    replicas, settings = read_arguments(
        {"replicas": "1:4", "gpus": "0.5", "model": "m", "offline": True, "aliases": {"a": "m"}, "pin": ["x", "y"]}
    )
    assert replicas.range == (1, 4)
    assert replicas.gpus == 0.5
    assert settings == {"model": "m", "offline": "true", "aliases": "a=m", "pin": "x,y"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modle": "x"}, "modle is no argument.*Did you mean 'model'"),
        ({"port": 1}, "http_options"),
        ({"api_key": "sesame"}, "set the variable EDGEEMBED_API_KEY where Ray starts, or the argument api_key_file"),
        ({"cache_url": "redis://:sesame@cache"}, "set the variable EDGEEMBED_CACHE_URL where Ray starts$"),
        ({"replicas": "4:1"}, "expected a number such as 2"),
        ({"replicas": "0"}, "expected a number such as 2"),
        ({"gpus": "many"}, "gpus"),
        ({"threads": "many"}, "--threads = 'many'"),
    ],
)
def test_a_wrong_argument_is_an_error_that_says_so(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read_arguments(given)
    assert "sesame" not in str(raised.value)


def test_a_daemon_has_no_address_of_ours(tmp_path: Path) -> None:
    environ = {
        "EDGEEMBED_HOME": str(tmp_path),
        "EDGEEMBED_PORT": "80",
        "EDGEEMBED_HOST": "0.0.0.0",
        "EDGEEMBED_API_KEY": "k",
        "EDGEEMBED_MODEL": "a",
        "X": "y",
    }
    assert variables({"model": "b"}, environ) == {
        "EDGEEMBED_HOME": str(tmp_path),
        "EDGEEMBED_API_KEY": "k",
        "EDGEEMBED_MODEL": "b",
        "X": "y",
    }


def test_a_certificate_of_the_machine_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('certfile = "server.pem"\n')
    with pytest.raises(ConfigError, match=r"config\.toml: certfile: .*another EDGEEMBED_HOME"):
        variables({}, {"EDGEEMBED_HOME": str(tmp_path), "EDGEEMBED_CERTFILE": "other.pem"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (body(input="a text", model="m"), body(model="n", encoding_format="base64", input="a text")),
        (body(input="é"), b'{"input": "\\u00e9"}'),
        (body(input=["a text"]), body(inputs="a text")),
        (body(prompt="a text"), body(input="a text")),
    ],
)
def test_requests_of_the_same_text_have_one_key(one: bytes, other: bytes) -> None:
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize(
    "bodies",
    [
        (body(input="a"), body(input="b")),
        (body(input=["a", "b"]), body(input=["a", "c"])),
        (body(query="q", documents=["a"]), body(query="q", documents=["b"])),
        (b"not JSON", b"not JSON either"),
        (b"x" * MOST_BYTES + b"y", b"y" * MOST_BYTES + b"y"),
        (b'{"input": "\\ud800"}', b'{"input": "\\ud801"}'),
    ],
)
def test_other_requests_have_other_keys(bodies: tuple[bytes, bytes]) -> None:
    assert key_of(bodies[0]) != key_of(bodies[1])


def test_headers_of_one_connection_stay_there() -> None:
    given = [
        (b"Connection", b"close, X-Mine"),
        (b"x-mine", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"traceparent", b"t"),
    ]
    assert passed_on(given) == [(b"traceparent", b"t")]


def test_a_daemon_sees_that_a_request_came_through_a_proxy() -> None:
    given = [(b"x-forwarded-for", b"10.0.0.1"), (b"content-length", b"3"), (b"authorization", b"Bearer k")]
    assert forwarded(given, "10.0.0.2") == [(b"authorization", b"Bearer k"), (b"X-Forwarded-For", b"10.0.0.1, 10.0.0.2")]


def test_metrics_are_merged_by_family() -> None:
    text = (
        "# HELP a_total Of a.\n# TYPE a_total counter\n"
        'a_total{{model="m"}} {0}.0\n'
        "# HELP b Of b.\n# TYPE b histogram\n"
        'b_bucket{{le="1.0"}} {0}.0\nb_bucket{{le="+Inf"}} {0}.0\nb_count {0}.0\nb_sum {0}.0\n'
    )
    assert merged({"r1": text.format(1), "r2": text.format(2)}).decode() == (
        "# HELP a_total Of a.\n# TYPE a_total counter\n"
        'a_total{model="m",replica="r1"} 1.0\na_total{model="m",replica="r2"} 2.0\n'
        "# HELP b Of b.\n# TYPE b histogram\n"
        'b_bucket{le="1.0",replica="r1"} 1.0\nb_bucket{le="+Inf",replica="r1"} 1.0\n'
        'b_count{replica="r1"} 1.0\nb_sum{replica="r1"} 1.0\n'
        'b_bucket{le="1.0",replica="r2"} 2.0\nb_bucket{le="+Inf",replica="r2"} 2.0\n'
        'b_count{replica="r2"} 2.0\nb_sum{replica="r2"} 2.0\n'
    )


@pytest.mark.parametrize(("tokens", "requests", "wanted"), [([4000, 5000], 2, 9), ([0, 0], 24, 3), ([], 0, 0)])
def test_replicas_follow_tokens_and_requests(tokens: list[float], requests: int, wanted: float) -> None:
    context = SimpleNamespace(
        aggregated_metrics={"queue_tokens": dict(enumerate(tokens))} if tokens else None,
        total_num_requests=requests,
        config=SimpleNamespace(get_target_ongoing_requests=lambda: 8),
    )
    assert QueueTokensPolicy(target_queue_tokens=1000)(context) == (wanted, {})


def test_daemons_of_one_machine_have_a_cache_folder_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEEMBED_CACHE_HOME", raising=False)
    folders = []
    locks = []
    for _ in range(2):
        locks.append(claim_folder())
        folders.append(os.environ.pop("EDGEEMBED_CACHE_HOME"))
    assert folders == [str(tmp_path / "cache" / "replicas" / name) for name in "01"]
    locks[0].release()  # its daemon has ended: the next one finds what it has stored
    locks.append(claim_folder())
    assert os.environ["EDGEEMBED_CACHE_HOME"] == folders[0]
    for lock in locks[1:]:
        lock.release()
