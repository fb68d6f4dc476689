"""Models whose layers get other rows than the batch's examples, or in another order, are refused; so is mixing by length."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from engine_checks import CLASSES, INPUTS, plan, task, train
from engines import choice_of
from test_odd_models import refused
from torch import Tensor, nn

from privfl.data.input_store import InputStore
from privfl.errors import ModelError
from privfl.learning.training import Trainer, fused, opacus
from privfl.learning.training._probes import probe_like
from privfl.learning.training.fused import Fused
from privfl.learning.training.opacus import Opacus
from privfl.privacy.plans.none import NoPlan

ENGINES: list[type[Trainer]] = [Opacus, Fused]


class Folded(nn.Module):
    """Every number of an example by itself, folded into the batch: an example is INPUTS rows to the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.reshape(-1, 1)).view(len(x), -1, CLASSES).sum(1)
        return logits


class SecondComesTheBatch(nn.Module):
    """(positions, batch, width), as PyTorch's sequence layers have it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.t().unsqueeze(2)).sum(0)
        return logits


@pytest.mark.parametrize("size", [1, 40])
@pytest.mark.parametrize("model", [Folded, SecondComesTheBatch])
def test_rows_that_are_no_examples_are_refused(model: Callable[[], nn.Module], size: int) -> None:
    """Each would be clipped for itself: alone in its batch, an example would move the sum INPUTS times as far."""
    assert "keep the batch first" in refused(Opacus, plan(), model(), task(size))
    for of in (plan(), NoPlan()):
        assert "keep the batch first" in refused(Fused, of, model(), task(size))
    with pytest.raises(ModelError, match=r"^fused: .*\.expand\(len\(x\), -1\)\); opacus: .* keep the batch first"):
        choice_of(model(), task().x[:1])


def test_without_the_look_at_the_rows_an_example_moves_the_sum_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard's own mutant."""
    monkeypatch.setattr(opacus, "require_true_gradients", lambda *_: None)
    of = plan(noise_multiplier=1e-9, batch_size=10**6)
    (found,) = train(Opacus, of, task(1), model=Folded(), lr=1.0)
    assert float(found.delta_D.norm()) > 1.5 * of.max_grad_norm


class Sorted(nn.Module):
    """Of each example alone, but the layers meet the examples in the order of their first number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort(descending=True)
        logits: Tensor = self.linear(x[order])[order.argsort()]
        return logits


class SortedUp(Sorted):
    """The other way round."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x)


@pytest.mark.parametrize("model", [Sorted, SortedUp])
def test_a_layer_that_meets_examples_in_another_order_is_refused(model: Callable[[], nn.Module]) -> None:
    for engine in ENGINES:
        for size in (2, 40):
            assert refused(engine, plan(), model(), task(size))
    assert refused(Fused, NoPlan(), model())


def test_no_number_of_a_probe_is_in_order() -> None:
    for shape in ((1, 7), (1, 3, 5, 5)):
        probe = probe_like(torch.zeros(shape), 4).flatten(1)
        assert bool((probe.argsort(0) == probe.argsort(0)[:, :1]).all())
        assert probe.argsort(0)[:, 0].tolist() not in ([0, 1, 2, 3], [3, 2, 1, 0])
        assert set(probe.long().flatten().tolist()) == {0, 1}
        assert float(probe.min()) < -0.3


class Trimmed(nn.Module):
    """Cuts all texts to the longest of the batch, and takes the mean over what is left, empty places as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(10, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = x.long()
        longest = int((words != 0).sum(1).max().clamp(min=1))
        logits: Tensor = self.linear(self.table(words[:, :longest]).mean(1))
        return logits


class ByLength(Trimmed):
    """Lets a layer meet the texts by their length, as packed sequences are."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        words = x.long()
        order = (words != 0).sum(1).argsort(descending=True, stable=True)
        h = self.table(words).sum(1)
        logits: Tensor = self.linear(self.middle(h[order]).tanh()[order.argsort()])
        return logits


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", [Trimmed, ByLength])
def test_mixing_by_length_is_found_where_all_texts_are_long(
    model: Callable[[], nn.Module], engine: type[Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the batch that is looked at nothing shows: the first text is the longest, and no other is longer than any.

    The look at made-up inputs, which finds these two, is left out.
    """
    for module in (fused, opacus):
        for name in ("require_no_mixing", "require_same_gradients", "require_true_gradients"):
            monkeypatch.setattr(module, name, lambda *_, **__: None, raising=False)
    torch.manual_seed(0)
    words = 1 + torch.randint(9, (40, 6)).float()
    words[1:, 4:] *= float(model is Trimmed)
    texts = replace(task(), x=InputStore(words))
    assert "depends on the other examples" in refused(engine, plan(batch_size=40), model(), texts)


class Some(nn.Module):
    """Spares the layer the examples that it would not change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.out = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        some = x[:, 0] > 0
        h = x.clone()
        h[some] = self.linear(x[some])
        logits: Tensor = self.out(h)
        return logits


def test_a_layer_that_is_given_some_of_the_examples_is_refused() -> None:
    assert "keep the batch first, and whole" in refused(Fused, NoPlan(), Some())
    with pytest.raises(ModelError, match="keep the batch first, and whole"):
        choice_of(Some(), task().x[:1])
