"""Both engines on a grid of layers and their settings, that of Opacus' own tests and more: autograd's gradients, or a refusal.

Each row is a layer, and a shape of one example: integers below WORDS if the layer looks them up, else numbers. Both engines
are put beside a loop of autograd over single examples, in float64.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from engines import plan, settings
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention, SequenceBias
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from privfl.errors import ModelError
from privfl.learning.training import Trainer
from privfl.learning.training._conversion import convert
from privfl.learning.training._passes import Clipping, clip_factors, run_pass
from privfl.learning.training._rules import Runs
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus, PerExample
from privfl.vectors import to_vector

CLASSES, EXAMPLES, WORDS = 3, 4, 6

Build = Callable[[], nn.Module]
GRID: dict[str, tuple[Build, tuple[int, ...]]] = {}


def row(layer: Callable[..., nn.Module], shape: tuple[int, ...], *args: Any, **given: Any) -> None:
    said = ", ".join([*map(str, args), *(f"{name}={value}" for name, value in given.items())])
    GRID[f"{layer.__name__}({said}) of {'x'.join(map(str, shape))}"] = (lambda: layer(*args, **given)), shape


def _convolutions() -> None:
    kinds: tuple[tuple[type[nn.Module], tuple[int, ...], tuple[Any, ...], tuple[Any, ...]], ...] = (
        (nn.Conv1d, (7,), (2, 3), (0, 1, 2)),
        (nn.Conv2d, (5, 6), (2, (3, 2)), (0, 2, (1, 0))),
        (nn.Conv3d, (2, 4, 5), (2, (1, 2, 3)), (0, 1, (1, 0, 2))),
    )
    for layer, size, kernels, paddings in kinds:
        dilations = (1, (1,) * (len(size) - 1) + (2,))
        for kernel, stride, padding, dilation, groups in itertools.product(
            kernels, (1, 2), (*paddings, "same", "valid"), dilations, (1, 2)
        ):
            if padding != "same" or stride == 1:
                row(layer, (2, *size), 2, 4, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
        for mode, stride in itertools.product(("reflect", "replicate", "circular"), (1, 2)):
            row(layer, (2, *size), 2, 3, 2, stride=stride, padding=1, padding_mode=mode)
        row(layer, (1, *size), 1, 1, 2)
        row(layer, (3, *size), 3, 1, 2, bias=False)
        row(layer, (4, *size), 4, 4, 2, groups=4)
    for layer, size in ((nn.ConvTranspose1d, (5,)), (nn.ConvTranspose2d, (3, 4)), (nn.ConvTranspose3d, (2, 3, 2))):
        row(layer, (2, *size), 2, 4, 2)
        row(layer, (2, *size), 2, 4, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=1)


def _tables() -> None:
    for shape, padding, freq in itertools.product(((5,), (3, 2), (2, 3, 2)), (None, 0, 4, -1), (False, True)):
        row(nn.Embedding, shape, WORDS, 3, padding_idx=padding, scale_grad_by_freq=freq)
    row(nn.Embedding, (5,), WORDS, 3, sparse=True)
    row(nn.Embedding, (5,), WORDS, 3, padding_idx=2, sparse=True)
    for mode, padding in itertools.product(("sum", "mean", "max"), (None, 0, -1)):
        row(nn.EmbeddingBag, (5,), WORDS, 3, mode=mode, padding_idx=padding)
    for mode in ("sum", "mean"):
        row(nn.EmbeddingBag, (5,), WORDS, 3, mode=mode, scale_grad_by_freq=True)


def _norms() -> None:
    for shape, groups in itertools.product(((4,), (4, 5), (4, 3, 2), (4, 2, 2, 3)), (1, 2, 4)):
        # A group of one number is normalised to zero.
        if len(shape) > 1 or groups < 4:
            row(nn.GroupNorm, shape, groups, 4)
    for layer, size in ((nn.InstanceNorm1d, (5,)), (nn.InstanceNorm2d, (3, 2)), (nn.InstanceNorm3d, (2, 3, 2))):
        for channels in (1, 3):
            row(layer, (channels, *size), channels, affine=True)
    for kind, shape in itertools.product((nn.LayerNorm, nn.RMSNorm), ((5,), (3, 5), (2, 3, 5))):
        for last in range(1, len(shape) + 1):
            row(kind, shape, shape[-last:])
    row(nn.LayerNorm, (3, 5), 5, bias=False)


def _sequences() -> None:
    for layer, layers, bias, both in itertools.product((DPRNN, DPGRU, DPLSTM), (1, 2), (True, False), (True, False)):
        row(layer, (3, 4), 4, 3, num_layers=layers, bias=bias, bidirectional=both, batch_first=True)
    for layers, bias in itertools.product((1, 2), (True, False)):
        row(nn.LSTM, (3, 4), 4, 3, num_layers=layers, bias=bias, batch_first=True)
    for bias, zero in itertools.product((True, False), (True, False)):
        row(DPMultiheadAttention, (3, 4), 4, 2, bias=bias, add_zero_attn=zero, batch_first=True)
    for bias in (True, False):
        row(nn.MultiheadAttention, (3, 4), 4, 2, bias=bias, batch_first=True)
    row(SequenceBias, (3, 4), 4, batch_first=True)


def _others() -> None:
    for shape, bias in itertools.product(((4,), (3, 4), (2, 3, 4)), (True, False)):
        row(nn.Linear, shape, 4, 5, bias=bias)
    row(nn.PReLU, (3, 4))
    row(nn.PReLU, (3, 4), 3)


for fill in (_convolutions, _tables, _norms, _sequences, _others):
    fill()


class Logits(nn.Module):
    """A layer, and a fixed head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.looks_up = isinstance(layer, nn.Embedding | nn.EmbeddingBag)
        self.attends = isinstance(layer, nn.MultiheadAttention | DPMultiheadAttention)

    def forward(self, x: Tensor) -> Tensor:
        x = x.long() if self.looks_up else x
        found = self.layer(x, x, x) if self.attends else self.layer(x)
        flat: Tensor = (found[0] if isinstance(found, tuple) else found).flatten(1).tanh()
        head = torch.arange(flat.shape[1] * CLASSES, dtype=flat.dtype).sin().view(flat.shape[1], CLASSES)
        return flat @ head


def built(name: str) -> tuple[Logits, Tensor, Tensor]:
    build, shape = GRID[name]
    torch.manual_seed(0)
    module = Logits(build()).double()
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(EXAMPLES, *shape, generator=draw, dtype=torch.float64)
    if module.looks_up:
        x = torch.randint(WORDS, x.shape, generator=draw).double()
    return module, x, torch.arange(EXAMPLES) % CLASSES


def gradients(module: nn.Module, x: Tensor, y: Tensor) -> Iterator[list[Tensor]]:
    """Each example's gradient, by autograd and nothing else."""
    for i in range(len(y)):
        loss = cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        yield [gradient.to_dense() for gradient in torch.autograd.grad(loss, list(module.parameters()))]


def close(found: Tensor, right: Tensor) -> None:
    assert torch.allclose(found, right, rtol=1e-9, atol=1e-12)


def refused(engine: type[Trainer], name: str) -> bool:
    """Whether a row is refused, for the reason that stands in the table; if not, the engine's own checks pass."""
    module, x, _ = built(name)
    reasons = [reason for words, reason in REFUSED[engine].items() if re.search(words, name)]
    module, of = module.float(), plan()
    if not reasons:
        # There are too many plain convolutions for that.
        if not name.startswith("Conv") or "padding_mode" in name:
            engine(module, settings(of), of).prepare(to_vector(module), x.float())
        return False
    with pytest.raises(ModelError, match=reasons[0]):
        engine(module, settings(of), of).prepare(to_vector(module), x.float())
    return True


REFUSED: dict[type[Trainer], dict[str, str]] = {
    Fused: {r"^DP(RNN|GRU|LSTM)": "is a parameter that another layer has too"},
    Opacus: {
        "padding_mode": "Opacus' per-example gradients are others than autograd's",
        "^Embedding.*scale_grad_by_freq=True": "scale_grad_by_freq, which counts the words of a whole batch",
        "^EmbeddingBag": "is an EmbeddingBag, in which Opacus counts a word that comes twice once",
        "LayerNorm.*bias=False": "Opacus cannot run this model",
        r"^(LSTM|MultiheadAttention)\(": "which Opacus' hooks do not bear; put opacus.layers.DP",
    },
}


def test_the_grid_has_its_rows() -> None:
    """So that no row is lost in silence: of each engine, how many it has and how many are refused."""
    assert len(GRID) == 359
    of = {engine: [name for name in GRID if any(re.search(words, name) for words in REFUSED[engine])] for engine in REFUSED}
    assert {engine: len(names) for engine, names in of.items()} == {Fused: 24, Opacus: 48}


# torch.func runs some layers slowly, and rightly all the same.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", GRID)
def test_fused(name: str) -> None:
    if refused(Fused, name):
        return
    module, x, y = built(name)
    cohort, runs = convert(module), Runs((EXAMPLES - 1, 1))
    clients = [{name: value.detach() * scale for name, value in module.named_parameters()} for scale in (1.0, 0.75)]
    weights = {name: torch.stack([own[name] for own in clients]) for name in clients[0]}
    expected = []
    for own, (first, last) in zip(clients, runs.spans, strict=True):
        module.load_state_dict(own)
        expected += list(gradients(module, x[first:last], y[first:last]))
    norms_N = torch.stack([torch.cat([part.flatten() for part in gradient]).norm() for gradient in expected])
    limit = float(norms_N.median())
    factors_N = (limit / (norms_N + 1e-6)).clamp(max=1.0)
    # As on a GPU, and as on a CPU in float32.
    for ways in (None, torch.float32):
        cohort.shared.ways_of = ways
        _, tape = run_pass(cohort, weights, runs, x, y)
        sums = {name: torch.zeros_like(value) for name, value in weights.items()}
        with torch.no_grad():
            for record, factors in zip(tape, clip_factors(tape, Clipping(limit, "flat"))[0], strict=True):
                record.add(factors, sums)
        for place, found in enumerate(sums.values()):
            for k, (first, last) in enumerate(runs.spans):
                close(found[k], torch.stack([factors_N[i] * expected[i][place] for i in range(first, last)]).sum(0))


@pytest.mark.parametrize("name", GRID)
def test_opacus(name: str) -> None:
    if refused(Opacus, name):
        return
    module, x, y = built(name)
    expected = list(gradients(module, x, y))
    private = PerExample(module, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        cross_entropy(private(x), y, reduction="sum").backward()  # type: ignore[no-untyped-call]
    for place, parameter in enumerate(private.parameters()):
        close(parameter.grad_sample, torch.stack([own[place] for own in expected]))
