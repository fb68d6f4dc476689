"""State of a cohort in training, one row for each client, and the addition of a piece of a step to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from privfl.config import TrainingConfig
from privfl.data.input_store import InputStore
from privfl.learning.optimizers import optimizer_of
from privfl.learning.training import LocalTask, LocalWork
from privfl.learning.training._conversion import CohortModel
from privfl.learning.training._guards import STEPS, moved, require_apart, require_own_loss, wave
from privfl.learning.training._passes import Clipping, clip_factors, run_pass
from privfl.learning.training._pieces import Piece
from privfl.learning.training._planted import planted_records
from privfl.learning.training._precision import float32_products
from privfl.learning.training._rules import Record, Runs, Sums
from privfl.learning.training._rules.products import without
from privfl.learning.training._work import CohortWork
from privfl.vectors import Layout

_ALIGNED = 32
"""Alignment of a client's row, in numbers: matrices that begin anywhere else are read more slowly (measured)."""


class CohortState:
    """Weights, gradient sums and optimizers' states of K clients.

    The memory is kept from one cohort to the next: to be given fresh pages for every round costs as much as an epoch of a
    small model.
    """

    def __init__(self, layout: Layout, config: TrainingConfig) -> None:
        self.layout, self.config, self.optimizer = layout, config, optimizer_of(config)
        self.numels = [math.prod(shape) for shape in layout.shapes]
        self._memory: dict[str, Tensor] = {}
        self.global_D = torch.empty(0)

    def begin(self, global_D: Tensor, works: Sequence[LocalWork]) -> None:
        """Put each client at its work's start, with a fresh optimizer."""
        self.global_D, clients = global_D, len(works)
        self.work = CohortWork(works, global_D, self.rows)
        self.start_KD = global_D if self.work.start_KD is None else self.work.start_KD
        self.weights_KD, self.sums_KD = (self.rows(name, clients) for name in ("weights", "sums"))
        self.weights_KD.copy_(self.start_KD.expand_as(self.weights_KD))
        self.slots = {name: self.rows(f"slot {name}", clients).zero_() for name in self.optimizer.slots(self.config)}
        self.plain = self.work.plain and self.config.max_grad_norm is None and self.optimizer.plain(self.config)
        """Whether a step is w - lr · g and nothing else."""

    def rows(self, name: str, clients: int) -> Tensor:
        """Memory of that name, shape (clients, D), with its old contents."""
        wanted = (self.global_D.dtype, self.global_D.device)
        kept = self._memory.get(name)
        if kept is None or len(kept) < clients or (kept.dtype, kept.device) != wanted:
            width = -(-self.layout.size // _ALIGNED) * _ALIGNED
            kept = self._memory[name] = torch.empty(clients, width, dtype=wanted[0], device=wanted[1])
        return kept[:clients, : self.layout.size]

    def named(self, stacked_KD: Tensor) -> dict[str, Tensor]:
        """(K, D) -> views of shape (K, *shape), by the parameters' names."""
        parts = torch.split(stacked_KD, self.numels, dim=1)
        return {
            name: part.view(len(part), *shape)
            for name, part, shape in zip(self.layout.names, parts, self.layout.shapes, strict=True)
        }

    def step(self, gradients_KD: Tensor, rates: Sequence[float], taken: int, divisors_K1: Tensor | None = None) -> None:
        """One step of the optimizer for the first so many clients. ``gradients_KD`` is used up.

        Decay, drift and pull need no data: if noise was added, they come after it.

        Args:
            gradients_KD: gradients, or sums of them.
            rates: each client's learning rate.
            taken: how many steps were taken before.
            divisors_K1: the divisors that make gradients of the sums.
        """
        weights_KD = self.weights_KD[: len(gradients_KD)]
        if divisors_K1 is not None:
            if self.plain:
                for rows, rate in alike(rates):
                    weights_KD[rows].addcdiv_(gradients_KD[rows], divisors_K1[rows], value=-rate)
                return
            gradients_KD.div_(divisors_K1)
        if self.config.max_grad_norm is not None:
            norms_K1 = torch.linalg.vector_norm(gradients_KD, dim=1, keepdim=True)
            gradients_KD.mul_((self.config.max_grad_norm / (norms_K1 + 1e-6)).clamp(max=1.0))
        self.work.add_to(gradients_KD, weights_KD)
        for rows, rate in alike(rates):
            slots = {name: slot_KD[rows] for name, slot_KD in self.slots.items()}
            self.optimizer.step(self.config, weights_KD[rows], gradients_KD[rows], slots, rate, taken)
        self.work.put_back(weights_KD)

    def deltas(self) -> Tensor:
        """The updates, shape (K, D), in memory of their own."""
        return self.weights_KD - self.start_KD


def alike(rates: Sequence[float]) -> Iterator[tuple[slice, float]]:
    """Slices of neighbours with the same learning rate: mostly one."""
    first = 0
    for rate, group in groupby(rates):
        last = first + len(list(group))
        yield slice(first, last), rate
        first = last


class Pieces:
    """Adds pieces of a step to the state's gradient sums, and counts losses and clipped gradients.

    Args:
        model: the cohort's model.
        state: begun for these tasks.
        tasks: one for each client.
        clipping: the clipping of each example's gradient; None: gradients of the mean loss, unclipped.
        config: says how exact the model's products are. Norms and sums are float32 always.
    """

    def __init__(
        self,
        model: CohortModel,
        state: CohortState,
        tasks: Sequence[LocalTask],
        clipping: Clipping | None,
        config: TrainingConfig,
    ) -> None:
        self.precision: Literal["high", "highest"] = "high" if config.precision == "tf32" else "highest"
        self.model, self.clipping = model, clipping
        self.seeds, self._tasks, self._layout = [task.seed for task in tasks], tasks, (state.layout.names, state.numels)
        self._plants = any(task.planted is not None for task in tasks)
        self.x, self.y, self.rows = _pooled(tasks)
        self.weights, self.sums = state.named(state.weights_KD), state.named(state.sums_KD)
        self.device = state.weights_KD.device
        self.padded = pads(self.device)
        self.losses_K = torch.zeros(len(tasks), dtype=torch.float64, device=self.device)
        self.clipped_K = torch.zeros(len(tasks), dtype=torch.int64, device=self.device)
        self.zeroed_K = torch.zeros(len(tasks), dtype=torch.int64, device=self.device)
        self._layers = [(seed / "layers").torch(self.device) for seed in self.seeds] if model.draws else []

    def accumulate(self, piece: Piece, batches: Sequence[Tensor], *, straight: float | None = None) -> None:
        """Add the clipped sum, or the mean, of a piece's gradients to the sums of its clients.

        ``straight``: step by the mean at once, w - lr · g, with this learning rate. The piece must hold whole batches.
        """
        if not any(piece.sizes):
            return
        clients = slice(piece.first, piece.first + len(piece.spans))
        runs = Runs((max(piece.sizes),) * len(piece.sizes) if self.padded else piece.sizes)
        x, y, counts_N = self._examples(piece, runs, batches)
        client_N = runs.clients(self.device)
        weights, sums = ({name: value[clients] for name, value in all_K.items()} for all_K in (self.weights, self.sums))
        share_N = None
        if self.clipping is None:
            shares_K = torch.tensor([1 / max(len(batch), 1) for batch in batches[clients]], dtype=self.losses_K.dtype)
            share_N = sent(shares_K, self.device)[client_N]
            share_N = share_N if counts_N is None else share_N * counts_N
        with float32_products(self.precision):
            losses_N, tape = run_pass(self.model, weights, runs, x, y, share_N, self._layers[clients])
        with torch.no_grad():
            if self._plants:
                tape = self._planted(piece, runs, batches, tape)
            factors: Sequence[Tensor | float] = [1.0 if straight is None else -straight] * len(tape)
            if self.clipping is not None:
                exact_LN, clipped_N, finite_N = clip_factors(tape, self.clipping)
                # An example that overflows has no gradient to give, and no loss to report.
                losses_N = losses_N.nan_to_num(0.0, 0.0, 0.0)
                of_group = {id(exact_N): exact_N.to(losses_N.dtype) for exact_N in exact_LN}
                if counts_N is not None:
                    of_group = {group: factors_N * counts_N for group, factors_N in of_group.items()}
                    clipped_N, losses_N = clipped_N & counts_N, losses_N * counts_N
                    finite_N = finite_N | ~counts_N
                factors = [of_group[id(exact_N)] for exact_N in exact_LN]
                # Not +=, after which Python writes the slice into itself.
                self.clipped_K[clients].add_(runs.sums(clipped_N.long()))
                self.zeroed_K[clients].add_(runs.sums((~finite_N).long()))
            self.losses_K[clients].add_(runs.sums((losses_N if share_N is None else losses_N * share_N).double()))
            for record, of_record in zip(tape, factors, strict=True):
                record.add(of_record, sums if straight is None else weights)

    def _planted(self, piece: Piece, runs: Runs, batches: Sequence[Tensor], tape: list[Record]) -> list[Record]:
        """The tape with planted gradients in the place of those that their examples have in the model."""
        found = list[tuple[int, int, Tensor]]()
        for place, ((start, stop), (begin, _)) in enumerate(zip(piece.spans, runs.spans, strict=True)):
            task, batch = self._tasks[piece.first + place], batches[piece.first + place][start:stop]
            if task.planted is not None:
                found += [(begin + at, place, gradient_D) for at, gradient_D in task.planted.among(task.rows_n[batch])]
        if not found:
            return tape
        planted_N = torch.zeros(runs.examples, dtype=torch.bool, device=self.device)
        planted_N[torch.tensor([at for at, _, _ in found], device=self.device)] = True
        for record in tape:
            record.drop(planted_N)
        return [*tape, *planted_records(found, runs.examples, *self._layout, self.device)]

    def require_apart(self, model: nn.Module, piece: Piece, batches: Sequence[Tensor]) -> None:
        """Raise if, in the same pass that trains, a real example has a part in another's gradient.

        Args:
            model: the model for one client.
            piece: at least two examples.
            batches: as for :meth:`accumulate`.

        Raises:
            ModelError: see :func:`privfl.learning.training._guards.require_apart`.
        """
        clients = slice(piece.first, piece.first + len(piece.spans))
        runs = Runs((max(piece.sizes),) * len(piece.sizes) if self.padded else piece.sizes)
        x_N, y_N, counts_N = self._examples(piece, runs, batches)
        place = 0 if counts_N is None else int(counts_N.nonzero()[0])
        require_own_loss(model, self.model.task, x_N, y_N)
        for step in STEPS:
            weights = {name: value[clients] + step * wave(value[0]) for name, value in self.weights.items()}

            def measured(x_N: Tensor, weights: Sums = weights) -> list[Tensor]:
                layers = [(seed / "layers").torch(self.device) for seed in self.seeds[clients]] if self.model.draws else []
                with float32_products(self.precision):
                    losses_N, tape = run_pass(self.model, weights, runs, x_N, y_N, None, layers)
                with torch.no_grad():
                    return [losses_N, torch.stack([record.square_norms().double() for record in tape]).sum(0).sqrt()]

            with moved(model, step):
                require_apart(model, measured, x_N, place)

    def _examples(self, piece: Piece, runs: Runs, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The piece's inputs and labels, and a mask of those that count if batches were padded to one length.

        A batch is filled up with its own first example, which the model bears if it bears the batch; an empty one with zeros.
        """
        places = range(piece.first, piece.first + len(piece.spans))
        parts = [self.rows[k][batches[k][start:stop]] for k, (start, stop) in zip(places, piece.spans, strict=True)]
        if not self.padded:
            rows_N = torch.cat(parts)
            return self.x[rows_N], self.y.index_select(0, rows_N), None
        rows_KB = pad_sequence(parts, batch_first=True, padding_value=-1)
        # The first place of an empty batch is filled up too.
        rows_N = sent(rows_KB.where(rows_KB >= 0, rows_KB[:, :1].clamp(min=0)).flatten(), self.device)
        sizes_K1 = sent(torch.tensor(piece.sizes)[:, None], self.device)
        counts_N = (torch.arange(runs.sizes[0], device=self.device) < sizes_K1).flatten()
        x, y = self.x[rows_N], self.y.index_select(0, rows_N)
        if not all(piece.sizes):
            # The filling of an empty batch is somebody else's example: it must not even be looked at.
            empty_N = (sizes_K1 == 0).expand(-1, runs.sizes[0]).flatten()
            x, y = without(x, empty_N), without(y, empty_N)
        return x, y, counts_N


def _pooled(tasks: Sequence[LocalTask]) -> tuple[InputStore, Tensor, list[Tensor]]:
    """Inputs and labels of all clients, and each client's rows of them."""
    first = tasks[0]
    if all(task.x is first.x and task.y is first.y for task in tasks):
        return first.x, first.y, [task.rows_n for task in tasks]
    pools = list({(id(task.x), id(task.y)): (task.x, task.y) for task in tasks}.values())
    before = dict(zip([(id(x), id(y)) for x, y in pools], accumulate((len(y) for _, y in pools), initial=0), strict=False))
    for task in tasks:
        # Beyond the end of one pool begins another client's.
        assert len(task.x) == len(task.y), "a label for each example"
        assert bool(((task.rows_n >= 0) & (task.rows_n < len(task.y))).all()), "rows of its own pool"
    rows = [task.rows_n + before[id(task.x), id(task.y)] for task in tasks]
    return InputStore.joined([x for x, _ in pools]), torch.cat([y for _, y in pools]), rows


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on that device; nobody waits until a copy to a GPU is done."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def pads(device: torch.device) -> bool:
    """Whether batches are padded to one length: a GPU is better off with one large product, a CPU with no idle rows."""
    return device.type != "cpu"
