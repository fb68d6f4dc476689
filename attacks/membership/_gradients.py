"""Inner products of single examples' gradients with updates, and losses at the models that the updates lead to.

A linear layer with input a and gradient d of its output has ⟨V, g⟩ = dᵀ V_W a + V_b·d and ‖g‖² = ‖d‖² (‖a‖² + 1), so that the
gradient of an example of a model made of linear layers is never formed. Other models' gradients are, a few at a time. The first
layer's input is the same at every model, so that a V_Wᵀ, which the inner product needs, also moves the layer's output from one
model to another: a loss at another model costs the other layers alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from attacks.membership import FloatArray
from privfl.running.knowledge import Candidates, Measured, Network
from privfl.vectors import trained

_NUMBERS: Final = 2**24
"""So many numbers of gradients are in memory at once: 64 MiB of float32."""

_AT_ONCE: Final = 1024
"""So many examples go through linear layers at once."""

_CLOSE: Final = 1e-3
"""How far, relative to its largest possible norm, a layer's gradient may be from autograd's."""

Named = dict[str, Tensor]
Losses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Products:
    """Gradients of n examples beside K updates, in float64.

    Args:
        inner_Kn: ⟨Δ, g⟩, with Δ minus the update.
        squares_n: ‖g‖².
        norms_K: ‖Δ‖.
    """

    inner_Kn: FloatArray
    squares_n: FloatArray
    norms_K: FloatArray

    def cosines(self) -> FloatArray:
        """⟨Δ, g⟩ / (‖Δ‖ ‖g‖), of shape (K, n); 0 if a norm is 0 or not finite."""
        return cosines(self.inner_Kn, self.squares_n, self.norms_K[:, None])


def cosines(inner: FloatArray, squares_n: FloatArray, norms: FloatArray) -> FloatArray:
    """⟨Δ, g⟩ / (‖Δ‖ ‖g‖), of shape (..., n); 0 if a norm is 0 or not finite.

    Args:
        inner: ⟨Δ, g⟩, of shape (..., n).
        squares_n: ‖g‖².
        norms: ‖Δ‖, of a shape like that of ``inner``.
    """
    with np.errstate(all="ignore"):
        found = inner / (np.sqrt(squares_n) * norms)
    return np.asarray(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0))


@dataclass(frozen=True, eq=False, repr=False)
class Gradients:
    """The gradient of each candidate's loss, at one model, in evaluation mode.

    Args:
        network: the architecture.
        candidates: the examples.
        model_D: the model's parameters.
    """

    network: Network
    candidates: Candidates
    model_D: Tensor

    def products(self, updates_KD: Tensor, rows_n: NDArray[np.int64]) -> Products:
        """The products of updates with the gradients of examples.

        An update is what was added to the model. Training goes against the gradient, so that the product of an example that was
        trained on is expected to be positive.

        Args:
            updates_KD: K updates.
            rows_n: which candidates.
        """
        nothing = _Part(np.zeros((len(updates_KD), 0)), np.zeros(0))
        parts = [nothing, *self._parts(self._towards(updates_KD), rows_n, onwards=False)]
        inner_Kn, squares_n = (np.concatenate([getattr(one, name) for one in parts], -1) for name in ("inner_Kn", "squares_n"))
        return Products(inner_Kn, squares_n, _norms(updates_KD))

    def measured(self, updates_KD: Tensor, place_N: NDArray[np.int64], *, every: bool) -> Measured:
        """The products of updates with gradients, and the losses at the model and at those that the updates lead to.

        A candidate's figures for its own client are the same to the bit, whether the others' are computed or not.

        Args:
            updates_KD: K updates.
            place_N: the update of each candidate's client; −1: it has none.
            every: measure each candidate with each update; else with its client's alone.
        """
        shape = len(updates_KD), len(place_N)
        losses_N, squares_N = (np.full(shape[1], np.nan) for _ in range(2))
        local_KN, inner_KN = (np.full(shape, np.nan) for _ in range(2))
        towards = self._towards(updates_KD)
        for place in range(-1, len(updates_KD)):
            rows_n = np.flatnonzero(place_N == place)
            here = slice(None) if every else slice(place, place + 1) if place >= 0 else slice(0)
            start = 0
            for one in self._parts(towards[here], rows_n, onwards=True):
                part_n = rows_n[start : start + len(one.squares_n)]
                start += len(part_n)
                losses_N[part_n], squares_N[part_n] = self._losses(one.outputs[None], part_n)[0], one.squares_n
                inner_KN[here, part_n], local_KN[here, part_n] = one.inner_Kn, self._losses(one.local_outputs, part_n)
        return Measured(losses_N, squares_N, local_KN, inner_KN, _norms(updates_KD))

    def _losses(self, outputs_Kn: NDArray[np.float32], rows_n: NDArray[np.int64]) -> FloatArray:
        """The loss log(1 + e^−confidence), which does not round to 0 for a confident output."""
        confidence = self.network.task.confidence(outputs_Kn, self.candidates.y_N[rows_n])
        return np.asarray(np.logaddexp(0.0, -confidence))

    @cached_property
    def _module(self) -> nn.Module:
        return self.network.at(self.model_D.to(self.candidates.x.device))

    @cached_property
    def _by_layers(self) -> _Linear | None:
        return _Linear.of(self.network.at(self.model_D.to(self.candidates.x.device)))

    def _towards(self, updates_KD: Tensor) -> list[Named]:
        """Minus each update, by parameter."""
        return [self.network.layout.unflatten(-update_D.to(self.candidates.x.device)) for update_D in updates_KD]

    def _parts(self, towards: Sequence[Named], rows_n: NDArray[np.int64], *, onwards: bool) -> Iterator[_Part]:
        """The figures of some examples at a time; ``onwards``: with the outputs at the models that the updates lead to."""
        x, layout, losses = self.candidates.x, self.network.layout, self.network.task.loss
        by_layers, start = self._by_layers, 0
        while start < len(rows_n):
            at_once = _AT_ONCE if by_layers else max(1, _NUMBERS // layout.size)
            part_n = rows_n[start : start + at_once]
            x_n = x[torch.from_numpy(part_n).to(x.device)]
            y_n = torch.from_numpy(self.candidates.y_N[part_n]).to(x.device)
            found = by_layers.part(losses, x_n, y_n, towards, onwards) if by_layers else None
            if by_layers is not None and found is None:
                by_layers = None
                continue
            yield found or _Formed(self._module, losses).part(x_n, y_n, towards, onwards)
            start += at_once

    def gram(self) -> FloatArray:
        """⟨g_i, g_j⟩ of all candidates, of shape (N, N)."""
        y_N = torch.from_numpy(self.candidates.y_N).to(self.candidates.x.device)
        x_N, losses = self.candidates.x[:], self.network.task.loss
        factors = self._by_layers.factors(losses, x_N, y_N) if self._by_layers else None
        if factors is not None:
            found = torch.zeros(len(y_N), len(y_N), dtype=torch.float64, device=x_N.device)
            for a_NF, d_NO in factors:
                found += (a_NF @ a_NF.T).double() * (d_NO @ d_NO.T)
            return np.asarray(found.cpu().numpy())
        at_once = max(1, _NUMBERS // self.network.layout.size)
        formed = _gradients_of(self._module, losses)
        parts = [formed(x_n, y_n) for x_n, y_n in zip(torch.split(x_N, at_once), torch.split(y_N, at_once), strict=True)]
        gradients_ND = torch.cat([torch.cat([one.flatten(1) for one in part.values()], 1) for part in parts])
        return np.asarray((gradients_ND @ gradients_ND.T).double().cpu().numpy())

    def cosines(self, update_D: Tensor, rows_n: NDArray[np.int64]) -> FloatArray:
        """The cosine between minus one update and the gradient of each example, of shape (n,); see :class:`Products`."""
        return np.asarray(self.products(update_D[None], rows_n).cosines()[0])


def _norms(updates_KD: Tensor) -> FloatArray:
    norms_K: FloatArray = torch.linalg.vector_norm(updates_KD.double(), dim=1).cpu().numpy()
    return norms_K


@dataclass(frozen=True)
class _Part:
    """Figures of n examples; outputs at the model, of shape (n, C), and at each of K others, of shape (K, n, C)."""

    inner_Kn: FloatArray
    squares_n: FloatArray
    outputs: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    local_outputs: NDArray[Any] = field(default_factory=lambda: np.zeros(0))


# --- models of linear layers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Linear:
    """A model whose trained parameters are all of linear layers, each used at most once, on one vector for each example."""

    module: nn.Module
    layers: dict[str, nn.Linear]
    calls: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    rests: dict[str, nn.Module] = field(default_factory=dict)
    checked: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, module: nn.Module) -> Self | None:
        """The layers, watched; None if other parameters are trained as well."""
        layers = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
        ours = {id(one) for layer in layers.values() for one in (layer.weight, layer.bias) if one is not None}
        if {id(one) for one in trained(module).values()} - ours:
            return None
        watched = cls(module, layers)
        for name, layer in layers.items():
            layer.register_forward_hook(watched._hook(name))
        return watched

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def keep(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            self.calls.append((name, inputs[0].detach(), output))
            # An activation that works in place is to change the copy.
            return output.clone()

        return keep

    def part(self, losses: Losses, x_n: Tensor, y_n: Tensor, towards: Sequence[Named], onwards: bool) -> _Part | None:
        """See :meth:`Gradients._parts`; None if the layers' gradients are not those of autograd."""
        n, passed = len(x_n), self._passed(losses, x_n, y_n)
        if passed is None:
            return None
        outputs, calls, found = passed
        inner_Kn = torch.zeros(len(towards), n, dtype=torch.float64, device=x_n.device)
        squares_n = torch.zeros(n, dtype=torch.float64, device=x_n.device)
        moved = [calls[0][2].detach()] * len(towards) if calls else []
        for place, ((name, a_nF, output_nO), d_nO) in enumerate(zip(calls, found, strict=False)):
            parts = self._parts_of(name)
            lengths_n = a_nF.square().sum(1, dtype=torch.float64) if "weight" in parts else 0.0
            squares_n += d_nO.square().sum(1, dtype=torch.float64) * (lengths_n + ("bias" in parts))
            for k, one in enumerate(towards if parts else ()):
                by_nO = sum(_by_layer(part, a_nF, one[parameter].to(d_nO.dtype)) for part, parameter in parts.items())
                inner_Kn[k] += (by_nO * d_nO).sum(1, dtype=torch.float64)
                if not place:
                    moved[k] = output_nO.detach() - by_nO
        others = self._onwards(calls[0][0], moved, x_n, towards) if onwards and calls else []
        return _Part(inner_Kn.cpu().numpy(), squares_n.cpu().numpy(), _array(outputs), _stacked(others, outputs))

    def factors(self, losses: Losses, x_n: Tensor, y_n: Tensor) -> list[tuple[Tensor, Tensor]] | None:
        """Each layer's input, with a one for a bias, and the gradient of its output: their outer product is a gradient.

        None if the layers' gradients are not those of autograd.
        """
        passed = self._passed(losses, x_n, y_n)
        if passed is None:
            return None
        _, calls, found = passed
        factors = []
        for (name, a_nF, _), d_nO in zip(calls, found, strict=False):
            parts = self._parts_of(name)
            inputs = [*([a_nF] if "weight" in parts else []), *([torch.ones_like(a_nF[:, :1])] if "bias" in parts else [])]
            if inputs:
                factors.append((torch.cat(inputs, 1).double(), d_nO.double()))
        return factors

    def _passed(
        self, losses: Losses, x_n: Tensor, y_n: Tensor
    ) -> tuple[Tensor, list[tuple[str, Tensor, Tensor]], tuple[Tensor, ...]] | None:
        """The outputs, the layers' calls, and the gradients of their outputs."""
        self.calls.clear()
        outputs = self.module(x_n)
        total, calls, n = losses(outputs, y_n).sum(), list(self.calls), len(x_n)
        names = [name for name, _, _ in calls]
        if len(set(names)) < len(names) or any(a_nF.dim() != 2 or len(a_nF) != n for _, a_nF, _ in calls):
            return None
        unseen = dict(trained(self.module)) if not self.checked else {}
        wanted = [*(output_nO for _, _, output_nO in calls), *unseen.values()]
        found = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        if unseen and not self._alone(calls, found, dict(zip(unseen, found[len(calls) :], strict=True))):
            return None
        self.checked.append(n)
        return outputs, calls, found

    def _parts_of(self, name: str) -> dict[str, str]:
        """The names of a layer's trained parameters, by their part in it."""
        parts = {part: f"{name}.{part}" if name else part for part in ("weight", "bias")}
        named = trained(self.module)
        return {part: parameter for part, parameter in parts.items() if parameter in named}

    def _alone(self, calls: Sequence[tuple[str, Tensor, Tensor]], found: Sequence[Tensor], gradients: Named) -> bool:
        """Whether the layers' own gradients are those of autograd; looked at once, on the first examples."""
        for (name, a_nF, _), d_nO in zip(calls, found, strict=False):
            for part, parameter in self._parts_of(name).items():
                input_nF = a_nF if part == "weight" else torch.ones_like(a_nF[:, :1])
                gradient = gradients.pop(parameter)
                if not _same(d_nO.T @ input_nF, gradient.view(len(gradient), -1), d_nO.norm() * input_nF.norm()):
                    return False
        return not any(bool(gradient.any()) for gradient in gradients.values())

    def rest(self, first: str) -> nn.Module:
        """A copy of the model, unwatched, whose first layer is to be replaced."""
        if first not in self.rests:
            self.rests[first] = copy.deepcopy(self.module)
            for layer in self.rests[first].modules():
                layer._forward_hooks.clear()
        return self.rests[first]

    def _onwards(self, first: str, moved: Sequence[Tensor], x_n: Tensor, towards: Sequence[Named]) -> list[Tensor]:
        """The outputs at other models, whose first layer's output is known."""
        if not first:
            return list(moved)
        named = {name: value.detach() for name, value in trained(self.module).items()}
        rest, given, found = self.rest(first), _Given(), list[Tensor]()
        rest.set_submodule(first, given)
        for output_nO, one in zip(moved, towards, strict=True):
            given.output = output_nO
            there = {name: value - one[name] for name, value in named.items() if name.rpartition(".")[0] != first}
            with torch.no_grad():
                found.append(functional_call(rest, there, (x_n,)))
        return found


def _by_layer(part: str, a_nF: Tensor, value: Tensor) -> Tensor:
    """A layer's output for that weight and no bias, or for that bias and no weight."""
    return a_nF @ value.T if part == "weight" else value


class _Given(nn.Module):
    """A layer whose output was computed before."""

    output: Tensor

    def forward(self, _: Tensor) -> Tensor:
        return self.output


def _array(outputs: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = outputs.detach().cpu().numpy()
    return found


def _stacked(others: Sequence[Tensor], outputs: Tensor) -> NDArray[Any]:
    return np.stack([_array(one) for one in others]) if others else np.zeros((0, *outputs.shape), np.float32)


def _same(found: Tensor, wanted: Tensor, scale: Tensor) -> bool:
    """Whether a layer's own gradient is the whole gradient; one that is not finite is as good as any."""
    return not bool((found - wanted).norm() > _CLOSE * scale)


# --- any model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Formed:
    """A model whose examples' gradients are formed."""

    module: nn.Module
    losses: Losses

    def part(self, x_n: Tensor, y_n: Tensor, towards: Sequence[Named], onwards: bool) -> _Part:
        """See :meth:`Gradients._parts`."""
        inner_Kn, squares_n = _products(_gradients_of(self.module, self.losses)(x_n, y_n), towards)
        named = {name: value.detach() for name, value in trained(self.module).items()}
        with torch.no_grad():
            outputs = self.module(x_n)
            there = [{name: value - one[name] for name, value in named.items()} for one in towards] if onwards else []
            others = [functional_call(self.module, one, (x_n,)) for one in there]
        return _Part(inner_Kn, squares_n, _array(outputs), _stacked(others, outputs))


def _products(gradients: Named, towards: Sequence[Named]) -> tuple[FloatArray, FloatArray]:
    """⟨Δ, g⟩ of shape (K, n) and ‖g‖² of shape (n,), from gradients of shape (n, ...)."""
    flat = {name: gradient.flatten(1).double() for name, gradient in gradients.items()}
    inner_Kn = np.zeros((len(towards), len(next(iter(flat.values())))))
    for k, one in enumerate(towards):
        products = torch.stack([flat[name] @ part.double().flatten() for name, part in one.items()])
        inner_Kn[k] = products.sum(0).cpu().numpy()
    squares_n = torch.stack([gradient.square().sum(1) for gradient in flat.values()]).sum(0)
    return inner_Kn, squares_n.cpu().numpy()


def _gradients_of(module: nn.Module, losses: Losses) -> Callable[[Tensor, Tensor], Named]:
    """A function from n inputs and labels to their gradients by parameter, of shape (n, ...)."""
    parameters = {name: value.detach() for name, value in trained(module).items()}

    def loss(parameters: Named, x: Tensor, y: Tensor) -> Tensor:
        return losses(functional_call(module, parameters, (x[None],)), y[None])[0]

    together = vmap(grad(loss), in_dims=(None, 0, 0))

    def gradients(x_n: Tensor, y_n: Tensor) -> Named:
        try:
            found: Named = together(parameters, x_n, y_n)
        except RuntimeError:
            # Some layers, recurrent ones among them, take no batch of batches.
            each = [grad(loss)(parameters, x, y) for x, y in zip(x_n, y_n, strict=True)]
            found = {name: torch.stack([one[name] for one in each]) for name in parameters}
        return found

    return gradients
