"""What does a GPU do for a cohort's private training, how far is that from what the card can, and what limits it?

Rounds as in ``bench_training.py``: two steps of batch 32, Poisson-sampled where they are private, at each of 50 clients, by a
plain loop of PyTorch over tensors that lie on the card, by the fused engine with and without privacy, and by Opacus one client
after another. Beside them the card's ceilings as measured in the same run (a product of matrices in float32 and in TF32, a
copy, a launch), and what share of each a round takes: the largest is what limits it. The updates are compared with the CPU's.
Where PyTorch finds no GPU, nothing is measured.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from _engines import MODELS, Work, cases
from _harness import Figures, Sample, figures, interleaved, options, print_table, write_json
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from privfl.learning.training import LocalResult
from privfl.learning.training._precision import float32_products

WAYS = ("plain", "fused_nonprivate", "fused", "opacus")
CLIENTS = 50
MIB, GIGA, TERA = 2**20, 1e9, 1e12
_NO_KERNELS = {getattr(torch.ops.aten, name) for name in ("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view")}
_OVERWRITES = {getattr(torch.ops.aten, name) for name in ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_")}
_REDUCES = {getattr(torch.ops.aten, name) for name in ("sum", "mean", "prod", "linalg_vector_norm")}


@dataclass(frozen=True)
class Ceilings:
    """What the card can: operations and bytes a second, and the seconds of a launch."""

    float32: float
    tf32: float
    bandwidth: float
    launch: float


def ready(device: torch.device) -> float:
    """The time when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(run: Callable[[], object], device: torch.device, times: int) -> float:
    """Of one call, as the median of five series."""
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

    What is read and written counts twice. A reduction that is asked for another type makes a whole copy of that type first.
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
    """What an operation reads and what it writes, by its schema: what it makes, and what it changes in place."""
    given = [*zip(func._schema.arguments, args, strict=False), *((one, kwargs.get(one.name)) for one in func._schema.arguments)]
    changed = [(one, value) for one, value in given if one.alias_info is not None and one.alias_info.is_write]
    # What is only there to be written is not read: an output that was given, or what is filled anew.
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


def difference(work: Work, way: str, device: torch.device) -> float:
    """The largest ‖update on the device − update on the CPU‖ / ‖update on the CPU‖ of a client, at the batches of a round."""
    places = (device, torch.device("cpu"))
    here, there = (cast(list[LocalResult], cases(work, [way], place)[way]()) for place in places)
    pairs = zip(here, there, strict=True)
    return max(float((one.delta_D.cpu() - other.delta_D).norm() / other.delta_D.norm()) for one, other in pairs)


def measure(work: Work, device: torch.device, card: Ceilings, repeats: int) -> tuple[dict[str, Sample], Figures]:
    """Milliseconds of a round in each way, and what they come to."""
    ways, flat = cases(work, WAYS, device), Figures()
    taken = interleaved(ways, repeats, lambda: ready(device))
    flat[f"gpu_opacus_over_fused.{work.model}"] = taken["opacus"].over(taken["fused"]).median
    flat[f"gpu_fused_over_plain.{work.model}"] = taken["fused"].over(taken["plain"]).median
    flat[f"gpu_private_share_of_throughput.{work.model}"] = taken["fused_nonprivate"].over(taken["fused"]).median
    operations = needed_operations(work)
    for way in ("fused_nonprivate", "fused"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        traffic = Traffic(device)
        with traffic:
            ways[way]()
        took, name = taken[way].median, f"{work.model}.{way}"
        flat[f"gpu_kernels_a_step.{name}"] = traffic.kernels / work.steps
        flat[f"gpu_share_of_products.{name}"] = operations / took / card.float32
        flat[f"gpu_share_of_bandwidth.{name}"] = traffic.moved / took / card.bandwidth
        flat[f"gpu_share_of_launches.{name}"] = traffic.kernels * card.launch / took
        if device.type == "cuda":
            flat[f"gpu_peak_mib.{name}"] = torch.cuda.max_memory_allocated(device) / MIB
    flat[f"gpu_difference_from_cpu.{work.model}"] = difference(Work(work.model, 4), "fused_nonprivate", device)
    return {way: sample.times(1e3) for way, sample in taken.items()}, flat


def main(argv: Sequence[str] | None = None, device: str = "cuda") -> int:
    """Print the tables, or write the figures; ``device``: the card, or the CPU to try the file itself."""
    asked = options(__doc__ or "", argv)
    warnings.simplefilter("ignore")
    if device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here, so nothing was measured; `privfl doctor` shows what it finds")
        return 0
    here = torch.device(device)
    card = ceilings(here, 1024 if asked.quick else 8192, 64 * MIB if asked.quick else 2048 * MIB)
    flat: Figures = {
        "gpu_float32_tflops": card.float32 / TERA,
        "gpu_tf32_tflops": card.tf32 / TERA,
        "gpu_bandwidth_gbs": card.bandwidth / GIGA,
        "gpu_launch_us": card.launch * 1e6,
    }
    models = ("cnn",) if asked.quick else ("cnn", "mlp", "resnet8", "transformer")
    rounds = {}
    # By default the plain loop's and Opacus' convolutions would be rounded, and nobody else's.
    with float32_products():
        for model in models:
            rounds[model], more = measure(Work(model, CLIENTS), here, card, 3 if asked.quick else 7)
            flat |= more
    if asked.json is not None:
        for model, samples in rounds.items():
            flat |= figures(f"gpu_{model}_k{CLIENTS}", {f"{way}_ms": sample for way, sample in samples.items()})
        write_json(asked.json, flat)
        return 0
    name = torch.cuda.get_device_name(here) if here.type == "cuda" else "the CPU"
    columns = {model: {way: f"{sample:.2f}" for way, sample in samples.items()} for model, samples in rounds.items()}
    print_table(f"{name}: ms a round of {CLIENTS} clients", columns)
    print_table("figures", {"": {name: f"{value:.4g}" for name, value in flat.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
