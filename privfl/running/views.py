"""Views: the parts of a run that each adversary sees. Attacks have no other access to a run.

==================  ==============================================================================================
adversary           sees
==================  ==============================================================================================
external            the final model
recipient           also the model of its own of each client, as if every client published it
client              every global model, before and after each round (and its own data)
server              also the participants, the survivors, and the values that the aggregator reveals. In the clear
                    these are the clients' updates. Under secure aggregation they are sums, and all messages that
                    clients sent (public keys, sizes of sealed boxes, masked vectors, revealed shares)
malicious_server    also the answers to models of its choice, in rounds after the last one of the run
                    (:mod:`privfl.running.orders`)
==================  ==============================================================================================

A round's view is one safetensors file in ``views/``. Under secure aggregation no update of a single client is ever written, so
no attack can read one, not even by mistake. Messages of clients are in ``transcripts/``, one file for each attempt at a round.
Their keys and masks are fresh in every run, so the same seed does not repeat them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, tensor

from privfl.adversaries import Adversary
from privfl.errors import RunFolderError, ViewError
from privfl.running.orders import Answer
from privfl.running.run_folder import RunFolder
from privfl.storage import write_atomic
from privfl.vectors import Layout

# As safetensors calls them.
_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint8: "U8",
}
_PIECE = 2**20

PERSONAL = "personal.safetensors"
"""The clients' own models at the end of the run."""


class _File:
    """One file of named tensors, mapped into memory; a tensor is copied when it is read. The object does not know its path."""

    def __init__(self, path: Path) -> None:
        # A damaged file is an error only for a caller that reads it.
        self._damage = f"{path.name}: is damaged"
        try:
            self._tensors: Any = safe_open(path, framework="pt")
        except SafetensorError as error:
            self._tensors, self._damage = None, f"{self._damage} ({error}); run the config.toml of its folder again"

    def __contains__(self, name: str) -> bool:
        return name in self._names()

    def __getitem__(self, name: str) -> Tensor:
        self._names()
        found: Tensor = self._tensors.get_tensor(name)
        return found.clone()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: self[name] for name in self._names()}

    def _names(self) -> list[str]:
        if self._tensors is None:
            raise RunFolderError(self._damage)
        names: list[str] = self._tensors.keys()
        return names


def _opened(path: Path) -> _File | None:
    return _File(path) if path.is_file() else None


def _numbered(folder: Path) -> dict[int, list[_File]]:
    """The files ``round_NUMBER.safetensors`` or ``round_NUMBER_ATTEMPT.safetensors`` by round, in the order of the attempts."""
    found: dict[int, list[_File]] = {}
    for path in sorted(folder.glob("round_*.safetensors"), key=_place):
        found.setdefault(_place(path)[0], []).append(_File(path))
    return found


def _place(path: Path) -> tuple[int, ...]:
    return tuple(map(int, path.stem.removeprefix("round_").split("_")))


class _AdversaryFiles:
    """The opened files of one run that an adversary may read; no path or folder can be reached from it.

    Files are mapped into memory, and a tensor is copied when it is read, so a view of many rounds takes no memory.
    """

    def __init__(self, folder: RunFolder, adversary: Adversary) -> None:
        self.rounds_read: set[int] = set()
        self._model = _opened(folder.path / "model.safetensors")
        self._personal = _opened(folder.path / PERSONAL) if adversary == "recipient" else None
        self._rounds = _numbered(folder.path / "views") if adversary not in ("external", "recipient") else {}
        is_server = adversary in ("server", "malicious_server")
        self._transcripts = _numbered(folder.path / "transcripts") if is_server else {}

    def model(self) -> dict[str, Tensor]:
        """The final model's tensors by name.

        Raises:
            ViewError: the run has not finished.
        """
        if self._model is None:
            raise ViewError("the run has no final model yet; finish the run with --resume")
        return self._model.tensors()

    def personal(self) -> dict[str, Tensor]:
        """The clients' own models, and whose they are.

        Raises:
            ViewError: the run has none.
        """
        if self._personal is None:
            raise ViewError(
                "the run kept no models of the clients' own; run it with an algorithm that has some, such as 'ditto'"
            )
        return self._personal.tensors()

    def round(self, number: int) -> _File:
        """The file of that round.

        Raises:
            ViewError: the run kept no such view.
        """
        if number not in self._rounds:
            raise ViewError(f"the run kept no view of round {number}; run it with records.views = 'sums'")
        self.rounds_read.add(number)
        return self._rounds[number][0]

    def rounds(self) -> tuple[int, ...]:
        """The rounds whose views were kept."""
        return tuple(sorted(self._rounds))

    def transcripts(self, number: int) -> list[dict[str, Tensor]]:
        """All messages that clients sent in that round, one dictionary per attempt.

        Raises:
            ViewError: the run kept none.
        """
        if number not in self._transcripts:
            raise ViewError(
                f"the run kept no transcript of round {number}; run it with aggregator.kind = 'secure_sum' "
                "and records.views = 'all'"
            )
        self.rounds_read.add(number)
        return [one.tensors() for one in self._transcripts[number]]


@dataclass(frozen=True, eq=False, repr=False)
class ExternalView:
    """The view of an external adversary: the final model.

    A view returns tensors and numbers. It does not lead to the run folder, which holds the truth about the members, and its
    errors do not name the folder.
    """

    layout: Layout
    _kept: _AdversaryFiles

    def final_model(self) -> Tensor:
        """The final model, a vector of length D.

        Raises:
            ViewError: the run has not finished.
        """
        # The file also holds the model's constants.
        named = self._kept.model()
        return self.layout.flatten({name: value for name, value in named.items() if name in self.layout.names})

    def rounds_read(self) -> tuple[int, ...]:
        """The rounds that were read so far, in order; empty if only the final model was."""
        return tuple(sorted(self._kept.rounds_read))


@dataclass(frozen=True, eq=False, repr=False)
class RecipientView(ExternalView):
    """The view of someone to whom every client publishes its own model."""

    def personal_models(self) -> dict[int, Tensor]:
        """Each client's own model at the end of the run, a vector of length D, by client.

        Raises:
            ViewError: the run's algorithm has none.
        """
        found = self._kept.personal()
        return dict(zip(found["clients_K"].tolist(), found["models_KD"], strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class ClientView(ExternalView):
    """The view of a client that takes part in the run: the global models, beside its own data."""

    def rounds(self) -> tuple[int, ...]:
        """The rounds of which the run kept views, in order."""
        return self._kept.rounds()

    def model_before(self, round_number: int) -> Tensor:
        """The global model at the beginning of that round, a vector of length D.

        Raises:
            ViewError: the run kept no such view.
        """
        return self._kept.round(round_number)["model_D"]


@dataclass(frozen=True, eq=False, repr=False)
class ServerView(ClientView):
    """The view of a server that follows the protocol and looks at everything that it receives."""

    def participants(self, round_number: int) -> list[int]:
        """The clients that took part in that round."""
        return [int(client) for client in self._kept.round(round_number)["participants_K"]]

    def survivors(self, round_number: int) -> list[int]:
        """The clients whose updates arrived and are in the sum of that round."""
        return [int(client) for client in self._kept.round(round_number)["survivors_K"]]

    def transcripts(self, round_number: int) -> list[dict[str, Tensor]]:
        """All messages of clients under secure aggregation by name, attempt by attempt (:mod:`privfl.secagg.transcript`).

        Raises:
            ViewError: the run kept none.
        """
        return self._kept.transcripts(round_number)

    def sums(self, round_number: int) -> tuple[Tensor, float]:
        """The sum of the weighted updates, a vector of length D, and the sum of the weights.

        Raises:
            ViewError: nobody took part.
        """
        seen = self._kept.round(round_number)
        if "updates_KD" in seen:
            weights_K = seen["weights_K"]
            return weights_K @ seen["updates_KD"], float(weights_K.sum())
        if "sum_D" not in seen:
            raise ViewError(f"round {round_number}: nobody's update arrived; the server saw nothing of it")
        return seen["sum_D"], float(seen["weight_sum"])

    def count(self, round_number: int) -> float:
        """The count of an adaptive norm, as the server learned it: half of (updates within the norm minus updates beyond it).

        Raises:
            ViewError: nothing was counted, because the norm was fixed or nobody took part.
        """
        seen = self._kept.round(round_number)
        if "counts_K" in seen:
            return float(seen["counts_K"].double().sum())
        if "count" not in seen:
            raise ViewError(f"round {round_number}: nothing was counted; the norm was fixed, or nobody took part")
        return float(seen["count"])

    def updates(self, round_number: int) -> tuple[Tensor, Tensor]:
        """Each survivor's update (K, D) and weight (K,), in the order of :meth:`survivors`.

        Raises:
            ViewError: secure aggregation hid them, or nobody took part.
        """
        seen = self._kept.round(round_number)
        if "sum_D" in seen:
            raise ViewError(
                f"round {round_number}: under secure aggregation the server sees sums only; "
                "attack the sum, or run with aggregator.kind = 'mean'"
            )
        if "updates_KD" not in seen:
            raise ViewError(f"round {round_number}: nobody's update arrived; the server saw nothing of it")
        return seen["updates_KD"], seen["weights_K"]


@dataclass(frozen=True, eq=False, repr=False)
class MaliciousServerView(ServerView):
    """The view of a server that goes on when the run is over, and sends its clients models of its choice.

    Args:
        cohorts: who takes part in each of the rounds that it may ask for, which a server knows before it sends anything.
        answers: its view of the rounds that it asked for.
        hides_updates: whether the aggregator shows it sums only.
    """

    cohorts: tuple[tuple[int, ...], ...] = ()
    answers: tuple[Answer, ...] = ()
    hides_updates: bool = False


View = ExternalView
"""The view of any adversary. Every other view includes the external one."""

VIEWS: Mapping[Adversary, type[ExternalView]] = {
    "external": ExternalView,
    "recipient": RecipientView,
    "client": ClientView,
    "server": ServerView,
    "malicious_server": MaliciousServerView,
}


def open_view(folder: RunFolder | Path | str, adversary: Adversary, layout: Layout) -> ExternalView:
    """Open an adversary's view of a run.

    Args:
        folder: the run or its path.
        adversary: the adversary.
        layout: names and shapes of the model's parameters.

    Raises:
        ViewError: the run had no such adversary.
    """
    if adversary not in VIEWS:
        raise ViewError(f"adversary {adversary!r}: has no part in a run; allowed: {', '.join(VIEWS)}")
    return VIEWS[adversary](layout, _AdversaryFiles(RunFolder.of(folder), adversary))


def observe_personal(folder: RunFolder, models: Mapping[int, Tensor]) -> None:
    """Write the clients' own models at the end of a run, one row for each client that has one."""
    if models:
        stacked = {"clients_K": tensor(list(models)), "models_KD": torch.stack([*models.values()])}
        _write(folder.path / PERSONAL, stacked)


def observe(
    folder: RunFolder,
    round_number: int,
    model_D: Tensor,
    participants: Sequence[int],
    survivors: Sequence[int],
    seen: dict[str, Tensor],
) -> None:
    """Write the view of one round.

    Args:
        folder: the run.
        round_number: from 0.
        model_D: the global model at the beginning of the round.
        participants: the clients that took part.
        survivors: those of them whose updates are in the result.
        seen: the values that the server saw during aggregation, by name.
    """
    who = {"participants_K": tensor(list(participants)), "survivors_K": tensor(list(survivors))}
    _write(_round_path(folder.path, round_number), {"model_D": model_D, **who, **seen})


def observe_transcripts(folder: RunFolder, round_number: int, transcripts: Sequence[dict[str, Tensor]]) -> None:
    """Write all messages of clients in one round, one file per attempt. Files of an earlier, unfinished try are replaced."""
    paths = _transcript_paths(folder.path, round_number)
    # The last file goes first: if this breaks off, the remaining files are still numbered without a gap and will be found.
    for left in reversed(list(takewhile(Path.exists, paths))):
        left.unlink()
    for path, sent in zip(_transcript_paths(folder.path, round_number), transcripts, strict=False):
        write_atomic(path, _pieces({name: sent[name].contiguous() for name in sent}))


def _transcript_paths(folder: Path, round_number: int) -> Iterator[Path]:
    """An endless sequence of paths, one per attempt. Searching the folder would take longer with every round."""
    return (folder / "transcripts" / f"round_{round_number:05d}_{attempt}.safetensors" for attempt in count())


def _pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece; the library's own writer would copy every tensor in memory.

    Source: the format's description, https://github.com/huggingface/safetensors. A file is the header's length as u64, a JSON
    header, and all tensors without gaps. Tensors with the largest words come first, so that all are aligned.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header, at = dict[str, object](), 0
    for name in order:
        one = tensors[name]
        header[name] = {"dtype": _KINDS[one.dtype], "shape": list(one.shape), "data_offsets": [at, at + one.nbytes]}
        at += one.nbytes
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    yield len(described).to_bytes(8, "little") + described
    for name in order:
        # NumPy cannot cast the view of an empty array.
        octets = tensors[name].numpy().reshape(-1).view("u1").data if tensors[name].nbytes else memoryview(b"")
        for start in range(0, len(octets), _PIECE):
            yield octets[start : start + _PIECE]


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save_tensors(contiguous))


def _round_path(folder: Path, round_number: int) -> Path:
    return folder / "views" / f"round_{round_number:05d}.safetensors"
