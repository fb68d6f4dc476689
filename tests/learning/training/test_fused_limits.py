"""What the fused engine takes, what it leaves to others, and how it keeps to its memory."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from engines import CLASSES, MODELS, WORDS, LastState, choice_of, cohort, model, plan, settings, starting_point
from torch import Tensor, nn
from torch.nn import functional

from privfl.config import TrainingConfig
from privfl.errors import ConfigError, ModelError
from privfl.learning.training import LocalWork, Trainer, _cohort
from privfl.learning.training._budget import Limits, example_bytes
from privfl.learning.training._conversion import convert
from privfl.learning.training._pieces import pieces
from privfl.learning.training._rules import Runs
from privfl.learning.training._rules.convolution import ConvolutionRecord
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans.none import NoPlan

# --- which engine -----------------------------------------------------------------------------------------------------


def inputs(name: str) -> Tensor:
    shape = MODELS[name][0]
    return torch.zeros(3, *shape, dtype=torch.int64 if shape == WORDS else torch.float32)


@pytest.mark.parametrize("name", MODELS)
def test_auto_takes_the_fused_engine_with_rules_or_without(name: str) -> None:
    said = "torch.func runs 1 (Unruly), for which there is no rule" if name == "no rule" else "each layer has a rule"
    assert str(choice_of(model(name), inputs(name))) == f"fused: {said}"


def test_tanh_is_left_to_the_reference_where_its_digits_are_needed() -> None:
    """All activations are of 1e-7, and what comes next makes them large again."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.RMSNorm(8), nn.Linear(8, CLASSES))
    with torch.no_grad():
        for parameter in module[1].parameters():
            parameter.mul_(1e-7)
    choice = choice_of(module, torch.zeros(3, 6))
    assert choice.engine == "opacus"
    assert "another gradient than autograd" in choice.why


def test_what_was_asked_for_is_taken_and_says_what_it_costs() -> None:
    assert str(choice_of(model("no rule"), inputs("no rule"), engine="opacus")) == "opacus: as configured"
    why = "fused: as configured; torch.func runs 1 (Unruly), for which there is no rule"
    assert str(choice_of(model("no rule"), inputs("no rule"), engine="fused")) == why


def test_a_call_that_a_rule_does_not_take_is_said() -> None:
    module = nn.Sequential(nn.Flatten(), LastState(nn.LSTM(30, 5, batch_first=True)))
    with pytest.raises(ModelError, match=r"^fused: .*the model gives shape \(4,\) for 4 examples"):
        choice_of(module, inputs("lstm"))


def test_attention_wants_batches_and_the_mask_that_it_is_told_of() -> None:
    converted = convert(nn.MultiheadAttention(8, 2, batch_first=True))
    rule, converted.shared.runs = converted.module, Runs((3,))
    x = torch.zeros(3, 3, 8)
    with pytest.raises(ModelError, match="is given no batch"):
        rule(x[0], x[0], x[0])
    with pytest.raises(ModelError, match="is_causal without an attn_mask"):
        rule(x, x, x, is_causal=True)


class Noisy(nn.Module):
    """Draws where no stream can be lent to it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(functional.dropout(x, 0.5))
        return logits


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES))
    module[1].weight = module[0].weight
    return module


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Noisy(), "draws random numbers outside"),
        (tied(), "1.weight is a parameter that another layer has too"),
    ],
)
def test_what_it_cannot_be_sure_of_it_leaves_to_the_reference_and_refuses_when_asked(module: nn.Module, words: str) -> None:
    x = torch.zeros(3, 6)
    if "frozen" in words:
        with pytest.raises(ModelError, match=words):
            choice_of(module, x)
    else:
        choice = choice_of(module, x)
        assert choice.engine == "opacus"
        assert words in choice.why
    with pytest.raises(ModelError, match=words):
        Fused(module, settings(NoPlan()), NoPlan()).train(starting_point(module), cohort("linear"))


class Edges(nn.Module):
    """What two ways to round can make of units at the edge of a ReLU: in floats, a batch has other values than an example."""

    def __init__(self, *types: torch.dtype) -> None:
        super().__init__()
        self.types = types

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) -> (B, 6)."""
        return x * 1.01 if len(x) > 1 and x.dtype in self.types else x


def test_what_only_rounding_tells_apart_is_decided_in_doubles() -> None:
    x, end = torch.zeros(1, 6), nn.Sequential(nn.Dropout(0.5), nn.Linear(6, CLASSES))
    assert choice_of(nn.Sequential(Edges(torch.float32), end), x).engine == "fused"
    wrong = choice_of(nn.Sequential(Edges(torch.float32, torch.float64), end), x)
    assert wrong.engine == "opacus"
    assert "another gradient than autograd (off by 1." in wrong.why


class OfFloats(Edges):
    """Holds a matrix that no double can be multiplied by."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) -> (B, 6)."""
        return super().forward(x) @ torch.eye(6)


def test_a_model_that_cannot_be_had_in_doubles_is_told_what_floats_found() -> None:
    module = nn.Sequential(OfFloats(torch.float32), nn.Linear(6, CLASSES))
    with pytest.raises(ModelError, match=r"another gradient than autograd \(off by"):
        Fused(module, settings(NoPlan()), NoPlan()).train(starting_point(module), cohort("linear"))


def test_doubles_go_the_ways_of_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong in the library's convolutions, which only floats take, is found in doubles too."""
    original = ConvolutionRecord.add
    monkeypatch.setattr(ConvolutionRecord, "add", lambda self, factors, sums: original(self, 1.01 * factors, sums))
    assert "another gradient than autograd (off by 1." in choice_of(model("convolution"), inputs("convolution")).why


def test_a_batch_norm_is_refused_under_a_promise() -> None:
    with pytest.raises(ModelError, match="BatchNorm1d"):
        Fused(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, CLASSES)), settings(plan()), plan())


def test_a_layer_that_mixes_the_batch_is_refused_under_a_promise() -> None:
    class Mixes(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return out - out.mean(0)

    module = nn.Sequential(Mixes(6, CLASSES))
    with pytest.raises(ModelError, match="depends on the other examples"):
        Fused(module, settings(plan()), plan()).train(starting_point(module), cohort("linear"))


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 0, 5, 5, 1), (0, 0), (9,), (), (1, 12, 2)])
@pytest.mark.parametrize("limit", [1, 2, 4, 5, 100])
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_hold_every_example_once(sizes: tuple[int, ...], limit: int, padded: bool) -> None:
    held: list[list[int]] = [[] for _ in sizes]
    for piece in pieces(sizes, limit, padded=padded):
        assert (max(piece.sizes) * len(piece.sizes) if padded else sum(piece.sizes)) <= limit
        for client, (start, stop) in enumerate(piece.spans, piece.first):
            held[client] += range(start, stop)
    assert held == [list(range(size)) for size in sizes]


def test_the_budget_is_shared_by_clients_and_examples() -> None:
    module = model("cnn")
    weights = {name: value.detach()[None] for name, value in module.named_parameters()}
    x = torch.randn(4, 1, 18, 18)
    client, example = 12 * sum(value.numel() for value in weights.values()), example_bytes(convert(module), weights, x)
    # Its gradients of the two kernels are written out; its windows are not kept.
    kernels = 4 * (16 * 64 + 32 * 16 * 16)
    assert kernels < example < 2 * kernels
    limits = Limits.measure(convert(module), weights, x, 10)
    assert limits == Limits(5 * 2**20 // client, 5 * 2**20 // example)
    assert limits.clients * client + limits.examples * example <= 10 * 2**20


def test_a_budget_too_small_for_one_example_is_refused_with_the_number() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(144, 3000), nn.Linear(3000, CLASSES))
    words = r"training\.memory_budget = 1: one client of this model takes 5\.1 MiB and one example 0\.\d MiB; give at least 6"
    trainer = Fused(wide, settings(plan(), memory_budget=1), plan())
    with pytest.raises(ConfigError, match=words):
        trainer.train(starting_point(wide), cohort("convolution"))
    Fused(wide, settings(plan(), memory_budget=6), plan()).train(starting_point(wide), cohort("convolution"))


def test_gradients_that_are_written_out_are_counted() -> None:
    """A layer without a rule leaves every example's gradient, beside which it kept a copy of the weights."""
    module = nn.ConvTranspose1d(8, 8, 9)
    weights = {name: value.detach()[None] for name, value in module.named_parameters()}
    wrapped = nn.Sequential(module, nn.Flatten(), nn.Linear(8 * 12, CLASSES))
    named = {name: value.detach()[None] for name, value in wrapped.named_parameters()}
    assert example_bytes(convert(wrapped), named, torch.zeros(4, 8, 4)) > 2 * sum(value.nbytes for value in weights.values())


def test_a_cohort_larger_than_the_budget_streams_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    begin = _cohort.CohortState.begin

    def counting(self: Any, global_D: Tensor, works: Sequence[LocalWork]) -> None:
        groups.append(len(works))
        begin(self, global_D, works)

    monkeypatch.setattr(_cohort.CohortState, "begin", counting)
    of = plan(noise_multiplier=0.5, local_steps=1, batch_size=2)
    name, sizes = "cnn", tuple(range(1, 41))
    start_D = starting_point(model(name))
    small = Fused(model(name), settings(of, memory_budget=1), of).train(start_D, cohort(name, sizes))
    assert len(groups) > 5
    assert sum(groups) == len(sizes)
    large = Fused(model(name), settings(of), of).train(start_D, cohort(name, sizes))
    for one, other in zip(small, large, strict=True):
        assert torch.allclose(one.delta_D, other.delta_D, rtol=1e-5, atol=1e-6)
        assert (one.client, one.event, one.clipped_share) == (other.client, other.event, other.clipped_share)


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
# Without maxima, which a rounding may take elsewhere.
@pytest.mark.parametrize("name", ["convolution", "lstm of several layers", "heads, crossed"])
def test_products_may_be_less_exact_and_the_clip_may_not(name: str, precision: str) -> None:
    of = plan(batch_size=10**6, local_steps=1, max_grad_norm=0.05)
    tasks, start_D = cohort(name, (6, 5)), starting_point(model(name))
    exact, rough = (
        Fused(model(name), settings(of, lr=1.0, precision=kind), of).train(start_D, tasks) for kind in ("float32", precision)
    )
    for one, other in zip(rough, exact, strict=True):
        assert float(one.delta_D.norm()) <= of.max_grad_norm * (1 + 1e-5)
        assert float((one.delta_D - other.delta_D).norm()) < 0.05 * float(other.delta_D.norm())
    # On a CPU without such units PyTorch may compute "tf32" exactly.
    assert precision == "tf32" or not torch.equal(rough[0].delta_D, exact[0].delta_D)
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_reference_has_one_precision() -> None:
    with pytest.raises(ConfigError, match=r"training\.precision = 'bfloat16': .*take the precision away"):
        Opacus(model("linear"), TrainingConfig(local_steps=1, batch_size=1, lr=1.0, precision="bfloat16"), NoPlan())


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes."), True),
        (RuntimeError("shapes do not match"), False),
    ],
    ids=["gpu", "cpu", "another"],
)
@pytest.mark.parametrize("engine", [Fused, Opacus])
def test_a_lack_of_memory_is_said_with_the_way_out(
    engine: type[Trainer], error: Exception, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    module, of = model("linear"), plan()
    trainer = engine(module, settings(of), of)
    monkeypatch.setattr(engine, "_train", fail)
    with pytest.raises(ConfigError if named else RuntimeError) as caught:
        trainer.train(starting_point(module), cohort("linear"))
    if named:
        words = "more training.parts" if engine is Fused else "set a smaller training.batch_size"
        assert "training.batch_size = 4: training ran out of memory" in str(caught.value)
        assert words in str(caught.value)


@pytest.mark.parametrize(("clients", "parts"), [(1, 1), (10, 2), (50, 8), (100, 16)])
def test_a_cohort_is_cut_by_its_size_and_the_memory_alone(clients: int, parts: int) -> None:
    module, of = model("linear"), plan(batch_size=4)
    trainer = Fused(module, settings(of), of)
    trainer._limits = Limits(1000, 26)
    assert trainer.parts(clients, starting_point(module), cohort("linear")[0].x[:1]) == parts
    asked = Fused(module, settings(of, parts=7), of)
    assert asked.parts(clients, starting_point(module), cohort("linear")[0].x[:1]) == 7
    assert Opacus(module, settings(of), of).parts(clients, starting_point(module), cohort("linear")[0].x[:1]) == clients


# --- the allocator ----------------------------------------------------------------------------------------------------

TAKEN_AND_FREED = """
import resource, torch
from privfl.learning.training._memory import keep_freed_memory

if {keep}:
    keep_freed_memory()

def step():
    # Held together, so that the end of the heap moves.
    return [torch.ones(mebibytes * 2**18) for mebibytes in (7, 11, 5, 16)]

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept() -> None:
    """A step takes 39 MiB, which are 9,984 pages; kept ones are asked for once at most."""
    # Without these the allocator raises its thresholds itself, once it has been taken in.
    eager = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", TAKEN_AND_FREED.format(keep=keep)], env=eager))
        for keep in (True, False)
    )
    assert kept < 10_000
    assert given_back > 150_000


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normed", [False, True])
def test_channels_are_last_until_a_group_norm_puts_them_first(channels: int, normed: bool) -> None:
    """Each is what the library is several times as fast with; a raw image of one channel could be either."""
    module = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.GroupNorm(2, 4) if normed else nn.Tanh(), nn.Conv2d(4, 4, 3))
    cohort = convert(module)
    cohort.shared.runs = Runs((2, 3))
    cohort.shared.weights = {name: value.detach().expand(2, *value.shape) for name, value in module.named_parameters()}
    assert isinstance(cohort.module, nn.Sequential)
    last, x = [], torch.rand(5, channels, 8, 8)
    for layer in cohort.module:
        x = layer(x)
        last.append(x.is_contiguous(memory_format=torch.channels_last))
    assert last == ([True, False, False] if normed else [True, True, True])
