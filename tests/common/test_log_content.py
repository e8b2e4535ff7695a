"""What a log may say."""

from __future__ import annotations

import pytest

from edgeembed.common.log_content import describe_error, format_traceback, printable, printable_lines, shortened


def _raise(depth: int, error: BaseException) -> None:
    if depth:
        _raise(depth - 1, error)
    raise error


def _caught(depth: int, error: BaseException) -> BaseException:
    try:
        _raise(depth, error)
    except BaseException as caught:
        return caught
    raise AssertionError("it raises")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 漢, 😀", "plain, é, 漢, 😀"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x1b[31mred\x07\x00\x7f\x85\x9b", "\\x1b[31mred\\x07\\x00\\x7f\\x85\\x9b"),
        ("\u202eabc\u2066\u200f\u061c", "\\u202eabc\\u2066\\u200f\\u061c"),
        ("\u2028\u2029\ufeff\u200b\ud800", "\\u2028\\u2029\\ufeff\\u200b\\ud800"),
    ],
)
def test_no_sign_can_forge_a_line_or_control_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_no_line_of_a_text_begins_where_the_lines_of_a_log_do() -> None:
    assert printable_lines("a:\n b\r\n\x1b[31mc") == "a:\n   b\\r\n  \\x1b[31mc"


def test_a_long_text_is_cut() -> None:
    assert shortened("x" * 2000) == "x" * 2000
    assert shortened("x" * 2005) == "x" * 2000 + "… (5 more characters)"


def test_errors_are_described_without_their_messages() -> None:
    error = _caught(0, ValueError("secret"))
    error.__cause__ = ConnectionRefusedError(111, "secret", "secret")
    error.__cause__.__context__ = ExceptionGroup("secret", [KeyError("secret"), ValueError("secret")])
    assert describe_error(error) == (
        "ValueError, caused by ConnectionRefusedError ECONNREFUSED, caused by ExceptionGroup of KeyError, ValueError"
    )
    error.add_note("secret")
    trace = format_traceback(error)
    assert "secret" not in trace.replace('"secret"', "") and trace.splitlines()[-1] == "ValueError"
    assert trace.index("ExceptionGroup") < trace.index("ECONNREFUSED") < trace.index("in _caught"), "the cause comes first"


def test_a_traceback_has_a_limited_length() -> None:
    error = _caught(500, ValueError())
    for _ in range(20):
        error = _caught(0, _with_cause(error))
    loop = _caught(0, ValueError())
    loop.__cause__ = loop
    assert describe_error(loop) == "ValueError"
    lines = format_traceback(_caught(500, ValueError())).splitlines()
    assert len(lines) < 60 and "  … 487 calls" in lines
    assert describe_error(error).count("caused by") == 4


def _with_cause(error: BaseException) -> BaseException:
    made = RuntimeError()
    made.__cause__ = error
    return made
