"""A worker's end of the pipe: what it reads at once, and whether there is more."""

from __future__ import annotations

import io
import os

import pytest

from edgeembed.engine.ipc.messages import Cancel, Frames, Stop, frame
from edgeembed.engine.ipc.pipe import Pipe


def test_all_messages_that_have_arrived_are_read_at_once_and_in_order() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as daemon:
        pipe = Pipe(source, io.BytesIO())
        if hasattr(os, "fork"):  # where a pipe can be polled
            assert pipe.is_quiet
        whole = frame(Cancel([1])) + frame(Cancel([2])) + frame(Stop())
        daemon.write(whole[:-3])
        assert not pipe.is_quiet
        assert pipe.read() == [Cancel([1]), Cancel([2])]
        daemon.write(whole[-3:])
        assert pipe.read() == [Stop()]
        daemon.write(frame(Cancel([3])))
        assert pipe.read() == [Cancel([3])]
        daemon.close()
        assert pipe.read() == []


def test_what_cannot_be_polled_never_counts_as_quiet() -> None:
    assert not Pipe(io.BytesIO(), io.BytesIO()).is_quiet


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_frames_are_found_however_they_arrive(size: int) -> None:
    bodies = [bytes([number]) * length for number, length in enumerate([0, 1, 5, 300, 0, 2])]
    sent = b"".join(len(body).to_bytes(4, "little") + body for body in bodies)
    frames = Frames()
    found = [body for begin in range(0, len(sent), size) for body in frames.feed(sent[begin : begin + size])]
    assert found == bodies


def test_bytes_that_are_no_frame_are_an_error() -> None:
    with pytest.raises(ValueError, match="exceeds the limit"):
        Frames().feed(b"\xff\xff\xff\xff")
