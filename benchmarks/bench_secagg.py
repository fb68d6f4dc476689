"""How close to the machine's limit is secure aggregation, and how far from its peers?

The yardstick is the *keystream time* of a step: the bytes of mask that it must expand, divided by the AES-256-CTR rate of
the same run. Everything is CPU time of one core, but for the speed-up of two threads. With ``flwr`` installed, Flower's
SecAgg+ components run beside it.

Large rounds are played with *stand-ins* for most clients: they send all the messages that the server has to work through,
with shares that reconstruct, but agree on no channel keys among themselves, check no signatures and send their vectors
without masks. What those clients save is not what is measured, and the server's work does not depend on it. The clients that
are measured are real, and where all are, the sum is checked.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import _flower
import numpy as np
from _harness import Figures, Sample, interleaved, options, peak_mib, print_table, write_json
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privfl.errors import ThresholdError
from privfl.secagg import certificate, prg
from privfl.secagg import client as client_module
from privfl.secagg.certificate import Policy
from privfl.secagg.client import Client
from privfl.secagg.encoding import Encoding
from privfl.secagg.identity import Directory, Identity
from privfl.secagg.memory import Memory
from privfl.secagg.messages import TAGS_BYTES
from privfl.secagg.prg import Words
from privfl.secagg.server import Server
from privfl.secagg.session import Parameters, Stage
from privfl.secagg.simulation import Meter, play

SPARSE = Policy(graph="sparse", adversary="semi_honest", neighbours=20, threshold=11, max_corrupt=0.05)
COMPLETE = Policy(graph="complete", adversary="semi_honest")
# Bonawitz et al. 2017, as recalled and not checked against the paper: server, n = 1,000, 100,000 entries, 30 % dropped.
PAPER_SECONDS = 413.0


class Trusting(Directory):
    """A directory for stand-ins: it believes every signature."""

    def verify(self, client: int, label: bytes, statement: bytes, signature: bytes) -> None:
        """Whatever it is."""


class StandIn(Client):
    """A client that the server cannot tell from a real one, for a fraction of the work; see the head of this file."""

    real: frozenset[int] = frozenset()

    def _channel_with(self, peer: int) -> bytes:
        return super()._channel_with(peer) if peer in self.real else bytes(32)

    def _mask_vector(self, words_D: Words) -> None:
        """Leave it: no work of the server depends on it."""


@dataclass
class RealClients(Meter):
    """Counts the seconds of the real clients only."""

    real: frozenset[int] = frozenset()
    seconds: dict[Stage, list[float]] = field(default_factory=dict)

    @contextmanager
    def client(self, stage: Stage, number: int) -> Iterator[None]:
        """A client at work."""
        begun = self.clock()
        yield
        if number in self.real:
            self.seconds.setdefault(stage, []).append(self.clock() - begun)

    def mean(self, stage: Stage) -> float:
        """Of one client."""
        found = self.seconds.get(stage, [])
        return sum(found) / len(found) if found else 0.0


@dataclass(frozen=True)
class Played:
    """What one round took."""

    meter: RealClients
    masks_client: int
    masks_server: int
    neighbours: int
    threshold: int
    bytes_up: float
    bytes_down: float

    @property
    def client(self) -> float:
        """CPU seconds of a client that survives, over its whole round."""
        return sum(self.meter.mean(stage) for stage in self.meter.stages)

    def server(self, stage: Stage | None = None) -> float:
        """CPU seconds of the server."""
        return sum(cost.server_seconds for found, cost in self.meter.stages.items() if stage in (None, found))


def play_round(
    clients: int, dimension: int, dropped: float, policy: Policy, real: int | None = None, threads: int = 1
) -> Played:
    """One round whose last clients are lost before they send their vectors; all are real unless ``real`` says how many."""
    parameters = Parameters(
        "bench", 0, dimension + 1, 32, clients, clients, bytes(32), policy=replace(policy, max_dropout=max(dropped, 0.05))
    )
    global_D, encoding = np.zeros(dimension, np.float32), Encoding.fit(8.0, clients)
    update_D = np.random.default_rng(0).normal(scale=0.01, size=dimension).astype(np.float32)
    StandIn.real = frozenset(range(clients if real is None else real))
    identities = {number: Identity(os.urandom(32)) for number in range(clients)} if parameters.active else {}
    keys = {number: identity.public for number, identity in identities.items()}
    directory, trusting = Directory(keys), Trusting(keys)
    everyone: dict[int, Client] = {}
    for number in range(clients):
        kind, book = (Client, directory) if number in StandIn.real else (StandIn, trusting)
        identity = identities.get(number)
        everyone[number] = kind(
            number, parameters, global_D, memory=Memory(), identity=identity, directory=book, threads=threads
        )
    server = Server(parameters, range(clients), global_D, directory=directory, threads=threads)
    lost = dict.fromkeys(range(clients - int(dropped * clients), clients), Stage.MASKED_INPUT)
    meter = RealClients(clock=time.process_time, real=StandIn.real - lost.keys())
    unmasked = play(
        server, everyone, lambda number: encoding.encode(update_D, 1.0, number.to_bytes(32, "little"))[0], lost, meter
    )
    if real is None:
        _check(encoding, update_D, unmasked.words_D, unmasked.survivors)
    found = server.certificate
    assert found is not None
    survivors = clients - len(lost)
    return Played(
        meter,
        everyone[0].masks_expanded,
        server.masks_expanded,
        found.neighbours,
        found.threshold,
        sum(cost.bytes_up for cost in meter.stages.values()) / survivors,
        sum(cost.bytes_down for cost in meter.stages.values()) / survivors,
    )


def _check(encoding: Encoding, update_D: NDArray[np.float32], words_D: Words, survivors: Sequence[int]) -> None:
    """A benchmark of a wrong sum is worth nothing."""
    expected = np.zeros(len(words_D), np.uint32)
    for number in survivors:
        expected += encoding.encode(update_D, 1.0, number.to_bytes(32, "little"))[0]
    if not np.array_equal(expected, words_D):
        raise SystemExit("the unmasked sum is not the sum of the survivors' vectors: no figure of this run can be believed")


# --- the yardstick and the kernel ------------------------------------------------------------------------------------


def keystream(total: int) -> None:
    """Expand so many bytes as fast as the library gives them: one scratch buffer that stays in the cache."""
    encryptor = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))).encryptor()
    zeros, scratch = bytes(prg.CHUNK_BYTES), bytearray(prg.CHUNK_BYTES)
    for _ in range(total // prg.CHUNK_BYTES):
        encryptor.update_into(zeros, scratch)


@dataclass(frozen=True)
class Kernel:
    """Rates in bytes a second, and the speed-up of two threads."""

    keystream: Sample
    share: Sample
    two_threads: Sample


def kernel(repeats: int) -> Kernel:
    """The bare keystream, the same masked and added, and the latter with two threads."""
    masks, dimension = 128, 1_000_000
    total = 4 * masks * dimension
    keys, vector_D = [os.urandom(32) for _ in range(masks)], np.zeros(dimension, np.uint32)
    half = masks // 2
    taken = interleaved(
        {"keystream": lambda: keystream(total), "mask": lambda: prg.mask(vector_D, keys[:half], keys[half:])},
        repeats,
        time.process_time,
    )
    walls = interleaved(
        {
            "one": lambda: prg.mask(vector_D, keys[:half], keys[half:]),
            "two": lambda: prg.mask(vector_D, keys[:half], keys[half:], threads=2),
        },
        repeats,
    )
    return Kernel(
        Sample(total / taken["keystream"].values_R), taken["keystream"].over(taken["mask"]), walls["one"].over(walls["two"])
    )


def repeated(rounds: Callable[[], Played], repeats: int) -> tuple[list[Played], Sample]:
    """Several rounds, and the keystream rate (bytes a second) right before each."""
    played, rates = [], []
    for _ in range(repeats):
        begun = time.process_time()
        keystream(500_000_000)
        rates.append(500_000_000 / (time.process_time() - begun))
        gc.collect()
        played.append(rounds())
    return played, Sample(np.array(rates))


def over_keystream(seconds: Sequence[float], masks: Sequence[int], dimension: int, rate: Sample) -> Sample:
    """Seconds over the time that the bare keystream of so many masks takes."""
    return Sample(np.array(seconds) * rate.values_R / (4.0 * (dimension + 1) * np.array(masks)))


# --- the tables ---------------------------------------------------------------------------------------------------------


def named_figures(repeats: int, flat: Figures) -> None:
    """The figures that are held against targets."""
    found = kernel(3 * repeats)
    flat["keystream_gb_per_s"] = found.keystream.median / 1e9
    flat["mask_kernel_share_of_keystream"] = found.share.median
    flat["mask_kernel_share_of_keystream_iqr"] = found.share.spread
    flat["two_thread_speedup"] = found.two_threads.median
    dimension = 1_000_000
    sparse, rate = repeated(lambda: play_round(100, dimension, 0.1, SPARSE), repeats)
    _ratios(
        flat,
        "client_sparse",
        over_keystream([one.client for one in sparse], [one.masks_client for one in sparse], dimension, rate),
    )
    unmask = [one.server(Stage.UNMASKING) for one in sparse]
    _ratios(flat, "server_sparse", over_keystream(unmask, [one.masks_server for one in sparse], dimension, rate))
    flat["client_sparse_ms"] = 1e3 * float(np.median([one.client for one in sparse]))
    flat["server_sparse_unmask_ms"] = 1e3 * float(np.median(unmask))
    flat["upload_bytes_per_entry"] = sparse[0].bytes_up / dimension
    complete, rate = repeated(lambda: play_round(100, dimension, 0.1, COMPLETE, real=2), repeats)
    unmask = [one.server(Stage.UNMASKING) for one in complete]
    _ratios(flat, "server_complete", over_keystream(unmask, [one.masks_server for one in complete], dimension, rate))
    if _flower.installed():
        flower = _flower.measure(100, dimension, 10, 20, 11, sampled=3)
        flat["flower_client_ratio"] = 1e3 * flower.client / flat["client_sparse_ms"]
        flat["flower_server_ratio"] = 1e3 * flower.unmasking / flat["server_sparse_unmask_ms"]
    large, rate = repeated(lambda: play_round(1000, 100_000, 0.3, COMPLETE, real=1), 1)
    _ratios(flat, "server_1000_complete", over_keystream([large[0].server()], [large[0].masks_server], 100_000, rate))
    flat["server_1000_complete_s"] = large[0].server()


def _ratios(flat: Figures, name: str, sample: Sample) -> None:
    flat[f"{name}_over_keystream"], flat[f"{name}_over_keystream_iqr"] = sample.median, sample.spread


def processor() -> str:
    """Its name: some virtual cores share one AES unit, and two threads then gain little."""
    cores = Path("/proc/cpuinfo")
    lines = cores.read_text().splitlines() if cores.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def print_named(flat: Figures) -> None:
    """The named figures beside what they are to reach."""
    targets = {
        "mask_kernel_share_of_keystream": "≥ 0.75",
        "two_thread_speedup": "recorded",
        "client_sparse_over_keystream": "≤ 2.5",
        "server_sparse_over_keystream": "≤ 1.8",
        "server_complete_over_keystream": "≤ 1.5",
        "server_1000_complete_over_keystream": "≤ 3",
        "flower_client_ratio": "≥ 8",
        "flower_server_ratio": "≥ 30",
        "upload_bytes_per_entry": "≤ 4.1",
        "active_over_semi_honest.client": "chooses the default",
        "active_over_semi_honest.server": "chooses the default",
    }
    found = {name: f"{flat[name]:.3f}" if name in flat else "flwr is not installed" for name in targets}
    print_table(
        f"AES-256-CTR: {flat['keystream_gb_per_s']:.2f} GB/s on {processor()}. "
        "Server, 1,000 clients, complete, 100,000 entries, 30 % lost: "
        f"{flat['server_1000_complete_s']:.1f} s (Bonawitz et al. 2017: {PAPER_SECONDS:.0f} s, another machine)",
        {"measured": found, "to reach": targets},
    )


def stage_tables(flat: Figures) -> None:
    """Client and server by stage, in the form of Bonawitz et al. 2017, table 3."""
    for dimension in (100_000, 1_000_000):
        # The smallest numbers that withstand the dropouts and one corrupt client in twenty are computed.
        for policy in (COMPLETE, Policy(graph="sparse", adversary="semi_honest", max_corrupt=0.05)):
            columns: dict[str, dict[str, str]] = {}
            for clients in (100, 500, 1000):
                for dropped in (0.0, 0.1, 0.3):
                    try:
                        played = play_round(clients, dimension, dropped, policy, real=2)
                    except ThresholdError as error:
                        print(f"n = {clients}, {policy.graph}, {dropped:.0%}: {error}", file=sys.stderr)
                        continue
                    name = f"n{clients}_d{dimension}_{policy.graph}_{dropped * 100:.0f}"
                    flat |= {f"{name}_client_s": played.client, f"{name}_server_s": played.server()}
                    columns[f"{clients}, {dropped:.0%}"] = _column(played, dimension)
                    print(name, f"client {played.client:.3f} s, server {played.server():.3f} s", file=sys.stderr)
            print_table(f"{policy.graph}, {dimension:,} entries; ms of CPU (n, dropped)", columns)


def _column(played: Played, dimension: int) -> dict[str, str]:
    rows = {"k, t": f"{played.neighbours}, {played.threshold}"}
    for stage in played.meter.stages:
        rows[f"client {stage}"] = f"{1e3 * played.meter.mean(stage):,.1f}"
    rows["client in all"] = f"{1e3 * played.client:,.1f}"
    for stage in played.meter.stages:
        rows[f"server {stage}"] = f"{1e3 * played.server(stage):,.0f}"
    rows["server in all"] = f"{1e3 * played.server():,.0f}"
    rows["masks at the server"] = f"{played.masks_server:,}"
    rows["up, bytes an entry"] = f"{played.bytes_up / dimension:.3f}"
    # Against 16-bit inputs in the clear, as the paper counts, and against four bytes an entry.
    rows["expansion over 16 bits"] = f"{(played.bytes_up + played.bytes_down) / (2 * dimension):.2f}"
    rows["expansion over 32 bits"] = f"{(played.bytes_up + played.bytes_down) / (4 * dimension):.2f}"
    return rows


def growth(flat: Figures) -> None:
    """Whole simulated cohorts of real clients, sparse, 5 % dropped: time by n · k, and memory."""
    columns = {}
    for clients in (1000, 3000, 10_000):
        begun = time.process_time()
        played = play_round(
            clients, 100_000, 0.05, Policy(graph="sparse", adversary="semi_honest", max_corrupt=0.05), real=clients
        )
        seconds = time.process_time() - begun
        memory = peak_mib()
        flat |= {f"cohort_{clients}_s": seconds, f"cohort_{clients}_peak_mib": memory}
        columns[f"{clients:,}"] = {
            "k": f"{played.neighbours}",
            "CPU, s": f"{seconds:.1f}",
            "CPU / (n k), µs": f"{1e6 * seconds / (clients * played.neighbours):.1f}",
            "peak memory, MiB": f"{memory:,.0f}",
            "all vectors at once would be, MiB": f"{clients * 4e5 / 2**20:,.0f}",
        }
        print(f"{clients} clients: {seconds:.1f} s, {memory:.0f} MiB", file=sys.stderr)
    print_table("A simulated cohort, all clients real, sparse, 100,000 entries, 5 % dropped", columns)


# --- the cost of safety -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Before(Policy):
    """What could be asked for before there were floors: nobody corrupt among few, and half of the neighbours as a threshold."""

    def __post_init__(self) -> None:
        """Allow everything."""

    def corrupt(self, clients: int) -> int:
        """Rounded down."""
        return int(self.max_corrupt * clients + 1e-9)


@contextmanager
def without_tags() -> Iterator[None]:
    """Clients that neither make nor check tags of shares; the bytes of tags still travel, and are taken off by the caller."""
    with (
        patch.object(client_module, "tags", lambda *_: bytes(TAGS_BYTES)),
        patch.object(client_module, "check_dealt", lambda *_: None),
        patch.object(certificate, "_enough", lambda *_: True),
    ):
        yield


# Degree and threshold of a semi-honest round before 2t > k + 1 was asked for, by the number of clients; else complete.
_HALVES = {100: (22, 11), 1000: (52, 28)}
SAFETY = ("before", "semi-honest", "active")


def safe_round(which: str, clients: int, dimension: int) -> Played:
    """A round with a tenth lost: semi-honest as it was before floors and tags, semi-honest now, and the default."""
    real = None if clients <= 10 else 2
    if which == "active":
        return play_round(clients, dimension, 0.1, Policy(), real=real)
    if which == "semi-honest":
        return play_round(clients, dimension, 0.1, Policy(adversary="semi_honest"), real=real)
    neighbours, threshold = _HALVES.get(clients, (None, None))
    policy = Before(adversary="semi_honest", neighbours=neighbours, threshold=threshold)
    with without_tags():
        played = play_round(clients, dimension, 0.1, policy, real=real)
    alive = clients - int(0.1 * clients)
    up, down = (TAGS_BYTES * (played.neighbours + own) * clients / alive for own in (1, 0))
    return replace(played, bytes_up=played.bytes_up - up, bytes_down=played.bytes_down - down)


def safety(flat: Figures, repeats: int, sizes: Sequence[int] = (10, 100, 1000), dimension: int = 100_000) -> None:
    """Client and server seconds and bytes, each way in turn, so that a slow moment of the machine hits all of them."""
    columns: dict[str, dict[str, str]] = {}
    for clients in sizes:
        found: dict[str, list[Played]] = {which: [] for which in SAFETY}
        for _ in range(repeats if clients < 1000 else 1):
            for which, rounds in found.items():
                rounds.append(safe_round(which, clients, dimension))
        medians = {
            which: (
                float(np.median([one.client for one in rounds])),
                float(np.median([one.server() for one in rounds])),
                rounds[0].bytes_up,
                rounds[0].bytes_down,
            )
            for which, rounds in found.items()
        }
        for which, (client, server, up, down) in medians.items():
            name = f"safety_n{clients}_{which.replace('-', '_')}"
            flat |= {f"{name}_client_s": client, f"{name}_server_s": server, f"{name}_up_bytes": up, f"{name}_down_bytes": down}
            numbers = found[which][0]
            columns[f"{clients}, {which}"] = {
                "k, t": f"{numbers.neighbours}, {numbers.threshold}",
                "client, ms": f"{1e3 * client:.2f}",
                "server, ms": f"{1e3 * server:.1f}",
                "up, bytes a client beside its words": f"{up - 4 * (dimension + 1):,.0f}",
                "down, bytes a client": f"{down:,.0f}",
            }
        for end, place in (("client", 0), ("server", 1)):
            ratio = medians["active"][place] / medians["semi-honest"][place]
            flat[f"active_over_semi_honest.{end}_n{clients}"] = ratio
            if clients == NAMED_SAFETY:
                flat[f"active_over_semi_honest.{end}"] = ratio
    print_table(f"The cost of safety: {dimension:,} entries, a tenth lost; CPU (n, which)", columns)


# The cohort of the shipped configurations.
NAMED_SAFETY = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then print or write."""
    chosen = options("How close to the machine's limit is secure aggregation?", argv)
    flat: Figures = {}
    named_figures(1 if chosen.quick else 5, flat)
    safety(flat, 3 if chosen.quick else 15, (10, 100) if chosen.quick else (10, 100, 1000))
    if not chosen.quick:
        growth(flat)
        stage_tables(flat)
    if chosen.json is not None:
        write_json(chosen.json, flat)
    else:
        print_named(flat)
    return 0


if __name__ == "__main__":
    sys.exit(main())
