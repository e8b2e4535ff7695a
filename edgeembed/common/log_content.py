"""What a log may say: printable text of limited length, and errors without their messages, which can quote a client's text.

An exception's message is written by whoever raises it: aiohttp quotes the line that it cannot parse, Python the value that
it cannot convert. Its class, the classes of its causes and the lines of code that raised it show no content.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

LONGEST_LINE = 2000
"""Characters of one log line; the rest is cut off."""
_MOST_FRAMES = 15
"""Calls shown of a traceback, the innermost."""
_MOST_CAUSES = 5


def printable(text: str) -> str:
    """Return a text with line breaks, control characters and marks of writing direction escaped, so that it can neither
    forge a line of a log nor control a terminal.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable_lines(text: str) -> str:
    """Return a text whose lines are printable. The first is at the margin, where the lines of a log begin, the others are
    indented, so that none of them passes for another line of the log.
    """
    return "\n  ".join(map(printable, text.split("\n")))


def shortened(text: str, longest: int = LONGEST_LINE) -> str:
    """Return a text of at most `longest` characters, and how many were cut off."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} more characters)"


def describe_error(error: BaseException) -> str:
    """Return the classes of an error and its causes, without their messages: "ClientOSError ECONNREFUSED, caused by …"."""
    return ", caused by ".join(map(_class_of, _chain(error)))


def format_traceback(error: BaseException) -> str:
    """Return the calls that led to an error and to its causes, the cause first, as Python does but without messages."""
    return "\n".join(_calls(each) for each in reversed(list(_chain(error))))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen and len(seen) < _MOST_CAUSES:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _class_of(error: BaseException) -> str:
    name = type(error).__qualname__
    if isinstance(error, OSError) and (code := errno.errorcode.get(error.errno or 0)):
        return f"{name} {code}"
    if isinstance(error, BaseExceptionGroup):
        return f"{name} of {', '.join(type(each).__qualname__ for each in error.exceptions[:_MOST_CAUSES])}"
    return name


def _calls(error: BaseException) -> str:
    stack = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__))
    left_out = [f"  … {len(stack) - _MOST_FRAMES} calls\n"] if len(stack) > _MOST_FRAMES else []
    shown = traceback.StackSummary.from_list(stack[-_MOST_FRAMES:]).format()
    return "".join(["Traceback (most recent call last):\n", *left_out, *shown, _class_of(error)])
