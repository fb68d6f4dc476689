"""Checks are made with inputs such as a model is meant for: sound models pass them, and what is wrong in others shows."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from engine_checks import CLASSES, plan, task
from engines import choice_of
from opacus.grad_sample.embedding import compute_embedding_grad_sample
from torch import Tensor, nn
from torch.nn import functional

from privfl.data.input_store import InputStore
from privfl.errors import ModelError
from privfl.learning.training import Trainer
from privfl.learning.training._guards import bears, require_apart
from privfl.learning.training._probes import probe_for
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus, PerExample
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.vectors import to_vector

ENGINES: list[type[Trainer]] = [Opacus, Fused]
CODES = (7, 3)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Models have the same weights in each run of a test."""
    torch.manual_seed(0)


def table(count: int, first: int = 0) -> Tensor:
    """Two columns of numbers of rows in tables, one of integers that are none, three of numbers from 0 to 1."""
    draw = torch.Generator().manual_seed(count)
    codes = [torch.randint(first, first + size, (count, 1), generator=draw) for size in (*CODES, 100)]
    return torch.cat([*codes, torch.rand(count, 3, generator=draw)], dim=1)


class Table(nn.Module):
    """Looks up the codes, and takes the numbers as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, 4) for size in CODES])
        self.linear = nn.Linear(8 + 4, CLASSES)

    def codes(self, x: Tensor) -> Tensor:
        return x[:, :2].long()

    def numbers(self, x: Tensor) -> Tensor:
        return x[:, 2:]

    def forward(self, x: Tensor) -> Tensor:
        found = [one(code) for one, code in zip(self.tables, self.codes(x).unbind(1), strict=True)]
        logits: Tensor = self.linear(torch.cat([*found, self.numbers(x)], dim=1))
        return logits


class OneBased(Table):
    """Its first code is 1."""

    def codes(self, x: Tensor) -> Tensor:
        return super().codes(x) - 1


class Bucketed(Table):
    """Looks up tenths of numbers from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(10, 4), nn.Embedding(10, 4)])

    def codes(self, x: Tensor) -> Tensor:
        return (x[:, 3:5] * 10).long()


class Crossed(Table):
    """Looks up pairs of codes."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(21, 4), nn.Embedding(3, 4)])

    def codes(self, x: Tensor) -> Tensor:
        first, second = super().codes(x).unbind(1)
        return torch.stack([first * CODES[1] + second, second], dim=1)


class OneHot(Table):
    """Without a table."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.linear = nn.ModuleList(), nn.Linear(sum(CODES) + 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hot = [functional.one_hot(code, size) for code, size in zip(self.codes(x).unbind(1), CODES, strict=True)]
        logits: Tensor = self.linear(torch.cat([*hot, self.numbers(x)], dim=1))
        return logits


class Roots(Table):
    """Takes roots and logarithms of what is never below zero."""

    def numbers(self, x: Tensor) -> Tensor:
        return torch.cat([(x[:, 2:4] + 0.1).sqrt(), (x[:, 4:] + 0.1).log()], dim=1)


class Strict(Table):
    """Says what it does not bear."""

    def numbers(self, x: Tensor) -> Tensor:
        if float(x[:, 3:].min()) < 0 or float(x[:, 3:].max()) > 1:
            raise ValueError("shares are from 0 to 1")
        return super().numbers(x)


def trained(module: nn.Module, public: Tensor, x: Tensor, engine: str, of: Plan | None = None) -> Tensor:
    """The update from a client's examples, by an engine that was made sure of with others."""
    choice = choice_of(module, public, of or plan(noise_multiplier=1e-6), engine)
    return choice.trainer.train(to_vector(module), [replace(task(), x=InputStore(x))])[0].delta_D


@pytest.mark.parametrize("of", [plan(), NoPlan()], ids=["private", "not private"])
@pytest.mark.parametrize("engine", ["fused", "opacus"])
@pytest.mark.parametrize("model", [Table, OneBased, Bucketed, Crossed, OneHot, Roots, Strict])
def test_lookups_beside_numbers_are_trained(model: type[Table], engine: str, of: Plan) -> None:
    """No guard leaves a table, or asks for the root of a number below zero."""
    first = int(model is OneBased)
    assert float(trained(model(), table(30, first), table(40, first), engine, of).norm()) > 0


class Codes(Table):
    """All numbers of an example are codes, and a small table is beside a large one."""

    def numbers(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 4)


@pytest.mark.parametrize("engine", ["fused", "opacus"])
def test_tables_of_several_sizes_are_each_looked_up_in_their_range(engine: str) -> None:
    assert float(trained(Codes(), table(30)[:, :2], table(40)[:, :2], engine).norm()) > 0


class Mixes(Table):
    """Divides by the largest number of the batch, once one is large."""

    def numbers(self, x: Tensor) -> Tensor:
        peak = x[:, 2:].abs().amax()
        return x[:, 2:] / peak if peak > 1000 else x[:, 2:]


class MixesCodes(Table):
    """Counts a code in the batch."""

    def numbers(self, x: Tensor) -> Tensor:
        return super().numbers(x) * (self.codes(x)[:, :1] == 0).float().mean()


@pytest.mark.parametrize("engine", ["fused", "opacus"])
@pytest.mark.parametrize("model", [Mixes, MixesCodes])
def test_mixing_beside_lookups_is_found(model: type[Table], engine: str) -> None:
    with pytest.raises(ModelError, match="depends on the other examples of its batch"):
        trained(model(), table(30), table(40), engine)


def test_a_stranger_keeps_codes_in_their_range_and_makes_numbers_large() -> None:
    x_B, seen = table(16), list[Tensor]()
    require_apart(Table(), lambda batch: seen.append(batch) or [batch[:, 0]], x_B)  # type: ignore[func-returns-value]
    stranger = seen[1][0]
    assert bool(((stranger[:3] >= x_B[:, :3].amin(0)) & (stranger[:3] <= x_B[:, :3].amax(0))).all())
    assert float(stranger[3:].abs().max()) > 1000
    assert not torch.equal(stranger[:3], x_B[0, :3])


# --- what layers treat apart ------------------------------------------------------------------------------------------


def padded(padding: int) -> nn.Module:
    return nn.Sequential(
        nn.Embedding(11, 4, padding_idx=padding), nn.Flatten(), nn.Linear(20, 8), nn.PReLU(), nn.Linear(8, CLASSES)
    )


class Floats(nn.Module):
    """The same of words that come as floats, as data sets hold them."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.inner = padded(padding)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.long())
        return logits


def words(count: int = 40) -> Tensor:
    return torch.randint(11, (count, 5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("padding", [0, 2, 10, -3])
def test_a_padding_is_not_trained(engine: type[Trainer], padding: int) -> None:
    rows = trained(padded(padding), words(), words(), engine.__name__.lower())[: 11 * 4].view(11, 4).norm(dim=1)
    assert float(rows[padding]) < 1e-6
    assert int((rows > 1e-4).sum()) == 10


@pytest.mark.parametrize("padding", [0, 2, 10, -3])
@pytest.mark.parametrize(
    ("model", "x"),
    [(padded, words()), (padded, words(1)), (Floats, words().float()), (Floats, words(1).float())],
    ids=["words", "words of no known range", "floats", "floats of no known range"],
)
def test_the_checks_find_a_padding_that_is_trained(
    model: Callable[[int], nn.Module], x: Tensor, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opacus' own rule trains it: without ours, the look at made-up words must show it, whichever row it is."""
    monkeypatch.setitem(PerExample.GRAD_SAMPLERS, nn.Embedding, compute_embedding_grad_sample)
    with pytest.raises(ModelError, match="Opacus' per-example gradients are others than autograd's"):
        choice_of(model(padding), x, engine="opacus")


class PaddedTable(Table):
    """The larger table's padding is no row of the smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(7, 4, padding_idx=5), nn.Embedding(3, 4)])


def test_the_checks_find_it_beside_a_table_that_has_no_such_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice_of(PaddedTable(), table(30), engine="opacus").engine == "opacus"
    monkeypatch.setitem(PerExample.GRAD_SAMPLERS, nn.Embedding, compute_embedding_grad_sample)
    with pytest.raises(ModelError, match=r"tables\.0\.weight: Opacus' per-example gradients are others than autograd's"):
        choice_of(PaddedTable(), table(30), engine="opacus")


def test_every_padding_is_reached_and_some_words_come_twice() -> None:
    """In each place, so that each of several tables meets its own."""
    for x in (words(), words(1)):
        probe = probe_for(padded(3), x, 4)
        assert bool((probe == 3).any(0).all())
        assert any(len(set(row.tolist())) < 5 for row in probe)
    paddings = (3, 5, 8, 11, 17)
    several = Sums(nn.ModuleList([nn.Embedding(20, 2, padding_idx=place) for place in paddings]))
    probe = probe_for(several, torch.tensor([[0.0] * 6, [19.0] * 6]), 4)
    assert all(bool((probe == place).any(0).all()) for place in paddings)


class Sums(nn.Module):
    """Looks up all words in all tables."""

    def __init__(self, tables: nn.ModuleList) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([one(x.long()).sum(1) for one in self.tables]).sum(0)


def test_a_model_that_bears_no_made_up_inputs_is_checked_with_real_ones() -> None:
    class Known(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert bool((x[:, None] == real).all(2).any(1).all())
            return x

    real = torch.rand(9, 4)
    probe = probe_for(Known(), real, 4)
    assert bears(Known(), probe)
    assert len({tuple(row) for row in probe.tolist()}) == 4


class Saturated(nn.Module):
    """Raw bytes and no normalisation: all logits are far apart."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x * 100))
        return logits


def test_no_gradient_vanishes_where_logits_are_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example's label is the class that it is the least taken for; with the likeliest nothing could be compared."""
    right = PerExample.GRAD_SAMPLERS[nn.Linear]
    monkeypatch.setitem(PerExample.GRAD_SAMPLERS, nn.Linear, lambda *of: {key: 2 * found for key, found in right(*of).items()})
    for seed in range(5):
        torch.manual_seed(seed)
        with pytest.raises(ModelError, match="others than autograd's"):
            choice_of(Saturated(), words().float(), engine="opacus")
