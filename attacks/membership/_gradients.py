"""Inner products of single examples' gradients with updates.

A linear layer with input a and gradient d of its output has ⟨V, g⟩ = dᵀ V_W a + V_b·d and ‖g‖² = ‖d‖² (‖a‖² + 1), so that the
gradient of an example of a model made of linear layers is never formed. Other models' gradients are, a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from attacks.membership import FloatArray
from privfl.running.knowledge import Candidates, Network
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
        with np.errstate(all="ignore"):
            cosines_Kn = self.inner_Kn / (np.sqrt(self.squares_n) * self.norms_K[:, None])
        return np.asarray(np.nan_to_num(cosines_Kn, nan=0.0, posinf=0.0, neginf=0.0))


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
        x, layout, losses = self.candidates.x, self.network.layout, self.network.task.loss
        module = self.network.at(self.model_D.to(x.device))
        towards = [layout.unflatten(-update_D.to(x.device)) for update_D in updates_KD]
        by_layers, gradients = _Linear.of(module), _gradients_of(module, losses)
        parts = [(np.zeros((len(updates_KD), 0)), np.zeros(0))]
        start = 0
        while start < len(rows_n):
            at_once = _AT_ONCE if by_layers else max(1, _NUMBERS // layout.size)
            part_n = rows_n[start : start + at_once]
            x_n = x[torch.from_numpy(part_n).to(x.device)]
            y_n = torch.from_numpy(self.candidates.y_N[part_n]).to(x.device)
            found = by_layers.products(losses, x_n, y_n, towards) if by_layers else _products(gradients(x_n, y_n), towards)
            if found is None:
                by_layers = None
                continue
            parts.append(found)
            start += at_once
        norms_K = torch.linalg.vector_norm(updates_KD.double(), dim=1).cpu().numpy()
        return Products(np.concatenate([one for one, _ in parts], 1), np.concatenate([one for _, one in parts]), norms_K)

    def cosines(self, update_D: Tensor, rows_n: NDArray[np.int64]) -> FloatArray:
        """The cosine between minus one update and the gradient of each example, of shape (n,); see :class:`Products`."""
        return np.asarray(self.products(update_D[None], rows_n).cosines()[0])


# --- models of linear layers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Linear:
    """A model whose trained parameters are all of linear layers, each used at most once, on one vector for each example."""

    module: nn.Module
    layers: dict[str, nn.Linear]
    calls: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)

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

    def products(self, losses: Losses, x_n: Tensor, y_n: Tensor, towards: list[Named]) -> tuple[FloatArray, FloatArray] | None:
        """⟨Δ, g⟩ of shape (K, n) and ‖g‖² of shape (n,); None if the layers' gradients are not those of autograd."""
        self.calls.clear()
        named = trained(self.module)
        total = losses(self.module(x_n), y_n).sum()
        calls, n = list(self.calls), len(x_n)
        names = [name for name, _, _ in calls]
        if len(set(names)) < len(names) or any(a_nF.dim() != 2 or len(a_nF) != n for _, a_nF, _ in calls):
            return None
        wanted = [*(output_nO for _, _, output_nO in calls), *named.values()]
        found = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        gradients = dict(zip(named, found[len(calls) :], strict=True))
        inner_Kn = torch.zeros(len(towards), n, dtype=torch.float64, device=x_n.device)
        squares_n = torch.zeros(n, dtype=torch.float64, device=x_n.device)
        for (name, a_nF, _), d_nO in zip(calls, found, strict=False):
            weight, bias = (f"{name}.{part}" if name else part for part in ("weight", "bias"))
            parts = ((weight, a_nF), (bias, torch.ones_like(a_nF[:, :1])))
            for parameter, input_nF in parts:
                if parameter not in gradients:
                    continue
                gradient = gradients.pop(parameter)
                if not _same(d_nO.T @ input_nF, gradient.view(len(gradient), -1), d_nO.norm() * input_nF.norm()):
                    return None
                squares_n += d_nO.double().square().sum(1) * input_nF.double().square().sum(1)
                for k, one in enumerate(towards):
                    matrix_OF = one[parameter].to(d_nO.dtype).view(len(gradient), -1)
                    inner_Kn[k] += ((input_nF @ matrix_OF.T) * d_nO).sum(1, dtype=torch.float64)
        if any(bool(gradient.any()) for gradient in gradients.values()):
            return None
        return inner_Kn.cpu().numpy(), squares_n.cpu().numpy()


def _same(found: Tensor, wanted: Tensor, scale: Tensor) -> bool:
    """Whether a layer's own gradient is the whole gradient; one that is not finite is as good as any."""
    return not bool((found - wanted).norm() > _CLOSE * scale)


# --- any model --------------------------------------------------------------------------------------------------------


def _products(gradients: Named, towards: list[Named]) -> tuple[FloatArray, FloatArray]:
    """⟨Δ, g⟩ of shape (K, n) and ‖g‖² of shape (n,), from gradients of shape (n, ...)."""
    flat = {name: gradient.flatten(1).double() for name, gradient in gradients.items()}
    inner_Kn = [torch.stack([flat[name] @ part.double().flatten() for name, part in one.items()]).sum(0) for one in towards]
    squares_n = torch.stack([gradient.square().sum(1) for gradient in flat.values()]).sum(0)
    return torch.stack(inner_Kn).cpu().numpy(), squares_n.cpu().numpy()


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
