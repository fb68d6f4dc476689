from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_cohort import assert_uniform

from privfl.secagg import prg

KEY = bytes(range(32))
CHUNK = prg.CHUNK_BYTES // 4


def words_of(key: bytes, count: int, kind: Any = np.uint32) -> Any:
    words = np.empty(count, kind)
    prg.Keystream(key).fill(words)
    return words


def test_aes_256_ctr_gives_the_answer_of_nist_sp_800_38a() -> None:
    # Section F.5.5
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    stream = prg.Keystream(key, block=int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16))
    words = np.empty(16, np.uint32)
    stream.fill(words)
    assert (words ^ np.frombuffer(plain, "<u4")).astype("<u4").tobytes() == cipher


def test_the_stream_starts_at_block_zero() -> None:
    # AESAVS, appendix C, VarKey256: AES of a zero block under the key 80 00 .. 00
    words = words_of(b"\x80" + bytes(31), 4)
    assert words.astype("<u4").tobytes().hex() == "e35a6dcb19b201a01ebcfa8aa22b5759"


@pytest.mark.parametrize("count", [0, 1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_chunks_cover_everything_once(count: int) -> None:
    covered = np.zeros(count, int)
    for chunk in prg.chunks(count):
        covered[chunk] += 1
        assert chunk.stop - chunk.start <= CHUNK
    assert (covered == 1).all()


def test_a_stream_does_not_depend_on_how_it_is_read() -> None:
    whole = words_of(KEY, 2 * CHUNK + 5)
    stream, parts = prg.Keystream(KEY), []
    for length in (7, CHUNK, 1, CHUNK - 3):
        part = np.empty(length, np.uint32)
        stream.fill(part)
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), whole)
    later = np.empty(40, np.uint32)
    prg.Keystream(KEY, block=5).fill(later)
    assert np.array_equal(later, whole[20:60])


def test_a_stream_is_uniform() -> None:
    assert_uniform(words_of(KEY, 50_000))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 2 * CHUNK + 9), st.integers(0, 3), st.integers(0, 3))
def test_mask_is_the_sum_of_the_streams(count: int, adding: int, subtracting: int) -> None:
    added, subtracted = [bytes([i]) * 32 for i in range(adding)], [bytes([9 + i]) * 32 for i in range(subtracting)]
    vector = np.arange(count, dtype=np.uint32)
    expected = vector.astype(object)
    for key in added:
        expected += words_of(key, count)
    for key in subtracted:
        expected -= words_of(key, count)
    prg.mask(vector, added, subtracted)
    assert np.array_equal(vector, np.asarray(expected % 2**32, dtype=np.uint32))


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
def test_words_of_every_type_are_the_same_bytes(kind: Any) -> None:
    size = np.dtype(kind).itemsize
    count = (2 * prg.CHUNK_BYTES + 40) // size
    assert words_of(KEY, count, kind).tobytes() == words_of(KEY, count * size // 4).tobytes()
    vector = np.zeros(count, kind)
    prg.mask(vector, [KEY], [])
    assert vector.tobytes() == words_of(KEY, count, kind).tobytes()
    prg.mask(vector, [], [KEY])
    assert not vector.any()


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_give_the_same_bytes(kind: Any, threads: int) -> None:
    count = 5 * prg.CHUNK_BYTES // np.dtype(kind).itemsize + 3
    one, many = np.arange(count, dtype=kind), np.arange(count, dtype=kind)
    prg.mask(one, [b"a" * 32, b"b" * 32], [b"c" * 32])
    prg.mask(many, [b"a" * 32, b"b" * 32], [b"c" * 32], threads)
    assert np.array_equal(one, many)


def test_a_mask_of_nothing_and_of_no_key() -> None:
    for threads in (1, 4):
        empty = np.zeros(0, np.uint32)
        prg.mask(empty, [KEY], [], threads)
        vector = np.arange(5, dtype=np.uint32)
        prg.mask(vector, [], [], threads)
        assert vector.tolist() == [0, 1, 2, 3, 4]


def test_a_block_of_the_stream_is_aes_of_its_number() -> None:
    for block in (0, 1, 255, 2**32 - 1, 2**64):
        words = np.empty(4, np.uint32)
        prg.Keystream(KEY, block).fill(words)
        aes = Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor()
        assert words.tobytes() == aes.update(block.to_bytes(16, "big"))
