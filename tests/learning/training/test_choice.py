"""Which engine trains a model, what is said about it, and what is said if none does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_checks import CLASSES, INPUTS, plan, task, training
from engines import choice_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from privfl.data.input_store import InputStore
from privfl.errors import ConfigError, ModelError
from privfl.learning.training import LocalTask
from privfl.learning.training._choice import choose
from privfl.privacy.plans import Plan
from privfl.privacy.plans.none import NoPlan
from privfl.vectors import to_vector

PLANS: list[Plan] = [plan(), NoPlan()]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Models have the same weights in each run of a test."""
    torch.manual_seed(0)


class VisionTransformer(nn.Module):
    """A class token in front of the patches, both of them parameters of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.patches, self.mix, self.head = nn.Conv2d(1, 8, 3, stride=3), nn.Linear(8, 24), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        here = self.patches(x).flatten(2).transpose(1, 2)
        here = torch.cat([self.token.expand(len(x), -1, -1), here], dim=1) + self.places
        query, key, value = self.mix(here).chunk(3, dim=2)
        logits: Tensor = self.head(scaled_dot_product_attention(query, key, value)[:, 0])
        return logits


class Token(nn.Module):
    """A token that is looked up once for the whole batch; ``each``: as the message says."""

    def __init__(self, each: bool = False) -> None:
        super().__init__()
        self.token, self.linear, self.each = nn.Embedding(1, INPUTS), nn.Linear(INPUTS, CLASSES), each

    def forward(self, x: Tensor) -> Tensor:
        place = torch.zeros(1, 1, dtype=torch.int64)
        logits: Tensor = self.linear(x + self.token(place.expand(len(x), -1) if self.each else place).squeeze(1))
        return logits


class Gives(nn.Module):
    """A linear layer whose logits are wrapped up."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(INPUTS, CLASSES), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.linear(x))


def numbers() -> Tensor:
    return torch.randn(20, INPUTS, generator=torch.Generator().manual_seed(0))


def images() -> Tensor:
    return torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def words() -> Tensor:
    return torch.randint(9, (20, 4), generator=torch.Generator().manual_seed(0))


CIRCULAR: Callable[[], nn.Module] = lambda: nn.Sequential(  # noqa: E731
    nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(72, CLASSES)
)


@pytest.mark.parametrize(
    ("module", "x", "why"),
    [
        (VisionTransformer, images, "torch.func runs the model (VisionTransformer), for which there is no rule"),
        (CIRCULAR, images, "torch.func runs 0 (Conv2d), for which there is no rule"),
        (lambda: nn.Sequential(nn.PReLU(), nn.Linear(INPUTS, CLASSES)), numbers, "torch.func runs 0 (PReLU), for which"),
        (lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, CLASSES)), words, "each layer has a rule"),
    ],
)
def test_auto_takes_what_trains_the_model_and_says_how(
    module: Callable[[], nn.Module], x: Callable[[], Tensor], why: str
) -> None:
    for of in PLANS:
        choice = choice_of(module(), x(), of)
        assert choice.engine == "fused"
        assert choice.why.startswith(why)


@pytest.mark.parametrize(("module", "x"), [(CIRCULAR, images), (lambda: nn.EmbeddingBag(9, CLASSES), words)])
def test_an_engine_is_recommended_that_trains_the_model(module: Callable[[], nn.Module], x: Callable[[], Tensor]) -> None:
    with pytest.raises(ModelError, match=r"; set training\.engine = 'fused', which trains this model$"):
        choice_of(module(), x(), engine="opacus")
    with pytest.raises(ConfigError, match=r"in float32 only; .*; set training\.engine = 'fused', which trains this model$"):
        choose(training(plan(), engine="opacus", precision="tf32"), plan(), module(), x())


class Draws(nn.Linear):
    """Draws beside a layer that Opacus does not bear."""

    def __init__(self) -> None:
        super().__init__(INPUTS, CLASSES)
        self.cells = nn.LSTM(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x) + self.cells(x[:, :1])[0])


REFUSED_BY_BOTH: list[Callable[[], nn.Module]] = [
    Token,
    Draws,
    lambda: Gives(lambda logits: (logits, 1)),
    lambda: Gives(lambda logits: logits - logits.mean(0)),
    lambda: nn.Sequential(nn.BatchNorm1d(INPUTS), nn.Linear(INPUTS, CLASSES)),
    lambda: nn.Linear(INPUTS + 1, CLASSES),
]


@pytest.mark.parametrize("engine", ["auto", "fused", "opacus"])
@pytest.mark.parametrize("module", REFUSED_BY_BOTH)
def test_no_engine_is_recommended_that_refuses_too(module: Callable[[], nn.Module], engine: str) -> None:
    with pytest.raises(ModelError) as caught:
        choice_of(module(), numbers(), engine=engine)
    said = str(caught.value)
    assert "training.engine" not in said
    assert "\n" not in said
    # Each of two reasons is under its engine's name; one reason is said once.
    assert ("opacus: " in said) == ("fused: " in said)


def test_the_line_that_helps_survives_and_helps() -> None:
    for engine in ("auto", "fused", "opacus"):
        with pytest.raises(ModelError, match=r"\.expand\(len\(x\), -1\)"):
            choice_of(Token(), numbers(), engine=engine)
    assert str(choice_of(Token(each=True), numbers())) == "fused: each layer has a rule"


@pytest.mark.parametrize("of", PLANS, ids=["private", "not private"])
@pytest.mark.parametrize("engine", ["auto", "fused", "opacus"])
@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda logits: (logits, logits), "the model gives a tuple; return the outputs alone"),
        (lambda logits: {"logits": logits}, "the model gives a dict; return the outputs alone"),
        (lambda logits: logits.tolist(), "the model gives a list; return the outputs alone"),
        (lambda _: None, "the model gives a NoneType; return the outputs alone"),
        (lambda logits: logits.sum(1), r"the model gives shape \(\d,\) for \d examples; return outputs of shape"),
        (lambda logits: logits.repeat(2, 1), r"the model gives shape \(\d+, 3\) for \d examples; return outputs of shape"),
    ],
)
def test_what_is_no_tensor_of_logits_is_called_that_and_not_mixing(
    wrap: Callable[[Tensor], Any], words: str, engine: str, of: Plan
) -> None:
    with pytest.raises(ModelError, match=rf"^{words}") as caught:
        choice_of(Gives(wrap), numbers(), of, engine)
    assert "other examples" not in str(caught.value)


# --- without privacy: the gradient of a batch is what autograd finds for the batch ----------------------------------------


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (lambda: nn.Sequential(nn.BatchNorm1d(INPUTS, track_running_stats=False), nn.Linear(INPUTS, CLASSES)), numbers),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(32, CLASSES)
            ),
            images,
        ),
        (lambda: nn.Sequential(nn.Embedding(9, 2, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(8, CLASSES)), words),
        (lambda: Gives(lambda logits: logits - logits.mean(0)), numbers),
    ],
)
def test_what_mixes_a_batch_is_trained_as_autograd_does_or_refused(
    module: Callable[[], nn.Module], x: Callable[[], Tensor]
) -> None:
    """torch.func would see each example alone in its batch, and train something else."""
    built = module()
    choice = choice_of(built, x(), NoPlan())
    assert choice.engine == "opacus"
    with pytest.raises(ModelError, match=r"set training\.engine = 'opacus', which trains this model"):
        choice_of(built, x(), NoPlan(), "fused")
    of = training(NoPlan(), batch_size=20, lr=1.0)
    one = LocalTask(0, 20, InputStore(x()), task().y[:20], torch.arange(20), task().seed)
    (found,) = choose(of, NoPlan(), built, x()).trainer.train(to_vector(built), [one])
    cross_entropy(built(x()), one.y).backward()  # type: ignore[no-untyped-call]
    right = torch.cat([parameter.grad.flatten() for parameter in built.parameters() if parameter.grad is not None])
    assert torch.allclose(found.delta_D, -right, atol=1e-6)
