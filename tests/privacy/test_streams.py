"""The stream is AES-256-CTR, handed out once; streams of different keys have nothing to do with each other."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from privfl.privacy.streams import RandomStream

KEY = bytes(range(32))


def test_it_is_the_keystream_of_aes() -> None:
    # NIST SP 800-38A, F.5.5, has another first counter; the cipher itself is the reference here.
    expected = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 40_000))
    assert RandomStream(KEY).words(40_000).tobytes() == expected


def test_no_word_is_handed_out_twice() -> None:
    whole, stream = RandomStream(KEY).words(70_000), RandomStream(KEY)
    pieces = [stream.words(size) for size in (0, 1, 3, 20_000, 0, 49_996)]
    assert np.array_equal(np.concatenate(pieces), whole)
    # Of 70,000 words of 64 bits two are equal with probability 1e-10.
    assert len(np.unique(whole)) == len(whole)


def test_the_operating_system_gives_another_key_each_time() -> None:
    assert not np.intersect1d(RandomStream.from_os().words(1000), RandomStream.from_os().words(1000)).size


def test_streams_of_two_keys_agree_in_half_of_their_bits() -> None:
    other = bytes([KEY[0] ^ 1, *KEY[1:]])
    differing = np.bitwise_count(RandomStream(KEY).words(20_000) ^ RandomStream(other).words(20_000)).sum()
    # Error rate 1e-6 for a random pair of keys.
    assert stats.binomtest(int(differing), 64 * 20_000).pvalue > 1e-6
