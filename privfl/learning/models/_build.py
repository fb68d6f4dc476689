"""Builds a run's module once: complete, checked, and the same in every process that has the same stream.

``build()`` may draw values that are no parameters: random features, or a base that is kept as a plain tensor. Every
use of the module (training, evaluation) is therefore a copy of one that was built, and never built anew.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from privfl.data.federated import Examples, FederatedData
from privfl.data.input_store import InputStore
from privfl.data.named_inputs import Field, unpacked
from privfl.errors import ModelError, PrivflError, first_line
from privfl.learning.models import Model
from privfl.learning.models._lora import adapted
from privfl.learning.models._trainable import chosen, freeze_all_but
from privfl.learning.models._weights import load_weights
from privfl.seeding import Seed
from privfl.vectors import to_vector

T = TypeVar("T")

_TRAINED = (torch.float32, torch.float64)


def few(data: FederatedData) -> Tensor:
    """Two inputs of the test split, which belong to no client and have values that the model takes."""
    some = Examples(data.test.x[[0, -1]], data.test.y[[0, -1]])
    return InputStore.of(some, data.pixels, torch.device("cpu"))[:]


def built(item: Model, x_B: Tensor, outputs: tuple[int, ...], stream: Seed, fields: tuple[Field, ...] = ()) -> nn.Module:
    """The module of an item of the shelf, in training mode; lazy layers are made whole by an example.

    Args:
        item: the model's item on the shelf.
        x_B: a few inputs of the right shape, type and range, on the CPU; they are not trained on.
        outputs: the shape of one example's outputs, the width of the last layer last.
        stream: source of the initial weights, and of everything else that ``build()`` draws from the global
            generators of PyTorch, NumPy and Python.
        fields: the inputs in a row of ``x_B``, if an example has several.

    Raises:
        ModelError: one line, with the model's name: ``build()`` raised, or returned something that cannot be trained.
    """
    shape = _input_shape(item, x_B, fields)
    with _drawing_from(stream):
        if item.torch_seed is not None:
            torch.manual_seed(item.torch_seed)
        module: object = _asked(item, "build() failed", lambda: item.build(shape, outputs[-1]))
        if not isinstance(module, nn.Module):
            found = "nothing; end it with `return`" if module is None else f"{_named(module)}; it must return an nn.Module"
            raise _refused(item, f"build() returned {found}")
        if isinstance(module, torch.jit.ScriptModule):
            raise _refused(item, "build() returned TorchScript, whose layers cannot be trained; return the nn.Module itself")
        if item.inputs:
            module.register_forward_pre_hook(_ByName(fields, item.inputs, item.as_dictionary), with_kwargs=True)
        if any(isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer) for value in _tensors(module)):
            whole: nn.Module = module
            with torch.no_grad():
                _asked(item, _unfit(x_B), lambda: whole.eval()(x_B[:1].clone()))
        module = _begun(item, module)
    for name, parameter in module.named_parameters():
        if parameter.dtype not in _TRAINED:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise _refused(item, f"{name} is {kind}; the weights must be float32: build it without .half(), or add .float()")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise _refused(item, "has no parameter that is trained; give it a layer that has, or set requires_grad")
    return module.train()


def _begun(item: Model, module: nn.Module) -> nn.Module:
    """The module at its initial weights, with its adapters, in which only the parameters that the settings name are trained."""
    if item.weights is not None:
        load_weights(module, item.weights, item.weights_hash or "")
    if item.trainable is None and item.lora is None:
        return module
    kept = chosen(module, item.trainable or ())
    if item.lora is not None:
        module, factors = adapted(module, item.lora, kept)
        kept += factors
    if not kept:
        raise ModelError(
            f"model.trainable = {list(item.trainable or ())}: leaves nothing to train; name a parameter that the model "
            "does not freeze itself"
        )
    freeze_all_but(module, kept)
    return module


def sound(item: Model, x_B: Tensor, outputs: tuple[int, ...], stream: Seed, fields: tuple[Field, ...] = ()) -> nn.Module:
    """The module of :func:`built` on the device of ``x_B``, after every check that is possible before training.

    Args:
        item: the model's item on the shelf.
        x_B: a few inputs, at least two, on the run's device.
        outputs: the shape of one example's outputs, the width of the last layer last.
        stream: see :func:`built`.
        fields: see :func:`built`.

    Raises:
        ModelError: as :func:`built`; or the module does not give each example finite outputs of that shape, or cannot be
            copied, or another call of ``build()`` from the same stream gives another: every process of a run, and every
            attack on it later, builds its own.
    """
    module, again = (built(item, x_B.cpu(), outputs, stream, fields).to(x_B.device) for _ in range(2))
    logits, others = (_logits(item, copied(item, one), x_B, outputs) for one in (module, again))
    alike = (
        torch.equal(to_vector(module), to_vector(again))
        and constants(module) == constants(again)
        and torch.allclose(logits, others, rtol=1e-3, atol=1e-4)
    )
    if not alike:
        raise _refused(
            item,
            "build() gives another model each time, so that no run of it could be repeated, resumed or attacked; let it draw "
            "by torch.randn, np.random or random, which are seeded around it, or from a generator with a seed of its own",
        )
    return module


def copied(item: Model, module: nn.Module) -> nn.Module:
    """A deep copy of a module, with the same weights and the same constants.

    Raises:
        ModelError: it cannot be copied.
    """
    return _asked(
        item,
        "what build() returned cannot be copied for evaluation (copy.deepcopy); keep in it only what can be",
        lambda: copy.deepcopy(module),
    )


def constants(module: nn.Module) -> str:
    """SHA-256 of all tensors and arrays that a module holds and that are not trained.

    Those are plain tensors, buffers and frozen parameters, in collections and objects of any class: all that a copy of the
    module takes with it. Values in a function's closure are not seen.
    """
    memo: dict[int, object] = {}
    # As it is entered here, the memo holds each tensor once, in the order in which it was met.
    copy.deepcopy(module, memo)
    trained = {id(value) for value in module.parameters() if value.requires_grad}
    sha = hashlib.sha256()
    for held, value in memo.items():
        if isinstance(value, Tensor) and held not in trained:
            sha.update(str((value.dtype, tuple(value.shape))).encode())
            sha.update(value.detach().to_dense().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            sha.update(str((value.dtype, value.shape)).encode())
            sha.update(np.ascontiguousarray(value).data)
    return sha.hexdigest()


def _input_shape(item: Model, x_B: Tensor, fields: tuple[Field, ...]) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """The shape of one input for ``build()``; if the item has named inputs, the shape of each."""
    shapes = {field.name: field.shape for field in fields}
    if not item.inputs:
        if fields:
            raise _refused(
                item,
                f"takes one tensor, and the data have {', '.join(shapes)}; set `inputs` in its class to those that it takes",
            )
        return tuple(x_B.shape[1:])
    missing = [name for name in item.inputs if name not in shapes]
    if missing:
        there = f"have {', '.join(shapes)}" if shapes else "have one without a name; give them as Examples.of({name: array}, y)"
        raise _refused(item, f"takes {', '.join(item.inputs)}, and the data {there}")
    return {name: shapes[name] for name in item.inputs}


@dataclass(frozen=True)
class _ByName:
    """Gives a module its inputs by name, out of rows in which they are packed.

    It is a hook, so that no name of a parameter changes. A call with inputs by name is left as it is.
    """

    fields: tuple[Field, ...]
    names: tuple[str, ...]
    as_dictionary: bool

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            return args, kwargs
        found = unpacked(args[0], self.fields, self.names)
        return ((found,), {}) if self.as_dictionary else ((), found)


def by_name_alone(module: nn.Module) -> nn.Module:
    """The module of :func:`built` without the hook that gives it its inputs out of rows."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _ByName):
            del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]
    return module


@contextmanager
def _drawing_from(stream: Seed) -> Iterator[None]:
    """Seed the global generators from that stream for the draws inside; afterwards restore their states."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(stream.torch().get_state())
            np.random.seed(np.frombuffer((stream / "numpy").key(), np.uint32))  # noqa: NPY002
            random.seed((stream / "python").key())
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _logits(item: Model, module: nn.Module, x_B: Tensor, outputs: tuple[int, ...]) -> Tensor:
    """Outputs of a throw-away module in evaluation mode, after its outputs in training mode were checked too."""
    logits = x_B
    for training in (True, False):
        module.train(training)
        with torch.no_grad(), torch.random.fork_rng([x_B.device] if x_B.is_cuda else []):
            found: object = _asked(item, _unfit(x_B), lambda: module(x_B.clone()))
        logits = _as_logits(item, found, len(x_B), outputs)
    return logits


def _as_logits(item: Model, found: object, examples: int, outputs: tuple[int, ...]) -> Tensor:
    wanted = f"({', '.join(map(str, ('B', *outputs)))})"
    if not isinstance(found, Tensor):
        inside = "its 'logits'" if isinstance(found, dict) and "logits" in found else "the outputs alone"
        raise _refused(item, f"forward() gives {_named(found)}, not a tensor; return {inside}, of shape {wanted}")
    shape, width = tuple(found.shape), outputs[-1]
    if shape[:-1] == (examples, *outputs[:-1]) and shape[-1] != width:
        numbers = [f"{count} {'output' if count == 1 else 'outputs'}" for count in (shape[-1], width)]
        raise _refused(
            item,
            f"gives {numbers[0]}, and the task needs {numbers[1]} an example: the second argument of build() says how many "
            f"(nn.Linear(..., {width}) at the end)",
        )
    if shape != (examples, *outputs):
        raise _refused(
            item,
            f"gives a tensor of shape {shape} for {examples} examples; it must be ({examples}, "
            f"{', '.join(map(str, outputs))}): a row for each example, the outputs last",
        )
    if found.dtype not in _TRAINED:
        kind = str(found.dtype).removeprefix("torch.")
        raise _refused(item, f"gives logits of {kind}; they must be float32: end forward() with .float()")
    if not bool(found.isfinite().all()):
        raise _refused(
            item, "gives logits that are NaN or infinite before it is trained; mend its initial weights or its layers"
        )
    return found


def _asked(item: Model, why: str, call: Callable[[], T]) -> T:
    """The result of a call of a user's own code, whose exceptions become one line.

    Raises:
        ModelError: names the model and the exception, which is its cause.
    """
    try:
        return call()
    except (PrivflError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _refused(item, f"{why} ({type(error).__name__}: {first_line(error)[:200]})") from error


def _unfit(x_B: Tensor) -> str:
    return f"cannot take the data's inputs, which are {tuple(x_B.shape[1:])} an example"


def _refused(item: Model, why: str) -> ModelError:
    return ModelError(f"model.kind = {item.kind!r}: {why}")


def _named(value: object) -> str:
    kind = "a class" if isinstance(value, type) else type(value).__name__
    return kind if kind == "a class" else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
