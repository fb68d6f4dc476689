"""The ceilings of a device, and the share of each that a round takes: products, bandwidth, launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from _engines import MODELS, Work
from _harness import interleaved
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_NO_KERNELS = {getattr(torch.ops.aten, name) for name in ("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view")}
_OVERWRITES = {getattr(torch.ops.aten, name) for name in ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_")}
_REDUCES = {getattr(torch.ops.aten, name) for name in ("sum", "mean", "prod", "linalg_vector_norm")}


@dataclass(frozen=True)
class Ceilings:
    """Operations and bytes a second that the device reaches, and the seconds of a launch."""

    float32: float
    tf32: float
    bandwidth: float
    launch: float


def ready(device: torch.device) -> float:
    """Wait for the device, then read the clock, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(run: Callable[[], object], device: torch.device, times: int) -> float:
    """Seconds of one call, as the median of five series."""
    run()

    def series() -> None:
        for _ in range(times):
            run()

    return interleaved({"it": series}, 5, lambda: ready(device))["it"].median / times


def ceilings(device: torch.device, size: int, bytes_copied: int) -> Ceilings:
    """Measured: a square product of that size, a copy of so many bytes, and adding one number."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    out, one = torch.empty_like(a), torch.zeros(1, device=device)
    rates = {}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        rates[precision] = 2 * size**3 / seconds(lambda: torch.mm(a, b, out=out), device, 10)
    torch.set_float32_matmul_precision("highest")
    here = torch.randn(bytes_copied // 4, device=device)
    there = torch.empty_like(here)
    return Ceilings(
        float32=rates["highest"],
        tf32=rates["high"],
        bandwidth=2 * bytes_copied / seconds(lambda: there.copy_(here), device, 10),
        launch=seconds(lambda: one.add_(1.0), device, 1000),
    )


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts a device's kernels, and the bytes that they read and write; views and fresh memory are none.

    A tensor that is read and written counts twice. A reduction that is asked for another type first makes a whole copy of
    that type.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.kernels = self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        found = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket not in _NO_KERNELS:
            sides = [self._here(side) for side in _read_and_written(func, args, kwargs or {}, found)]
            self.kernels += any(sides)
            self.moved += sum(sum(side.values()) for side in sides)
            wanted = (kwargs or {}).get("dtype")
            if func.overloadpacket in _REDUCES and wanted not in (None, args[0].dtype) and self._here([args[0]]):
                self.moved += 2 * args[0].numel() * wanted.itemsize
        return found

    def _here(self, tensors: Sequence[Tensor]) -> dict[int, int]:
        """The bytes of each of those tensors that are on the device, an address once."""
        return {one.data_ptr(): one.nbytes for one in tensors if one.device.type == self.device.type and one.numel()}


def _read_and_written(func: Any, args: Sequence[Any], kwargs: dict[str, Any], found: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors that an operation reads and those that it writes, by its schema: made anew, or changed in place."""
    given = [*zip(func._schema.arguments, args, strict=False), *((one, kwargs.get(one.name)) for one in func._schema.arguments)]
    changed = [(one, value) for one, value in given if one.alias_info is not None and one.alias_info.is_write]
    # An output that was given, or a tensor that is filled anew, is written and not read.
    written = _tensors([value for _, value in changed])
    into = [] if func.overloadpacket in _OVERWRITES else _tensors([value for one, value in changed if not one.kwarg_only])
    read = _tensors([value for one, value in given if one.alias_info is None or not one.alias_info.is_write])
    return [*read, *into], [*written, *_tensors((found,))]


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found.extend(_tensors(value))
    return found


def needed_operations(work: Work) -> float:
    """Floating-point operations of a round's passes forward and backward, without privacy and without any waste."""
    task, model = work.tasks()[0], MODELS[work.model]()
    x, y = task.examples(torch.arange(work.batch))
    with FlopCounterMode(display=False) as counted:
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    return float(counted.get_total_flops()) * work.clients * work.steps
