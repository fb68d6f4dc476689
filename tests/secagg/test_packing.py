from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.errors import ProtocolError
from privfl.secagg.packing import TYPES, Bits, pack, packed_bytes, unpack

BITS: tuple[Bits, ...] = (16, 20, 24, 32, 64)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.sampled_from(BITS), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
def test_what_is_packed_comes_back_without_its_upper_bits(bits: Bits, values: list[int]) -> None:
    words = np.array([value % 2 ** (8 * TYPES[bits].itemsize) for value in values], TYPES[bits])
    payload = pack(words, bits)
    assert len(payload) == packed_bytes(len(words), bits) == -(-len(words) * bits // 8)
    assert unpack(payload, len(words), bits).tolist() == [value % 2**bits for value in words.tolist()]
    # One long number, the first word lowest.
    whole = sum(value % 2**bits << bits * place for place, value in enumerate(words.tolist()))
    assert bytes(payload) == whole.to_bytes(len(payload), "little")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [1, 2, 3, 1001])
def test_the_largest_words_stay_whole(bits: Bits, count: int) -> None:
    words = np.full(count, 2**bits - 1, TYPES[bits])
    assert np.array_equal(unpack(pack(words, bits), count, bits), words)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_nothing_is_copied_where_nothing_is_left_out(bits: Bits) -> None:
    words = np.zeros(4, TYPES[bits])
    payload = pack(words, bits)
    words[0] = 7
    assert payload[0] == 7
    assert not unpack(payload.toreadonly(), 4, bits).flags.writeable


def test_an_odd_number_of_20_bit_words_has_one_encoding() -> None:
    payload = bytearray(pack(np.array([1, 2, 3], np.uint32), 20))
    assert unpack(memoryview(payload), 3, 20).tolist() == [1, 2, 3]
    payload[-1] |= 0x80
    with pytest.raises(ProtocolError, match="last four bits"):
        unpack(memoryview(payload), 3, 20)
