"""The processes that carry out one run together, as ``torchrun`` starts them; most runs have one.

The first process has the run folder, the server and its noise. The others wait for its orders, train their share of each
cohort, and hand in. Values cross between them in the methods of :class:`Processes` alone, which every process must
call in the same order.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from privfl.errors import ConfigError, ProcessError, first_line

T = TypeVar("T")

_THREADS = "OMP_NUM_THREADS"
"""Who starts several processes on a machine says so to each of them; torchrun does."""

_PATIENCE = timedelta(hours=2)
"""How long a process waits for another one that neither answers nor dies."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many threads this process was given for work that may be spread over threads: all its cores, if nobody said."""
    told = os.environ.get(_THREADS, "")
    return max(1, int(told)) if told.isdecimal() else cores()


def device_named(name: str) -> torch.device:
    """The device that this process computes on: ``cpu``, ``cuda``, or with ``auto`` the GPU if there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device = 'cuda': PyTorch finds no GPU here; use 'cpu' or 'auto' (`privfl doctor` shows what it finds)"
        )
    return torch.device(name)


def share_of_threads(processes: int) -> dict[str, str]:
    """The variables to add to each of so many processes' environment, so that together they have this one's threads."""
    return {_THREADS: str(max(1, threads() // processes))}


class Processes(ABC):
    """The contract.

    Args:
        rank: this process' number, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this process has the run folder and the server."""
        return self.rank == 0

    @abstractmethod
    def broadcast(self, value: T | None = None) -> T:
        """Give the first process' value to all."""

    @abstractmethod
    def broadcast_vector(self, vector_D: Tensor) -> Tensor:
        """The same for a vector, written over what the others gave."""

    @abstractmethod
    def all_gather(self, value: T) -> list[T]:
        """Give the values of all processes, by rank, to all."""

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """Give the values of all processes, by rank, to the first alone; an empty list to the others."""

    @abstractmethod
    def all_reduce_max(self, value: float) -> float:
        """The largest of everybody's numbers."""

    @abstractmethod
    def all_reduce_sum(self, words_D: Tensor) -> Tensor:
        """The sum of everybody's integers: exact, and so the same in whatever order they are added."""


class Alone(Processes):
    """One process."""

    rank, size = 0, 1

    def broadcast(self, value: T | None = None) -> T:
        """See the contract."""
        return value  # type: ignore[return-value]

    def broadcast_vector(self, vector_D: Tensor) -> Tensor:
        """See the contract."""
        return vector_D

    def all_gather(self, value: T) -> list[T]:
        """See the contract."""
        return [value]

    def gather(self, value: T) -> list[T]:
        """See the contract."""
        return [value]

    def all_reduce_max(self, value: float) -> float:
        """See the contract."""
        return value

    def all_reduce_sum(self, words_D: Tensor) -> Tensor:
        """See the contract."""
        return words_D


ALONE = Alone()
"""The processes of a run that was not started by torchrun."""


class TorchDistributed(Processes):
    """The processes of ``torch.distributed``; its process group must have been begun."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def broadcast(self, value: T | None = None) -> T:
        """See the contract."""
        shared: list[Any] = [value]
        with self._whole():
            torch.distributed.broadcast_object_list(shared, src=0)
        found: T = shared[0]
        return found

    def broadcast_vector(self, vector_D: Tensor) -> Tensor:
        """See the contract."""
        with self._whole():
            torch.distributed.broadcast(vector_D, src=0)
        return vector_D

    def all_gather(self, value: T) -> list[T]:
        """See the contract."""
        gathered: list[Any] = [None] * self.size
        with self._whole():
            torch.distributed.all_gather_object(gathered, value)
        return gathered

    def gather(self, value: T) -> list[T]:
        """See the contract."""
        gathered: list[Any] | None = [None] * self.size if self.first else None
        with self._whole():
            torch.distributed.gather_object(value, gathered, dst=0)
        return gathered or []

    def all_reduce_max(self, value: float) -> float:
        """See the contract."""
        found = torch.tensor(value, dtype=torch.float64)
        with self._whole():
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return float(found)

    def all_reduce_sum(self, words_D: Tensor) -> Tensor:
        """See the contract."""
        with self._whole():
            torch.distributed.all_reduce(words_D)
        return words_D

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Say in one line that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            why = first_line(error)
            raise ProcessError(
                f"process {self.rank} of {self.size} lost the others ({why[:200]}); what is finished is kept: start the run "
                "again with --resume"
            ) from None


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or this one alone.

    Objects and integers travel by gloo, vectors on a GPU by nccl, or by gloo if processes have to share one. Each process
    takes the GPU of its local rank.

    Raises:
        ConfigError: the launcher's variables are not those of torchrun.
        ProcessError: the others were not found.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or not int(size):
        raise ConfigError(f"WORLD_SIZE = {size!r}: must be how many processes torchrun started; unset it to run one alone")
    if int(size) == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE = {size}, but {', '.join(missing)} is not set; "
            "start by `torchrun --nproc-per-node N -m privfl run ...`, or unset WORLD_SIZE"
        )
    cards = torch.cuda.device_count()
    if cards:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % cards)
    # Nccl refuses two processes on one card.
    alone = cards >= int(os.environ.get("LOCAL_WORLD_SIZE", size)) > 0
    try:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if alone else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"the other processes were not found ({first_line(error)}); start all again") from None
    try:
        yield TorchDistributed()
    finally:
        torch.distributed.destroy_process_group()
