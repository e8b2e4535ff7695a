"""Arrays of float32 as strings."""

from __future__ import annotations

import numpy as np
import pytest

from edgeembed.engine.float_strings import decode_floats, decoded_count, encode_floats, encoded_length


@pytest.mark.parametrize("count", range(1, 8))
def test_a_string_has_the_numbers_of_an_array(count: int) -> None:
    numbers = np.linspace(-1, 1e6, count, dtype=np.float32)
    text = encode_floats(numbers)
    assert len(text) == encoded_length(count)
    assert decoded_count(text) == count
    assert np.array_equal(decode_floats(text), numbers)


def test_bytes_are_little_endian() -> None:
    assert encode_floats(np.array([[1.0], [2.0]], dtype=np.float32)) == "AACAPwAAAEA="
    assert decode_floats("AACAPwAAAEA=").tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "said"), [("A", "not base64"), ("\u00e9===", "not base64"), ("AAAA", "3 bytes are no whole")]
)
def test_another_string_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_floats(text)
