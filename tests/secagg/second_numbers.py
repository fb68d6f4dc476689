"""The numbers of the second client, written from docs/secagg.md alone: certificates, words, and the encoding of an update.

It imports nothing of privfl; see second_client.py.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Words = npt.NDArray[Any]


class Malformed(Exception):  # noqa: N818
    """Bytes or numbers that the page does not allow."""


def demand(condition: object, reason: str) -> None:
    """Raise Malformed with the reason unless the condition holds."""
    if not condition:
        raise Malformed(reason)


class Certificate(NamedTuple):
    """The numbers of a graph, with the bounds on the three probabilities."""

    graph: str
    neighbours: int
    threshold: int
    survivors: int
    quorum: int
    shares: float = 0.0
    apart: float = 0.0
    lost: float = 0.0


@cache
def log_factorials(n: int) -> npt.NDArray[np.float64]:
    """Return ln 0! to ln n!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def tail(n: int, marked: int, drawn: int, at_least: int) -> float:
    """Return P[H(n, marked, drawn) >= at_least]."""
    f = log_factorials(n)
    i = np.arange(max(at_least, drawn - (n - marked), 0), min(marked, drawn) + 1)
    if not i.size:
        return 0.0
    ways = f[marked] - f[i] - f[marked - i] + f[n - marked] - f[drawn - i] - f[n - marked - drawn + i]
    return float(np.exp(ways - (f[n] - f[drawn] - f[n - drawn])).sum())


class Numbers(NamedTuple):
    """What the certificate's formulas are about: n, c, l, the least and a policy."""

    n: int
    c: int
    l: int  # noqa: E741
    least: int
    policy: Mapping[str, Any]

    @property
    def active(self) -> bool:
        """Whether the server may lie."""
        return bool(self.policy["adversary"] == "active")

    def fewer(self, k: int, t: int) -> float:
        """Return P[H(n - 1, n - 1 - l, k) < t]: more than k - t of those drawn are lost."""
        return tail(self.n - 1, self.l, k, k - t + 1)


def sparse_threshold(a: Numbers, k: int) -> int:
    """Return t for k neighbours."""
    if a.policy["threshold"]:
        return int(a.policy["threshold"])
    if a.active:
        rare = 2.0 ** -int(a.policy["recovery_bits"])
        return max(1, sum(a.n * a.fewer(k, i + 1) <= rare for i in range(k)))
    i = 0
    while a.n * tail(a.n - 1, a.c, k, i + 1) > 2.0 ** -(a.policy["security_bits"] + 1):
        i += 1
    return max(k // 2 + 1, 1 + i)


def apart(a: Numbers, k: int, t: int) -> float:
    """Return the bound on the probability that the honest survivors fall apart."""
    f = log_factorials(a.n)
    if not a.active:
        if k > a.c + a.l:
            return 0.0
        parts = f[a.c + a.l] - f[a.c + a.l - k] - f[a.n] + f[a.n - k]
        return float(a.n * max(a.n - k - 1, 1) / 2 * np.exp(parts))
    h = a.n - a.c
    s = np.arange(max(1, t + 1 - a.c), h // 2 + 1)
    q, p = t / k, (s - 1 + a.c) / (a.n - 1)
    below = np.log1p(-p) if q < 1 else np.zeros_like(p)
    d = q * np.log(q / p) + ((1 - q) * (math.log(1 - q) - below) if q < 1 else 0.0)
    logs = f[h] - f[s] - f[h - s] - s * k * np.where(q > p, d, 0.0)
    return min(1.0, float(np.exp(np.minimum(logs, 0.0)).sum()))


def sparse(a: Numbers, k: int) -> tuple[Certificate, bool]:
    """Return the certificate for k neighbours, and whether it is enough."""
    t, floor = sparse_threshold(a, k), max(a.n - a.l, a.least)
    shares = a.n * tail(a.n - 1, a.c, k, t)
    lost = min(1.0, a.n * a.fewer(k, t)) if a.n - a.l >= floor else 1.0
    found = Certificate("sparse", k, t, floor, floor if a.active else 0, shares, apart(a, k, t), lost)
    sigma = 2.0 ** -(a.policy["security_bits"] + 1)
    safe = k + 1 < 2 * t <= 2 * k and shares <= sigma and found.apart <= sigma
    return found, safe and (lost <= 2.0 ** -a.policy["recovery_bits"] or a.policy["threshold"] is not None)


def search(a: Numbers, bound: int) -> Certificate | None:
    """Return the first certificate that is enough with at most ``bound`` neighbours."""
    if given := a.policy["neighbours"]:
        found, enough = sparse(a, given)
        return found if enough and given < a.n and (a.active or given % 2 == 0) else None
    bound -= bound % 2
    low, k = 0, min(2, bound)
    while k > 0:
        best, enough = sparse(a, k)
        if enough:
            break
        if k == bound:
            return None
        low, k = k, min(2 * k, bound)
    else:
        return None
    while k - low > 2:
        middle = 2 * ((low + k) // 4)
        found, enough = sparse(a, middle)
        if enough:
            k, best = middle, found
        else:
            low = middle
    return best


def certificate(policy: Mapping[str, Any], minimum: int, cohort: int, n: int) -> Certificate:
    """Return the numbers for a roster of n; raises Malformed if there are none."""
    active = policy["adversary"] == "active"

    def corrupt(x: int) -> int:
        return max(1, math.ceil(float(policy["max_corrupt"]) * x - 1e-9))

    def quorum(x: int) -> int:
        return (x + corrupt(x)) // 2 + 1

    c = corrupt(n)
    demand(max(minimum, math.ceil(policy["roster_share"] * cohort - 1e-9)) <= n <= cohort, f"a roster of {n}")
    least = max(c + 2, minimum, *([quorum(n), quorum(cohort)] if active else []))
    demand(least <= n, f"a roster of {n} is too small")
    a = Numbers(n, c, math.floor(policy["max_dropout"] * n + 1e-9), least, policy)
    graph = policy["graph"]
    if graph == "sparse" or (graph == "auto" and (policy["neighbours"] or n >= 64)):
        wide = graph == "sparse" or policy["neighbours"]
        found = search(a, n - 2 if wide else (n - 1) // (4 if active else 2))
        demand(found or not wide, f"no sparse graph for {n} clients")
        if found:
            return found
    majority = max(2, c + 1, n // 2 + 1, quorum(n) if active else 0)
    t = policy["threshold"] or majority
    demand(majority <= t <= n, f"a threshold of {t}")
    floor = max(t, least)
    return Certificate("complete", n - 1, t, floor, floor if active else 0, lost=float(n - a.l < floor))


# Words


def word_type(bits: int) -> np.dtype[Any]:
    """Return the type modulo whose range words of so many bits are added."""
    return np.dtype({16: "<u2", 64: "<u8"}.get(bits, "<u4"))


def packed(words: Words, bits: int) -> bytes:
    """Return the words as they travel."""
    if bits == 20:
        numbers = [int(word) & 0xFFFFF for word in words] + [0] * (len(words) % 2)
        pairs = b"".join(
            (low | high << 20).to_bytes(5, "little") for low, high in zip(numbers[::2], numbers[1::2], strict=True)
        )
        return pairs[: (len(words) * 20 + 7) // 8]
    return b"".join((int(word) % 2**bits).to_bytes(bits // 8, "little") for word in words)


def keystream(key: bytes, count: int, dtype: np.dtype[Any]) -> Words:
    """Return the first words of a mask."""
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(count * dtype.itemsize)), dtype)


def scale(clip: float, population: int, bits: int) -> int:
    """Return S; the clip is 1 for the weight."""
    power = 2**62
    while power and not (population * (clip * power + 1) < 2 ** (bits - 1) and clip * power + 1 < 2**31):
        power //= 2
    demand(power, "no scale")
    return power


def encode(update: Sequence[float], weight: float, clip: float, population: int, bits: int, key: bytes) -> Words:
    """Return the words of an update and its weight."""
    x = np.clip(np.asarray(update, np.float64), -clip, clip)
    products = np.append(scale(clip, population, bits) * weight * x, scale(1.0, population, bits) * weight)
    draws = keystream(key, len(products), np.dtype("<u4")).astype(np.int64)
    rounded = (np.rint(2.0**32 * products).astype(np.int64) + draws) >> 32
    return rounded.astype(word_type(bits))


def layout_digest(names: Sequence[str], shapes: Sequence[Sequence[int]]) -> bytes:
    """Return the digest of the model's layout."""
    return hashlib.sha256(json.dumps([names, shapes]).encode()).digest()


def told_digest(told: Mapping[str, Sequence[float]]) -> bytes:
    """Return the digest of the numbers that clients are sent beside the model."""
    parts = [b"privfl secagg told"]
    for name, numbers in sorted(told.items()):
        parts += [struct.pack("<I", len(name.encode())), name.encode(), struct.pack("<Q", len(numbers))]
        parts += [struct.pack("<d", number) for number in numbers]
    return hashlib.sha256(b"".join(parts)).digest()


def context_digest(layout: bytes, encoding: bytes, told: Mapping[str, Sequence[float]]) -> bytes:
    """Return the context of a round's parameters."""
    return hashlib.sha256(layout + encoding + (told_digest(told) if told else b"")).digest()


def encoding_digest(clip: float, population: int, bits: int) -> bytes:
    """Return the digest of the fixed point encoding."""
    scales = scale(clip, population, bits), 1.0, scale(1.0, population, bits)
    return hashlib.sha256(b"privfl fixed point" + struct.pack("<BdQdQ", bits, clip, *scales)).digest()


def noise_digest(
    noise: str,
    bits: int,
    dimension: int,
    survivors: int,
    clip: float,
    scale: float,
    variance: float,
    beta: float,
    rotation_key: bytes,
) -> bytes:
    """Return the digest of the encoding where noise is distributed."""
    kind = ("skellam", "discrete_gaussian").index(noise)
    numbers = struct.pack("<BBQQdddd", kind, bits, dimension, survivors, clip, scale, variance, beta)
    return hashlib.sha256(b"privfl distributed noise" + numbers + rotation_key).digest()
