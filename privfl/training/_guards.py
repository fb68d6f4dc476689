"""What every engine must be sure of before it trains a model privately."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from opacus.utils.module_utils import trainable_modules
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from privfl.errors import ModelError, PrivflError, first_line

_MIXES = (
    "an example's output depends on the other examples of its batch, so no per-example clipping is sound; "
    "find the layer that mixes the batch and replace it, or set privacy.kind = 'none'"
)

_LARGE = 1e4
"""How much larger an exchanged example is than the batch's largest number."""

STEPS = (0.0, 0.05)
"""How far from its own weights a model is checked: where it stands, and off it, for through weights that begin as zeros
nothing is seen.
"""

_LEVELS = (0.8, 1.25, -0.45, 0.3)
"""Further apart than what differs on them is high, and in no order."""

LOOKED_AT = 16
"""Examples of a batch that are enough to see whether it is mixed."""

_COLLECTIONS = (list, tuple, deque, dict, set, frozenset)
_CODE = (nn.Parameter, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
"""What is not looked into; parameters are compared by themselves."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""What PyTorch itself keeps in a module: its parameters, children, hooks and mode."""


def require_per_example(model: nn.Module, known: Callable[[nn.Module], bool] = lambda _: False) -> None:
    """Raise unless each example's output, and so its gradient, depends on that example alone.

    Opacus' validator lets a BatchNorm pass whose affine parameters are absent or frozen, though it mixes the batch.

    Args:
        model: what is to be trained.
        known: which layers the engine has rules for: Opacus refuses some only because its hooks do not bear them.

    Raises:
        ModelError: names the layer and what to use instead.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"{name} is {str(parameter.dtype).removeprefix('torch.')}, in which sums of clipped gradients are rounded "
                "beyond the clip; make the model float32, and set training.precision for its products"
            )
    for name, module in model.named_modules():
        if getattr(module, "max_norm", None) is not None and isinstance(module, nn.Embedding | nn.EmbeddingBag):
            raise ModelError(
                f"{name} is an {type(module).__name__} with max_norm, which rescales what is looked up, neither clipped "
                "nor noised; leave max_norm out, or set privacy.kind = 'none'"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(
                f"{name} is a {type(module).__name__}, which mixes the examples of a batch: no per-example clipping is sound; "
                "replace it by GroupNorm, or set privacy.kind = 'none'"
            )
    require_trained(model)
    mistakes = [
        mistake
        for _, module in trainable_modules(model)
        if type(module) in ModuleValidator.VALIDATORS and not known(module)
        for mistake in ModuleValidator.VALIDATORS[type(module)](module)
    ]
    if mistakes:
        raise ModelError(f"Opacus cannot train this model privately: {str(mistakes[0]).splitlines()[0]}")


def require_trained(model: nn.Module) -> None:
    """Raise where a parameter is frozen.

    Raises:
        ModelError: names it.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise ModelError(f"{name} is frozen (requires_grad = False); make it a constant, or train it")


@torch.no_grad()
def require_no_mixing(model: nn.Module, x_1: Tensor) -> None:
    """Raise when an example's logits change with its neighbour in the batch: what no list of layer types can rule out.

    Args:
        model: in training mode.
        x_1: one example, shape (1, ...).

    Raises:
        ModelError: some layer mixes the examples of a batch.
    """
    for step in STEPS:
        logits = []
        with moved(model, step):
            for neighbour in (torch.zeros_like(x_1), torch.ones_like(x_1)):
                with lent_randomness(x_1.device), _stateless(model):
                    logits.append(model(torch.cat([x_1, neighbour]))[0])
        if step and not all(bool(found.isfinite().all()) for found in logits):
            # There are models that cannot be moved: by a parameter under a root, say.
            continue
        if not torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5):
            raise ModelError(_MIXES)


def require_apart(model: nn.Module, measure: Callable[[Tensor], Sequence[Tensor]], x_B: Tensor, place: int = 0) -> None:
    """Raise when, in a real batch, another example in the place of one changes what the others come to, or the others it.

    A layer may mix the batch for such inputs only as no probe has: cut all to the longest, sort by length. Therefore all
    others are exchanged for the one, too: as it is, and as a shorter one, the second half of which is zeros.
    The error is the same whatever the data are.

    Args:
        model: in training mode, with parameters like those that are measured.
        measure: inputs -> losses, gradients or norms of each example, with the same randomness at every call.
        x_B: a batch, of which some are looked at.
        place: the example that is exchanged.

    Raises:
        ModelError: some layer mixes the examples of a batch, or remembers them.
    """
    other_B = x_B.clone()
    other_B[place] = _stranger(x_B, place)
    with lent_randomness(x_B.device), torch.no_grad():
        for batch in (x_B, other_B):
            with _stateless(model):
                model(batch.clone())
    here_B = torch.arange(len(x_B), device=x_B.device) == place
    # Copies: a model may write into what it is given.
    _require_still(measure(x_B.clone()), measure(other_B.clone()), ~here_B)
    for own in (x_B[place], _shorter(x_B[place])):
        among, alike = x_B.clone(), own.expand_as(x_B).clone()
        among[place] = own
        _require_still(measure(among), measure(alike), here_B)


def _require_still(before: Sequence[Tensor], after: Sequence[Tensor], of_B: Tensor) -> None:
    for one, two in (
        (found[of_B].flatten(1) if found.dim() > 1 else found[of_B, None] for found in pair)
        for pair in zip(before, after, strict=True)
    ):
        # An example that overflows has no gradient, with either neighbour.
        finite_B, still_B = (found.isfinite().all(1) for found in (one, two))
        moved_B = (one - two).norm(dim=1) > 1e-4 * one.norm(dim=1) + 1e-6
        if bool((finite_B != still_B).any()) or bool((moved_B & finite_B).any()):
            raise ModelError(_MIXES)


def _shorter(x: Tensor) -> Tensor:
    flat = x.flatten().clone()
    flat[len(flat) // 2 :] = 0
    return flat.view(x.shape)


def wave(tensor: Tensor) -> Tensor:
    """A sine of the tensor's shape: the direction in which checks move weights."""
    return torch.arange(tensor.numel(), dtype=tensor.dtype, device=tensor.device).sin().view(tensor.shape)


@contextmanager
def moved(model: nn.Module, step: float) -> Iterator[None]:
    """The model at weights a step off, for a check; afterwards they are what they were, to the bit."""
    parameters = list(model.parameters())
    with torch.no_grad():
        before = [parameter.clone() for parameter in parameters]
        for parameter in parameters:
            parameter.add_(wave(parameter), alpha=step)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def lent_randomness(device: torch.device) -> AbstractContextManager[None]:
    """Whatever is drawn inside from PyTorch's generators, of the CPU and of that device, has not been drawn afterwards."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _stranger(x_B: Tensor, place: int) -> Tensor:
    """Another value for an example: large and of both signs; where all inputs are integers, another of those there are.

    Integers may be numbers of words, also where they are kept as floats, and no table has a row for a large one.
    """
    one = x_B[place]
    if not x_B.is_floating_point() or bool((x_B == x_B.round()).all()):
        return x_B.max() + x_B.min() - one
    wave = torch.arange(one.numel(), dtype=x_B.dtype, device=x_B.device).cos().view(one.shape)
    finite_B = x_B.where(x_B.isfinite(), 0.0)
    return finite_B[place] + _LARGE * finite_B.abs().max().clamp(min=1.0) * wave


@contextmanager
def _stateless(model: nn.Module) -> Iterator[None]:
    """Raise where a pass leaves anything in the model that was not there before."""
    before = _state(model)
    yield
    after = _state(model)
    if before.keys() != after.keys() or not all(_same(value, after[name]) for name, value in before.items()):
        raise ModelError(
            "a layer keeps something of the examples that go through it, so that others' gradients may depend on them; "
            "take its buffers and running values away, or compute them when it is made, or set privacy.kind = 'none'"
        )


@contextmanager
def runnable(engine: str, way_out: str) -> Iterator[None]:
    """Say in one line that an engine does not bear a model, whatever its layers, or the engine's, raise.

    Raises:
        ModelError: they raised.
    """
    try:
        yield
    except (PrivflError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{engine} cannot run this model ({first_line(error)[:200]}); {way_out}") from error


class Unwritten:
    """Watches that only the optimizer writes into parameters: what a layer writes there is neither clipped nor noised."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        # Not their version numbers, past which .data writes.
        self._values = [parameter.detach().clone() for parameter in self._parameters]

    def require(self) -> None:
        """Raise where one was written to since this was made.

        Raises:
            ModelError: the same line whatever was written.
        """
        pairs = zip(self._parameters, self._values, strict=True)
        if not all(_same(parameter.detach(), value) for parameter, value in pairs):
            raise ModelError(
                "a layer writes into its own parameters when examples go through it, without clipping or noise; "
                "take that out of its forward(), or set privacy.kind = 'none'"
            )


def _state(model: nn.Module) -> dict[str, object]:
    """Parameters and buffers, and whatever else of tensors, numbers and words the modules hold, by name.

    In collections and in objects of any class, however deep.
    """
    found: dict[str, object] = {}
    # Modules of the model are looked into one by one, and whatever else once: it may hold itself.
    met = set(map(id, model.modules()))

    def add(name: str, value: object) -> None:
        if isinstance(value, _COLLECTIONS) or hasattr(value, "__dict__"):
            if id(value) in met:
                return
            met.add(id(value))
        if isinstance(value, (set, frozenset)):
            value = sorted(value, key=repr)
        if isinstance(value, (list, tuple, deque)):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            found[f"{name}.length"] = len(value)
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            found[name] = value.detach().clone()
        elif isinstance(value, np.ndarray):
            found[name] = value.copy()
        elif isinstance(value, (int, float, complex, str, bytes, np.generic, type(None))):
            found[name] = value
        elif hasattr(value, "__dict__") and not isinstance(value, _CODE):
            add(name, vars(value))

    for name, module in model.named_modules():
        for key, value in vars(module).items():
            # A recurrent layer holds its parameters by another name too.
            if key not in _OF_EVERY_MODULE and not (isinstance(module, nn.RNNBase) and key.startswith("_flat_weight")):
                add(f"{name}.{key}", value)
    for name, buffer in model.named_buffers():
        add(name, buffer)
    return found | {f"{name}, a parameter": value.detach().clone() for name, value in model.named_parameters()}


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or one != one)


def probe_like(x: Tensor, count: int) -> Tensor:
    """Inputs of the shape of real ones that tell nothing about them, so that no check depends on private data.

    Returns:
        shape (count, ...), numbers of both signs, by none of which four examples are in order: a layer that sorts them shows.
        Where a model makes integers of them they are zeros and ones, and so they are where real ones are integers.
    """
    shape = (count, *x.shape[1:])
    numbers = torch.arange(math.prod(shape), dtype=x.dtype, device=x.device)
    if not x.is_floating_point():
        return (numbers % 2).view(shape)
    levels = x.new_tensor([_LEVELS[i % len(_LEVELS)] for i in range(count)]).view(count, *[1] * (x.dim() - 1))
    # By the same for all examples, and by less than levels are apart.
    alike = numbers[: math.prod(shape[1:])].sin().view(1, *shape[1:])
    return levels + 0.3 * alike + 0.1 * numbers.cos().view(shape)


@torch.no_grad()
def probe_for(model: nn.Module, x: Tensor, count: int) -> Tensor:
    """:func:`probe_like`, or ones and twos, if the model bears only these: to some, zeros are no words but empty places."""
    probe = probe_like(x, count)
    for found in (probe, torch.arange(probe.numel(), dtype=x.dtype, device=x.device).remainder(2).view(probe.shape) + 1):
        with suppress(Exception), lent_randomness(x.device):
            if bool(model(found.clone()).isfinite().all()):
                return found
    return probe
