"""The reference engine: Opacus DP-SGD, one client after another, any model that Opacus takes.

One GradSampleModule is reused for all clients; every client of every round gets a fresh optimizer, so that no momentum
and no half-accumulated batch goes from one client to the next. Instead of PrivacyEngine and its data loader, which
sample at 1/len(loader), the batches are drawn here at exactly the rate that is accounted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.embedding import compute_embedding_grad_sample
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _mark_as_processed
from opacus.utils.module_utils import trainable_modules
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from privfl.config import TrainingConfig
from privfl.errors import ConfigError, ModelError
from privfl.learning.optimizers import optimizer_of
from privfl.learning.tasks import Task
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.training import LocalResult, LocalTask, LocalWork, Trainer
from privfl.learning.training._constants import Constants, require_constants
from privfl.learning.training._contrast import ContrastiveLoss
from privfl.learning.training._guards import (
    LOOKED_AT,
    STEPS,
    Unwritten,
    lent_randomness,
    moved,
    outputs_of,
    require_apart,
    require_no_counts,
    require_no_mixing,
    require_own_loss,
    require_per_example,
    runnable,
    unlikely,
)
from privfl.learning.training._memory import memory_named
from privfl.learning.training._noise import fill, require_noise
from privfl.learning.training._passes import Clipping
from privfl.learning.training._precision import float32_products
from privfl.learning.training._probes import probe_for
from privfl.learning.training._rules.products import square_lengths
from privfl.learning.training._work import require_shapes
from privfl.privacy.events import LocalTraining
from privfl.privacy.gaussian import drawn_noise_multiplier
from privfl.privacy.noise import SecureNoise
from privfl.privacy.plans import DpSgdPlan, Plan
from privfl.privacy.sampling import private_batches
from privfl.privacy.streams import RandomStream
from privfl.seeding import Seed
from privfl.vectors import Layout, load_vector, trained


class Opacus(Trainer):
    """DP-SGD if the plan has it (:attr:`Plan.dp_sgd`), else plain SGD.

    **Guarantees.** Under a plan of DP-SGD each step releases (Σ_i clip(g_i, C) + N(0, σ²C² I)) / (qN) and nothing else of
    the client's data; adding or removing one example changes the sum by at most C in L2 (Abadi et al. 2016). The
    returned event is read off the optimizer that clipped and drew, and the noise that it drew is measured.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, plan: Plan, task: Task = CLASSIFICATION) -> None:
        super().__init__(model, config, plan, task)
        if config.precision != "float32":
            raise ConfigError(
                f"training.precision = {config.precision!r}: the opacus engine computes in float32 only; "
                "take the precision away"
            )
        self._private: PerExample | None = None
        self._prepared = self._apart = False
        self._contrast: ContrastiveLoss | None = None
        if plan.dp_sgd is not None:
            require_per_example(model)
            require_known(model)
            with runnable("Opacus"):
                self._private = PerExample(model, loss_reduction="sum")

    def prepare(self, global_D: Tensor, x: Tensor) -> None:
        """See the contract; with DP-SGD, raise unless the hooks find every example's own gradient."""
        load_vector(self.model, global_D)
        with runnable("Opacus"), _quiet(), float32_products():
            probe = probe_for(self.model.train(), x, 4)
            with lent_randomness(x.device):
                outputs_of(self.model, self.task, probe.clone())
            require_own_loss(self.model, self.task, probe)
            require_constants(self.model, probe)
            if self._private is not None:
                forget(self._private)
                require_no_mixing(self.model, self.task, probe)
                require_true_gradients(self._private, self.task, probe)
        self._prepared = True

    def train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """One client after another."""
        with memory_named(self.config, "set a smaller training.batch_size"), float32_products():
            return self._train(global_D, tasks)

    def _train(self, global_D: Tensor, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        if tasks and not self._prepared:
            self.prepare(global_D, tasks[0].x[:1])
        constants = Constants(self.model)
        results = [self._train_one(global_D, task) for task in tasks]
        constants.require()
        return results

    def _train_one(self, global_D: Tensor, task: LocalTask) -> LocalResult:
        require_shapes([task.work], len(global_D))
        load_vector(self.model, global_D if task.work.start_D is None else task.work.start_D)
        self.model.train()
        contrast = task.work.contrast
        self._contrast = None if contrast is None else ContrastiveLoss(self.model, self.task, contrast, global_D)
        with _layer_randomness(task.seed / "layers", task.x.device):
            if (private := self.plan.dp_sgd) is not None:
                return self._train_private(private, task, global_D)
            return self._train_plain(task, global_D)

    def _train_private(self, plan: DpSgdPlan, task: LocalTask, global_D: Tensor) -> LocalResult:
        assert self._private is not None
        forget(self._private)
        todo = self.private_training(plan, task)
        local = self._local(task, global_D, todo.steps)
        optimizer = CountingDPOptimizer(
            local,
            noise_multiplier=todo.noise_multiplier,
            max_grad_norm=todo.max_grad_norm,
            expected_batch_size=todo.expected_batch_size,
            loss_reduction="mean",
            generator=(task.seed / "noise").torch(task.x.device),
        )
        names = list(trained(self._private))
        optimizer.groups = Clipping(todo.max_grad_norm, plan.scheme).groups(names)
        if plan.randomness == "secure":
            optimizer.secure = SecureNoise(RandomStream((task.seed / "noise").key()))
        loss_sum = 0.0
        for batch in private_batches(todo, len(task.rows_n), (task.seed / "batches").torch()):
            if not self._apart and len(batch) > 1:
                self._require_apart(*task.examples(batch[:LOOKED_AT]))
            optimizer.zero_grad()
            unwritten = Unwritten(self.model)
            loss_sum += self._accumulate(*task.examples(batch))
            if task.planted is not None:
                plant(self._private, task.planted.among(task.rows_n[batch]))
            unwritten.require()
            optimizer.step()
        optimizer.require_noise(todo.steps)
        done = LocalTraining(
            sampler=todo.sampler,
            sample_rate=todo.sample_rate,
            steps=optimizer.noise_draws,
            noise_multiplier=optimizer.noise_multiplier,
            max_grad_norm=optimizer.max_grad_norm,
            expected_batch_size=optimizer.expected_batch_size,
        )
        examples = max(optimizer.examples, 1)
        return LocalResult(
            task.client,
            local.moved(),
            loss_sum / examples,
            optimizer.clipped / examples,
            done,
            optimizer.zeroed,
            steps=todo.steps,
            gradient_weight=self.optimizer.gradient_weight(self.config, local.rates, task.work.mu),
            weights_D=local.weights() if task.work.whole else None,
        )

    def _require_apart(self, x_B: Tensor, y_B: Tensor) -> None:
        """Raise if a real example has a part in another's gradient; called once a run."""
        private = self._private
        assert private is not None
        private.disable_hooks()
        require_own_loss(self.model, self.task, x_B, y_B)
        private.enable_hooks()

        def gradients(x_B: Tensor) -> list[Tensor]:
            private.zero_grad(set_to_none=True)
            with lent_randomness(x_B.device):
                self._accumulate(x_B, y_B)
            return list(_found(private).values())

        for step in STEPS:
            with moved(self.model, step):
                require_apart(self.model, gradients, x_B)
        private.zero_grad(set_to_none=True)
        self._apart = True

    def _accumulate(self, x_B: Tensor, y_B: Tensor) -> float:
        """Per-example gradients of one batch; returns the sum of its losses."""
        assert self._private is not None
        if len(y_B) == 0:
            # An empty batch has no gradient to sum, and not every layer takes one; its noise is drawn all the same.
            for parameter in self._private.parameters():
                if parameter.requires_grad:
                    parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            return 0.0
        loss_B = self._losses(self._private, x_B, y_B)
        loss_B.sum().backward()  # type: ignore[no-untyped-call]
        # An example that overflows has no gradient to give, and no loss to report.
        return float(loss_B.detach()[loss_B.isfinite()].double().sum())

    def _losses(self, call: Callable[[Tensor], Tensor], x_B: Tensor, y_B: Tensor) -> Tensor:
        """The losses of a batch, with the contrastive term of the client's work if it has one."""
        return self.task.loss(call(x_B), y_B) if self._contrast is None else self._contrast(call, x_B, y_B)

    def _train_plain(self, task: LocalTask, global_D: Tensor) -> LocalResult:
        batches, losses = self.plain_batches(task), []
        steps = len(batches)
        optimizer = self._local(task, global_D, steps)
        for batch in batches:
            optimizer.zero_grad()
            x_B, y_B = task.examples(batch)
            loss = self._losses(self.model, x_B, y_B).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        weight = self.optimizer.gradient_weight(self.config, optimizer.rates, task.work.mu)
        found = LocalResult(task.client, optimizer.moved(), mean, 0.0, None, steps=steps, gradient_weight=weight)
        return replace(found, weights_D=optimizer.weights()) if task.work.whole else found

    def _local(self, task: LocalTask, global_D: Tensor, steps: int) -> WorkOptimizer:
        return WorkOptimizer(self.model, task.work, global_D, self.config, self.rates(task, steps))


@torch.no_grad()
def plant(private: GradSampleModule, gradients: Sequence[tuple[int, Tensor]]) -> None:
    """Put gradients, each of shape (D,), in the place of those that examples of a batch have, before any is clipped."""
    for place, gradient_D in gradients:
        begin = 0
        for parameter in trained(private).values():
            part = gradient_D[begin : begin + parameter.numel()].to(parameter.device)
            parameter.grad_sample[place] = part.view_as(parameter)  # type: ignore[attr-defined]
            begin += parameter.numel()


class WorkOptimizer(torch.optim.Optimizer):
    """PyTorch optimizer of one client, with the drift, pull and mask of its :class:`LocalWork`.

    Drift and pull need no data, and are added after the noise. In the loss, hooks would drop them or scale them by
    private factors.
    """

    def __init__(
        self, model: nn.Module, work: LocalWork, global_D: Tensor, config: TrainingConfig, rates: Sequence[float]
    ) -> None:
        self._trained, layout = trained(model), Layout.of(model)
        super().__init__(self._trained.values(), {})
        self._item, self._config, self.rates, self._taken = optimizer_of(config), config, rates, 0
        slots = self._item.slots(config)
        self._slots = {name: {slot: torch.zeros_like(one) for slot in slots} for name, one in self._trained.items()}
        self._mu, vectors = work.mu, {"start_D": global_D, "centre_D": global_D} | work.vectors
        vectors = {name: vector_D.to(global_D.device) for name, vector_D in vectors.items()}
        self._start_D = vectors["start_D"]
        self._parts = {name: layout.unflatten(vector_D) for name, vector_D in vectors.items()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One step: drift and pull are added to the gradient, and the entries that do not move are put back."""
        for parameter in self._trained.values():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        if self._config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trained.values(), self._config.max_grad_norm)
        for name, parameter in self._trained.items():
            if parameter.grad is None:
                continue
            if "drift_D" in self._parts:
                parameter.grad.add_(self._parts["drift_D"][name])
            if self._mu:
                parameter.grad.add_(parameter - self._parts["centre_D"][name], alpha=self._mu)
            lr, slots = self.rates[self._taken], self._slots[name]
            self._item.step(self._config, parameter, parameter.grad, slots, lr, self._taken)
        self._taken += 1
        if "mask_D" in self._parts:
            for name, parameter in self._trained.items():
                parameter.copy_(torch.where(self._parts["mask_D"][name].bool(), parameter, self._parts["start_D"][name]))

    def moved(self) -> Tensor:
        """The update: the weights minus the start's, shape (D,)."""
        return self.weights() - self._start_D

    def weights(self) -> Tensor:
        """The weights, shape (D,), in memory of their own."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self._trained.values()])


class CountingDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' DP optimizer that counts its clipping and measures its noise, and takes a non-finite gradient as zero.

    Opacus would multiply an infinite gradient by a factor of zero and make every weight NaN.
    """

    groups: Sequence[Sequence[int]]
    """Indices of the parameters that are clipped together, each group to C/√(groups)."""
    secure: SecureNoise | None = None
    noise_draws = 0
    noise_numbers = 0
    noise_square = 0.0
    examples = 0
    clipped = 0
    zeroed = 0

    def clip_and_accumulate(self) -> None:
        """Add up a batch's clipped gradients, Σ_i g_i · min(1, C / ‖g_i‖), for each group of parameters apart."""
        # Not flatten(1), for a parameter may be a single number.
        gradients: list[Tensor] = [
            parameter.grad_sample.reshape(len(parameter.grad_sample), parameter.numel()) for parameter in self.params
        ]
        # In float64: a float32 sum of millions of squares is too small, and so would the norm be.
        each = torch.stack([square_lengths(gradient).sqrt() for gradient in gradients], dim=1)
        finite_B = each.norm(2, dim=1).isfinite()
        if not bool(finite_B.all()):
            self.zeroed += int((~finite_B).sum())
            each[~finite_B] = 0.0
            for gradient in gradients:
                gradient[~finite_B] = 0.0
        clipped_B = torch.zeros_like(finite_B)
        limit = self.max_grad_norm / math.sqrt(len(self.groups))
        for group in self.groups:
            norms_B = each[:, group].norm(2, dim=1)
            factors_B = (limit / (norms_B + 1e-6)).clamp(max=1.0).to(gradients[0].dtype)
            clipped_B |= norms_B > limit
            for place in group:
                self.params[place].summed_grad = (factors_B @ gradients[place]).view_as(self.params[place])
                _mark_as_processed(self.params[place].grad_sample)
        self.examples += len(finite_B)
        self.clipped += int(clipped_B.sum())

    def add_noise(self) -> None:
        """Add the step's noise and measure it."""
        numels = [parameter.numel() for parameter in self.params]
        if self.secure is not None:
            deviation = drawn_noise_multiplier(self.noise_multiplier, sum(numels)) * self.max_grad_norm
            for parameter in self.params:
                parameter.grad = self.secure.added(parameter.summed_grad, deviation)
                _mark_as_processed(parameter.summed_grad)
        elif self.params[0].device.type == "cpu":
            super().add_noise()
        else:
            # On a GPU the fused engine draws a client's noise in one call, and both engines must draw the same noise.
            noise_D = torch.empty(sum(numels), device=self.params[0].device)
            fill(noise_D, numels, self.noise_multiplier * self.max_grad_norm, self.generator)
            for parameter, part in zip(self.params, torch.split(noise_D, numels), strict=True):
                parameter.grad = parameter.summed_grad + part.view_as(parameter)
                _mark_as_processed(parameter.summed_grad)
        self.noise_draws += 1
        for parameter in self.params:
            self.noise_numbers += parameter.numel()
            self.noise_square += float((parameter.grad - parameter.summed_grad).double().square().sum())

    def require_noise(self, steps: int) -> None:
        """See :func:`privfl.learning.training._noise.require_noise`."""
        numbers = steps * sum(parameter.numel() for parameter in self.params)
        draws = self.noise_draws if self.noise_numbers == numbers else 0
        require_noise(draws, steps, numbers, self.noise_square, self.noise_multiplier * self.max_grad_norm)


class PerExample(GradSampleModule):  # type: ignore[misc]
    """Opacus' hooks without the rules that find other gradients than autograd.

    Opacus 1.6 trains a table's padding, and counts a word that comes twice in a bag once.
    """

    GRAD_SAMPLERS: ClassVar[dict[type[nn.Module], Any]] = {
        kind: rule for kind, rule in GradSampleModule.GRAD_SAMPLERS.items() if kind is not nn.EmbeddingBag
    }


def looked_up(layer: nn.Embedding, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Per-example gradients of an embedding table, in which the padding's row is zero."""
    found: dict[Tensor, Tensor] = compute_embedding_grad_sample(layer, activations, backprops)
    if layer.padding_idx is not None and layer.weight in found:
        found[layer.weight][:, layer.padding_idx] = 0.0
    return found


PerExample.GRAD_SAMPLERS[nn.Embedding] = looked_up

OWN_CLASSES = {nn.LSTM: "DPLSTM", nn.GRU: "DPGRU", nn.RNN: "DPRNN", nn.MultiheadAttention: "DPMultiheadAttention"}
"""Opacus' replacements for the PyTorch layers that its hooks cannot handle."""


def require_known(model: nn.Module) -> None:
    """Raise if Opacus refuses a layer, or has no rule for it and none can be made.

    Raises:
        ModelError: names the layer, and Opacus' replacement if there is one.
    """
    require_no_counts(model)
    for name, module in trainable_modules(model):
        if type(module) is nn.EmbeddingBag:
            raise ModelError(f"{name} is an EmbeddingBag, in which Opacus counts a word that comes twice once")
        if type(module) in OWN_CLASSES:
            raise ModelError(
                f"{name or 'the model'} is an nn.{type(module).__name__}, which Opacus' hooks do not bear; put "
                f"opacus.layers.{OWN_CLASSES[type(module)]} in its place"
            )
        for mistake in ModuleValidator.VALIDATORS.get(type(module), lambda _: [])(module):
            raise ModelError(f"Opacus cannot train this model privately: {str(mistake).partition('. ')[0].splitlines()[0]}")


def _found(private: GradSampleModule) -> dict[str, Tensor]:
    """Per-example gradients that the hooks have left with each trained parameter, by its name."""
    return {name: parameter.grad_sample for name, parameter in private.named_parameters() if parameter.requires_grad}


def forget(private: PerExample) -> None:
    """Clear all that an aborted pass has left in the hooks, or it would be added to the next client's gradients."""
    private.zero_grad(set_to_none=True)
    for parameter in private.parameters():
        parameter._forward_counter = 0
        if hasattr(parameter, "_current_grad_sample"):
            del parameter._current_grad_sample
    for module in private.modules():
        if hasattr(module, "activations"):
            module.activations = []


def require_true_gradients(private: PerExample, task: Task, x_B: Tensor) -> None:
    """Raise unless the hooks find every example's own gradient, at weights a little off the model's.

    A model that folds its positions into the batch, or has its batch second, gives Opacus rows that are no examples: each
    would be clipped for itself. Opacus 1.6 unfolds a convolution's input as if channels came first: under
    ``torch.channels_last`` the per-example gradients of every convolution but the first are of the right shape and wrong (off
    by 84 % in this project's cnn), and training goes on in silence.

    Raises:
        ModelError: names the parameter.
    """
    named = {name.removeprefix("_module."): parameter for name, parameter in trained(private).items()}
    with moved(private, STEPS[-1]):
        y_B = unlikely(private, task, x_B)
        with lent_randomness(x_B.device):
            task.loss(private(x_B.clone()), y_B).sum().backward()  # type: ignore[no-untyped-call]
        found = {name.removeprefix("_module."): gradients for name, gradients in _found(private).items()}
        private.zero_grad(set_to_none=True)
        private.disable_hooks()
        try:
            with lent_randomness(x_B.device):
                losses_B = task.loss(private(x_B.clone()), y_B)
                rows = [
                    torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True) for loss in losses_B
                ]
        finally:
            private.enable_hooks()
    given = [gradient for row in rows for gradient in row if gradient is not None]
    whole = torch.stack([gradient.norm() for gradient in given]).norm() if given else 0.0
    for place, name in enumerate(named):
        own = [row[place] for row in rows]
        if found[name] is None or any(gradient is None for gradient in own):
            raise ModelError(f"{name} got no gradient; every parameter must take part, or be removed")
        if len(found[name]) != len(x_B):
            raise ModelError(
                f"{name}: of {len(x_B)} examples Opacus finds {len(found[name])} gradients, each of which would be clipped for "
                "itself; keep the batch first, and whole, in every layer"
            )
        # An embedding table may be set to have a sparse gradient.
        expected = torch.stack([gradient.to_dense() for gradient in own])
        difference, size = (found[name] - expected).flatten().norm(), expected.flatten().norm()
        # The gradient of a bias in front of a normalisation is rounding error alone, of the size of all gradients'
        # rounding.
        if difference > 1e-3 * size + 1e-5 * whole + 1e-6:
            off = float(difference / (size + 1e-12))
            raise ModelError(
                f"{name}: Opacus' per-example gradients are others than autograd's (off by {off:.0%}); "
                "use contiguous tensors, not channels_last, padding with zeros, and no parameter twice"
            )


@contextmanager
def _layer_randomness(seed: Seed, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators, from which layers such as Dropout draw; afterwards restore their states."""
    with lent_randomness(device), _quiet():
        torch.set_rng_state(seed.torch().get_state())
        if device.type == "cuda":
            torch.cuda.set_rng_state(seed.torch(device).get_state(), device)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Expected: Opacus registers full backward hooks on a model whose input needs no gradient.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        yield
