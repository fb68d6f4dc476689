"""What each adversary sees; the only door that attacks have.

==================  ==============================================================================================
adversary           sees
==================  ==============================================================================================
external            the final model
client              every global model, before and after each round (and its own data)
server              also who took part and whose updates arrived, and what the aggregator let it see: else each client's
                    update, under secure aggregation sums, and all that clients sent on the way to them (public keys, sizes of
                    sealed boxes, masked vectors, revealed shares)
malicious_server    also chooses the models it sends; no run has one yet
==================  ==============================================================================================

A round's view is one safetensors file in ``views/``. Under secure aggregation no update of a single client is ever
written, so no attack can read one, not even by mistake. What clients sent is in ``transcripts/``, a file for each attempt
at a round; its keys and masks are fresh in every run, so that it is no part of what a seed repeats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, tensor

from privfl.adversaries import Adversary
from privfl.errors import RunFolderError, ViewError
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


@dataclass(frozen=True)
class ExternalView:
    """What whoever is given the final model sees of the run in ``folder``."""

    folder: RunFolder
    layout: Layout

    def final_model(self) -> Tensor:
        """The final model, a vector of length D.

        Raises:
            ViewError: the run has not finished.
        """
        path = self.folder.path / "model.safetensors"
        if not path.is_file():
            raise ViewError(f"{self.folder.path}: has no final model yet; finish the run with --resume")
        # Beside what was trained it has the model's constants.
        return self.layout.flatten({name: value for name, value in _tensors(path).items() if name in self.layout.names})


@dataclass(frozen=True)
class ClientView(ExternalView):
    """What a client sees that takes part in the run, beside its own data."""

    def model_before(self, round_number: int) -> Tensor:
        """The global model that round began with, a vector of length D.

        Raises:
            ViewError: the run kept no such view.
        """
        return self._round(round_number)["model_D"]

    def _round(self, round_number: int) -> dict[str, Tensor]:
        path = _round_path(self.folder.path, round_number)
        if not path.is_file():
            raise ViewError(f"{self.folder.path}: kept no view of round {round_number}; run it with records.views = 'all'")
        return _tensors(path)


@dataclass(frozen=True)
class ServerView(ClientView):
    """What the server sees that does what the protocol says and looks at everything it gets."""

    def participants(self, round_number: int) -> list[int]:
        """The clients that took part in that round."""
        return [int(client) for client in self._round(round_number)["participants_K"]]

    def survivors(self, round_number: int) -> list[int]:
        """The clients whose updates arrived and are in the sum of that round."""
        return [int(client) for client in self._round(round_number)["survivors_K"]]

    def transcripts(self, round_number: int) -> list[dict[str, Tensor]]:
        """All that clients sent under secure aggregation, by name (:mod:`privfl.secagg.transcript`), attempt by attempt.

        Raises:
            ViewError: the run kept none.
        """
        paths = list(takewhile(Path.exists, _transcript_paths(self.folder.path, round_number)))
        if not paths:
            raise ViewError(
                f"{self.folder.path}: kept no transcript of round {round_number}; run it with aggregator.kind = 'secure_sum' "
                "and records.views = 'all'"
            )
        return [_tensors(path) for path in paths]

    def sums(self, round_number: int) -> tuple[Tensor, float]:
        """The sum of the weighted updates, a vector of length D, and the sum of the weights.

        Raises:
            ViewError: nobody took part.
        """
        seen = self._round(round_number)
        if "updates_KD" in seen:
            return seen["weights_K"] @ seen["updates_KD"], float(seen["weights_K"].sum())
        if "sum_D" not in seen:
            raise ViewError(f"round {round_number}: nobody's update arrived; the server saw nothing of it")
        return seen["sum_D"], float(seen["weight_sum"])

    def count(self, round_number: int) -> float:
        """How many more updates were within a norm that adapts than were not, halved, as the server learned it.

        Raises:
            ViewError: nothing was counted: the norm was fixed, or nobody took part.
        """
        seen = self._round(round_number)
        if "counts_K" in seen:
            return float(seen["counts_K"].double().sum())
        if "count" not in seen:
            raise ViewError(f"round {round_number}: nothing was counted; the norm was fixed, or nobody took part")
        return float(seen["count"])

    def updates(self, round_number: int) -> tuple[Tensor, Tensor]:
        """Each participant's update (K, D) and weight (K,), in the order of :meth:`participants`.

        Raises:
            ViewError: secure aggregation hid them, or nobody took part.
        """
        seen = self._round(round_number)
        if "sum_D" in seen:
            raise ViewError(
                f"round {round_number}: under secure aggregation the server sees sums only; "
                "attack the sum, or run with aggregator.kind = 'mean'"
            )
        if "updates_KD" not in seen:
            raise ViewError(f"round {round_number}: nobody's update arrived; the server saw nothing of it")
        return seen["updates_KD"], seen["weights_K"]


View = TypeVar("View", bound=ExternalView)
_VIEWS: dict[Adversary, type[ExternalView]] = {"external": ExternalView, "client": ClientView, "server": ServerView}


def open_view(folder: RunFolder | Path | str, adversary: Adversary, layout: Layout) -> ExternalView:
    """The view of that adversary on a run.

    Args:
        folder: the run, or where it lies.
        adversary: whose view.
        layout: names and shapes of the model's parameters.

    Raises:
        ViewError: no such adversary was part of the run.
    """
    if adversary not in _VIEWS:
        raise ViewError(
            f"adversary {adversary!r}: had no part in this run, whose server was honest; allowed: {', '.join(_VIEWS)}"
        )
    return _VIEWS[adversary](RunFolder.of(folder), layout)


def observe(
    folder: RunFolder,
    round_number: int,
    model_D: Tensor,
    participants: Sequence[int],
    survivors: Sequence[int],
    seen: dict[str, Tensor],
) -> None:
    """Write down what could be seen of one round.

    Args:
        folder: the run.
        round_number: from 0.
        model_D: the global model that the round began with.
        participants: the clients that took part.
        survivors: those of them whose updates are in the result.
        seen: what the aggregator let the server see, by name.
    """
    who = {"participants_K": tensor(list(participants)), "survivors_K": tensor(list(survivors))}
    _write(_round_path(folder.path, round_number), {"model_D": model_D, **who, **seen})


def observe_transcripts(folder: RunFolder, round_number: int, transcripts: Sequence[dict[str, Tensor]]) -> None:
    """Write down all that clients sent in one round, attempt by attempt, in place of what a run that broke off left of it."""
    paths = _transcript_paths(folder.path, round_number)
    # From the last on: were it to break off again, the first would still lead to those that are left.
    for left in reversed(list(takewhile(Path.exists, paths))):
        left.unlink()
    for path, sent in zip(_transcript_paths(folder.path, round_number), transcripts, strict=False):
        write_atomic(path, _pieces({name: sent[name].contiguous() for name in sent}))


def _transcript_paths(folder: Path, round_number: int) -> Iterator[Path]:
    """Attempt by attempt, without end. To search the folder would take longer with every round."""
    return (folder / "transcripts" / f"round_{round_number:05d}_{attempt}.safetensors" for attempt in count())


def _pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file, piece by piece: its own writer would have a copy of every tensor in memory.

    Source: the format's description, https://github.com/huggingface/safetensors: length of the header u64, a header in JSON,
    all tensors without gaps. The largest words come first, so that all of them are aligned.
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
        # NumPy's view of no entries at all cannot be cast.
        octets = tensors[name].numpy().reshape(-1).view("u1").data if tensors[name].nbytes else memoryview(b"")
        for start in range(0, len(octets), _PIECE):
            yield octets[start : start + _PIECE]


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save_tensors(contiguous))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path.read_bytes())
    except SafetensorError as error:
        raise RunFolderError(f"{path}: is damaged ({error}); run its config.toml again") from None


def _round_path(folder: Path, round_number: int) -> Path:
    return folder / "views" / f"round_{round_number:05d}.safetensors"
