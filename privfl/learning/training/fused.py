"""The fused engine: a whole cohort's local training as one program.

The weights of K clients are stacked, and their batches go through the model as one flat batch, so that a step of the
whole cohort is a few large operations instead of K times as many small ones. The gradients' norms, their clipping and
their sum come out of one backward pass (:mod:`privfl.learning.training._rules`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.training import LocalResult, LocalTask, Trainer
from privfl.learning.training._budget import Limits
from privfl.learning.training._cohort import CohortState, Pieces, sent
from privfl.learning.training._constants import Constants, require_constants
from privfl.learning.training._conversion import convert
from privfl.learning.training._guards import (
    LOOKED_AT,
    lent_randomness,
    outputs_of,
    require_no_counts,
    require_no_mixing,
    require_own_loss,
    require_per_example,
    runnable,
)
from privfl.learning.training._memory import memory_named
from privfl.learning.training._noise import CohortNoise
from privfl.learning.training._passes import Clipping, require_same_gradients
from privfl.learning.training._pieces import pieces
from privfl.learning.training._precision import float32_products
from privfl.learning.training._probes import probe_for
from privfl.privacy.events import LocalTraining
from privfl.privacy.plans import Plan
from privfl.privacy.sampling import private_batches
from privfl.vectors import Layout, load_vector, trained

_RUNS, _CLIENTS = 16, 32
"""Runs, and clients of all of them, that are trained together; more gain little, and leave other cores idle (measured)."""


class Fused(Trainer):
    """DP-SGD or plain SGD for all clients of a cohort at once, equal to the reference engine up to rounding.

    **Guarantees.** Under a plan of DP-SGD each step of each client releases (Σ_i clip(g_i, C) + N(0, σ²C² I)) / (qN) and
    nothing else of the client's data, as in :mod:`privfl.learning.training.opacus`, with the same batches and the same noise.
    No operation brings the examples of two clients together. The returned event holds the number of draws, the
    noise multiplier and the clipping norm that were used, and the noise that was drawn is measured.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, plan: Plan, task: Task = CLASSIFICATION) -> None:
        super().__init__(model, config, plan, task)
        if plan.dp_sgd is not None:
            require_per_example(model)
        else:
            require_no_counts(model)
        self._layout = Layout.of(model)
        with runnable("the fused engine"):
            self._cohort = convert(model, task)
        self._state = CohortState(self._layout, config)
        self._probe: Tensor | None = None
        self._limits: Limits | None = None
        self._constants: Constants | None = None
        self._apart = False

    def prepare(self, global_D: Tensor, x: Tensor) -> None:
        """See the contract; raise unless the converted model has the model's gradients."""
        load_vector(self.model, global_D)
        private = self.plan.dp_sgd is not None
        with runnable("the fused engine"), float32_products():
            probe = probe_for(self.model.train(), x, 4)
            with lent_randomness(x.device):
                outputs_of(self.model, self.task, probe.clone())
            require_own_loss(self.model, self.task, probe)
            require_constants(self.model, probe)
            if private:
                require_no_mixing(self.model, self.task, probe)
            require_same_gradients(self.model, self._cohort, probe, alone=private)
        self._probe = probe

    def how(self) -> str:
        """Say which layers have no rule, if any."""
        if not self._cohort.by_vmap:
            return "each layer has a rule"
        return f"torch.func runs {', '.join(self._cohort.by_vmap)}, for which there is no rule"

    def parts(self, clients: int, global_D: Tensor, x: Tensor) -> int:
        """Number of parts: ``training.parts``, or the power of two at which one step of a part about fits one pass.

        Smaller parts would only be slower. A power of two divides evenly among two, four or eight processes. On a GPU
        there is one part.
        """
        if self.config.parts is not None:
            return self.config.parts
        limits = self._limits = self._limits or self._measured(global_D, x)
        if x.is_cuda:
            return 1
        pieces = clients * self.config.batch_size / limits.examples
        return int(2 ** math.ceil(math.log2(max(pieces, 1))))

    def runs_at_once(self, clients: int, global_D: Tensor, x: Tensor) -> int:
        """See the contract: as many as fit the memory budget and one pass of a step, up to a number.

        On a GPU batches are padded to one length, and a client of a model that draws would draw for its padding too.
        """
        if x.is_cuda and self._cohort.draws:
            return 1
        limits = self._limits = self._limits or self._measured(global_D, x)
        # Each client has a start of its own, and perhaps a centre.
        fitting = min(
            limits.clients_with(len(self.optimizer.slots(self.config)) + 2), limits.examples // self.config.batch_size
        )
        return max(1, min(_RUNS, min(fitting, _CLIENTS) // max(clients, 1)))

    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """All clients together, or as many at a time as fit the memory budget.

        Raises:
            ConfigError: the memory budget is too small for one client and one example.
        """
        if not tasks:
            return []
        with (
            memory_named(self.config, "set training.memory_budget, lower than it is, or more training.parts"),
            float32_products(),
        ):
            return self._train(global_D, tasks)

    def _train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        limits = self._limits = self._limits or self._measured(global_D, tasks[0].x[:1])
        self._constants = self._constants or Constants(self._cohort.module)
        jobs = [self._job(task) for task in tasks]
        # Clients with more steps come first, so that those who still train are always the first so many.
        order = sorted(range(len(jobs)), key=lambda place: -jobs[place].steps)
        results: dict[int, LocalResult] = {}
        # One vector of the optimizer's state is counted already.
        slots = max(0, len(self.optimizer.slots(self.config)) - 1)
        clients = limits.clients_with(slots + max(len(task.work.vectors) for task in tasks))
        for start in range(0, len(order), clients):
            group = order[start : start + clients]
            found = self._train_group(global_D, [jobs[place] for place in group], limits.examples)
            results |= dict(zip(group, found, strict=True))
        self._constants.require()
        return [results[place] for place in range(len(tasks))]

    def _measured(self, global_D: Tensor, x: Tensor) -> Limits:
        """Measure how many clients and examples go through the model at once."""
        if self._probe is None:
            self.prepare(global_D, x)
        assert self._probe is not None
        with runnable("the fused engine"):
            self._cohort.shared.product_dtype = torch.bfloat16 if self.config.precision == "bfloat16" else None
            weights = {name: value.detach()[None] for name, value in trained(self.model).items()}
            return Limits.measure(self._cohort, weights, self._probe, self.config.memory_budget)

    def _job(self, task: LocalTask) -> _Job:
        if (private := self.plan.dp_sgd) is not None:
            todo = self.private_training(private, task)
            # On the CPU on every machine: a GPU would have to be waited for, and would draw other batches.
            batches = list(private_batches(todo, len(task.rows_n), (task.seed / "batches").torch()))
            return _Job(task, todo, batches, self.rates(task, len(batches)))
        batches = self.plain_batches(task)
        return _Job(task, None, batches, self.rates(task, len(batches)))

    def _train_group(self, global_D: Tensor, jobs: Sequence[_Job], limit: int) -> list[LocalResult]:
        state = self._state
        state.begin(global_D, [job.task.work for job in jobs])
        noise = self._noise(jobs)
        private = self.plan.dp_sgd
        clipping = Clipping(noise.max_grad_norm, private.scheme) if noise and private is not None else None
        work = Pieces(self._cohort, state, [job.task for job in jobs], clipping, self.config)
        expected = [[job.todo.expected_batch_size] for job in jobs if job.todo]
        expected_K1 = sent(torch.tensor(expected), global_D.device)
        for step in range(max(job.steps for job in jobs)):
            batches = [job.batches[step] for job in jobs if job.steps > step]
            if noise is not None and not self._apart:
                self._require_apart(work, batches)
            sizes, rates = [len(batch) for batch in batches], [job.rates[step] for job in jobs if job.steps > step]
            if noise is None and state.plain and max(sizes) <= limit and len({*rates}) == 1:
                # Nothing happens to a gradient on its way into the weights, and no batch is cut: no sum is needed.
                for piece in pieces(sizes, limit, padded=work.padded):
                    work.accumulate(piece, batches, straight=rates[0])
                continue
            sums_KD = fresh(state.sums_KD[: len(batches)], noise)
            for piece in pieces(sizes, limit, padded=work.padded):
                work.accumulate(piece, batches)
            if noise is None:
                state.step(sums_KD, rates, step)
            else:
                state.step(noise.end(sums_KD), rates, step, expected_K1[: len(batches)])
        if noise is not None:
            noise.require([job.steps for job in jobs])
        return self._results(jobs, noise, work)

    def _require_apart(self, work: Pieces, batches: Sequence[Tensor]) -> None:
        """Call :meth:`Pieces.require_apart` once a run, on the first piece of at least two examples."""
        for piece in pieces([min(len(batch), LOOKED_AT) for batch in batches], LOOKED_AT):
            if sum(piece.sizes) > 1:
                work.require_apart(self.model, piece, batches)
                self._apart = True
                return

    def _noise(self, jobs: Sequence[_Job]) -> CohortNoise | None:
        if (private := self.plan.dp_sgd) is None:
            return None
        seeds = [job.task.seed / "noise" for job in jobs]
        multipliers = [job.todo.noise_multiplier for job in jobs if job.todo]
        device, secure = self._state.weights_KD.device, private.randomness == "secure"
        return CohortNoise(seeds, multipliers, private.max_grad_norm, device, self._state.numels, secure)

    def _results(self, jobs: Sequence[_Job], noise: CohortNoise | None, work: Pieces) -> list[LocalResult]:
        results = []
        columns = (work.losses_K.tolist(), work.clipped_K.tolist(), work.zeroed_K.tolist())
        figures = zip(jobs, self._state.deltas(), *columns, strict=True)

        def final(job: _Job, k: int) -> Tensor | None:
            return self._state.weights_KD[k].clone() if job.task.work.whole else None

        for k, (job, delta_D, loss, clipped, zeroed) in enumerate(figures):
            weight = self.optimizer.gradient_weight(self.config, job.rates, job.task.work.mu)
            if noise is None or job.todo is None:
                mean = loss / max(job.steps, 1)
                results.append(LocalResult(job.task.client, delta_D, mean, 0.0, None, 0, job.steps, weight, final(job, k)))
                continue
            done = LocalTraining(
                sampler=job.todo.sampler,
                sample_rate=job.todo.sample_rate,
                steps=noise.draws[k],
                noise_multiplier=noise.noise_multipliers[k],
                max_grad_norm=noise.max_grad_norm,
                expected_batch_size=job.todo.expected_batch_size,
            )
            examples = max(job.examples, 1)
            mean, share = loss / examples, clipped / examples
            result = LocalResult(job.task.client, delta_D, mean, share, done, zeroed, job.steps, weight, final(job, k))
            results.append(result)
        return results


def fresh(sums_KD: Tensor, noise: CohortNoise | None) -> Tensor:
    """Gradient sums reset for a new step: to zeros, or to the noise that comes first."""
    return sums_KD.zero_() if noise is None else noise.begin(sums_KD)


@dataclass(frozen=True)
class _Job:
    """One client's planned training: its batches, one for each step, as indices into its examples, and its rates."""

    task: LocalTask
    todo: LocalTraining | None
    batches: list[Tensor]
    rates: list[float]

    @property
    def steps(self) -> int:
        return len(self.batches)

    @property
    def examples(self) -> int:
        return sum(len(batch) for batch in self.batches)
