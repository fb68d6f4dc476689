"""Checks that every engine makes before it trains a model privately."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from privfl.errors import ModelError, PrivflError, first_line
from privfl.learning.tasks import Task

_MIXES = (
    "an example's output depends on the other examples of its batch, so no per-example clipping is sound; "
    "find the layer that mixes the batch and replace it, or set privacy.kind = 'none'"
)

_LARGE = 1e4
"""How much larger an exchanged example is than the batch's largest number."""

STEPS = (0.0, 0.05)
"""Distances from its own weights at which a model is checked: at them, and off them, because weights that begin as
zeros hide every dependence.
"""

LOOKED_AT = 16
"""Examples of a batch that are enough to see whether it is mixed."""

_COLLECTIONS = (list, tuple, deque, dict, set, frozenset)
_CODE = (nn.Parameter, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
"""Types whose contents are not searched for state; parameters are compared by themselves."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that PyTorch itself keeps in a module: its parameters, children, hooks and mode."""


def require_per_example(model: nn.Module) -> None:
    """Raise unless each example's output, and so its gradient, depends on that example alone, as far as layers' types tell.

    Opacus' validator lets a BatchNorm pass whose affine parameters are absent or frozen, though it mixes the batch.

    Raises:
        ModelError: names the layer or parameter and says how to go on.
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
                "replace it by GroupNorm" + ("" if module.track_running_stats else ", or set privacy.kind = 'none'")
            )


def require_no_counts(model: nn.Module) -> None:
    """Raise if a layer scales its gradient by counts of the words of all examples of a batch together.

    Raises:
        ModelError: names the layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.scale_grad_by_freq:
            raise ModelError(
                f"{name} is an {type(module).__name__} with scale_grad_by_freq, which counts the words of a whole batch"
            )


def outputs_of(model: nn.Module, task: Task, x_B: Tensor) -> Tensor:
    """The model's outputs for a batch.

    Raises:
        ModelError: they are no tensor with a row for each example and as many dimensions as the task's outputs.
    """
    found: object = model(x_B)
    if not isinstance(found, Tensor):
        raise ModelError(
            f"the model gives a {type(found).__name__}; return the outputs alone, a tensor of shape {_shape(task)}"
        )
    if found.dim() != task.dims or len(found) != len(x_B):
        raise ModelError(
            f"the model gives shape {tuple(found.shape)} for {len(x_B)} examples; return outputs of shape {_shape(task)}"
        )
    return found


def _shape(task: Task) -> str:
    return "(examples, outputs)" if task.dims == 2 else "(examples, places, outputs)"


@torch.no_grad()
def unlikely(model: nn.Module, task: Task, x_B: Tensor) -> Tensor:
    """A label for each example, shape (B, ...), far from the model's prediction, so that no gradient vanishes."""
    with lent_randomness(x_B.device):
        return task.unlikely(outputs_of(model, task, x_B.clone()))


@torch.no_grad()
def require_own_loss(model: nn.Module, task: Task, x_B: Tensor, y_B: Tensor | None = None) -> None:
    """Raise if an example's loss depends on the other examples of its batch, or the task gives no loss for each example.

    Args:
        model: in training mode.
        task: the task whose loss is checked.
        x_B: at least two examples, shape (B, ...).
        y_B: their labels; None: some of the task's. Only real labels reveal a loss that is divided by a count over
            the batch's labels.

    Raises:
        ModelError: no per-example clipping is sound with that loss; the same line whatever the data are.
    """
    with lent_randomness(x_B.device):
        outputs = outputs_of(model, task, x_B.clone())
    y_B = task.unlikely(outputs) if y_B is None else y_B
    for labels_B in (y_B, y_B.roll(1, 0)):
        losses_B = task.loss(outputs.clone(), labels_B)
        if losses_B.shape != (len(x_B),):
            raise ModelError(
                f"task.kind = {task.kind!r}: loss() gives shape {tuple(losses_B.shape)} for {len(x_B)} examples; it must give "
                "one number for each, not reduced"
            )
        alone = [task.loss(outputs[i : i + 1].clone(), labels_B[i : i + 1]) for i in range(len(x_B))]
        if not torch.allclose(losses_B, torch.cat(alone), rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ModelError(
                f"task.kind = {task.kind!r}: an example's loss depends on the other examples of its batch, so no per-example "
                "clipping is sound; divide by nothing that is counted over the batch"
            )


@torch.no_grad()
def require_no_mixing(model: nn.Module, task: Task, x_B: Tensor) -> None:
    """Raise if an example's outputs change with its neighbour in the batch.

    No list of layer types can rule that out.

    Args:
        model: in training mode.
        task: says which shape outputs have.
        x_B: at least three examples, shape (B, ...); the first has each of the others for a neighbour.

    Raises:
        ModelError: some layer mixes the examples of a batch.
    """
    for step in STEPS:
        outputs = []
        with moved(model, step):
            for neighbour in x_B[1:]:
                with lent_randomness(x_B.device), _stateless(model):
                    outputs.append(outputs_of(model, task, torch.stack([x_B[0], neighbour]))[0])
        if step and not all(bool(found.isfinite().all()) for found in outputs):
            # Some models have no finite outputs off their own weights, if a parameter stands under a root, say.
            continue
        if not all(torch.allclose(outputs[0], found, rtol=1e-4, atol=1e-5) for found in outputs[1:]):
            raise ModelError(_MIXES + _second(model))


def _second(model: nn.Module) -> str:
    """Hint for the error: a layer that takes its batch second, PyTorch's default and mostly the cause; else empty."""
    names = [name or "the model" for name, layer in model.named_modules() if getattr(layer, "batch_first", True) is False]
    return f" ({names[0]} takes its batch second; make it with batch_first=True if it is given it first)" if names else ""


def require_apart(model: nn.Module, measure: Callable[[Tensor], Sequence[Tensor]], x_B: Tensor, place: int = 0) -> None:
    """Raise if, in a real batch, replacing one example changes another's loss or gradient, or replacing these its own.

    A layer may mix a batch only for inputs that no probe has: it may cut all to the longest, or sort by length.
    Therefore the others are replaced by copies of the one, too: as it is, and shortened, with zeros in its second
    half. A replacement must be an input that the model takes by itself: a table has no row for a large number.
    The error is the same whatever the data are.

    Args:
        model: in training mode, with parameters like those that are measured.
        measure: inputs -> losses, gradients or norms of each example, with the same randomness at every call.
        x_B: a batch, or some examples of one.
        place: index of the example that is replaced.

    Raises:
        ModelError: some layer mixes the examples of a batch, or remembers them.
    """
    other_B = x_B.clone()
    other_B[place] = next(
        (other for other in _strangers(x_B, place) if bears(model, other[None], finite=False)), x_B[place - 1]
    )
    with lent_randomness(x_B.device), torch.no_grad():
        for batch in (x_B, other_B):
            with _stateless(model):
                model(batch.clone())
    here_B = torch.arange(len(x_B), device=x_B.device) == place
    # Copies: a model may write into what it is given.
    _require_still(measure(x_B.clone()), measure(other_B.clone()), ~here_B)
    shorter = _shorter(x_B[place])
    for own in (x_B[place], shorter) if bears(model, shorter[None], finite=False) else (x_B[place],):
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
    """The model at weights a step off, for a check; afterwards the weights are restored to the bit."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
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
    """Restore PyTorch's generators, of the CPU and of that device, after the draws inside."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _strangers(x_B: Tensor, place: int) -> Iterator[Tensor]:
    """Other values for an example, the strangest first.

    Integers may be numbers of words, also if they are kept as floats, and no table has a row for a large one: they become
    others of the range that is met. Other numbers become large, and of both signs; at last they stay in their range too.
    """
    finite_B = x_B.where(x_B.isfinite(), 0.0) if x_B.is_floating_point() else x_B
    one, whole = finite_B[place], whole_numbers(finite_B)
    mirrored = finite_B.amax(0) + finite_B.amin(0) - one
    if bool(whole.all()):
        yield finite_B.max() + finite_B.min() - one
    else:
        wave = torch.arange(one.numel(), dtype=x_B.dtype, device=x_B.device).cos().view(one.shape)
        yield mirrored.where(whole, one + _LARGE * finite_B.abs().max().clamp(min=1.0) * wave)
    yield mirrored


def whole_numbers(x_B: Tensor) -> Tensor:
    """Which numbers of an example, shape (...), are integers in every example of a batch (B, ...)."""
    return (x_B == x_B.round()).all(0) if x_B.is_floating_point() else torch.ones_like(x_B[0], dtype=torch.bool)


def bears(model: nn.Module, x_B: Tensor, *, finite: bool = True) -> bool:
    """Whether a model takes these inputs, and, if so asked, gives finite numbers for them.

    A copy is run, so that a layer may keep state in it, and on the CPU: there an index beyond a table is an
    exception, on a GPU it would end the process.
    """
    with suppress(Exception), torch.no_grad(), lent_randomness(torch.device("cpu")):
        found = copy.deepcopy(model).cpu()(x_B.detach().cpu().clone())
        return not finite or bool(found.isfinite().all())
    return False


@contextmanager
def _stateless(model: nn.Module) -> Iterator[None]:
    """Raise if a pass changes the state that a model holds."""
    before = _state(model)
    yield
    after = _state(model)
    if before.keys() != after.keys() or not all(_same(value, after[name]) for name, value in before.items()):
        raise ModelError(
            "a layer keeps something of the examples that go through it, so that others' gradients may depend on them; "
            "take its buffers and running values away, or compute them when it is made, or set privacy.kind = 'none'"
        )


@contextmanager
def runnable(engine: str) -> Iterator[None]:
    """Turn an exception of a model's layers, or of the engine's, into one line that names the engine.

    Raises:
        ModelError: they raised.
    """
    try:
        yield
    except (PrivflError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{engine} cannot run this model ({first_line(error)[:200]})") from error


class Unwritten:
    """Watches for layers that write into parameters: such a change is neither clipped nor noised."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        # Values, not version numbers: a write through .data leaves those unchanged.
        self._values = [parameter.detach().clone() for parameter in self._parameters]

    def require(self) -> None:
        """Raise if a parameter was written to since this object was made.

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
    """All parameters, buffers, and other tensors, numbers and strings that the modules hold, by name.

    Collections and objects of any class are searched, however deep.
    """
    found: dict[str, object] = {}
    # Modules of the model are searched one by one, and every other object once, because it may hold itself.
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
