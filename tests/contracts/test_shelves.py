"""What every item of every shelf must be; each is found by itself, so that a new file is tested by being there."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from attacks import Attack
from privfl.adversaries import ADVERSARIES
from privfl.config import DataConfig, TrainingConfig
from privfl.data.datasets import Dataset, MadeUp, OwnFiles
from privfl.data.federated import Examples, LoadedData, Pixels
from privfl.data.input_store import InputStore
from privfl.data.transforms import Transform
from privfl.errors import ModelError, PrivflError
from privfl.federation.aggregators import Aggregator, ClientUpdate, RoundContext
from privfl.learning.optimizers import LocalOptimizer
from privfl.learning.training import LocalTask, Trainer
from privfl.privacy.plans import PromiseSettings
from privfl.privacy.plans.none import NoPlan
from privfl.seeding import Seed
from privfl.shelves import SHELVES
from privfl.tables import Item
from privfl.vectors import Layout, to_vector

LEAST: dict[str, object] = {
    "size": 2,
    "separation": 3,
    "survivors": 2,
    "groups": 2,
    "components": 3,
    "file": "own.csv",
    "label": ["y"],
    "folder": "own",
}
"""Settings that are whole numbers, and those that name somebody's own data."""


@dataclass(frozen=True)
class Entry:
    """One item of one shelf."""

    at: str
    name: str

    @property
    def cls(self) -> type[Any]:
        return SHELVES[self.at].find(self.name)

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(self.cls.__module__)

    def made(self) -> Any:
        """The item with as few settings as it takes."""
        needed = [key for key, info in self.cls.model_fields.items() if info.is_required() and key != "kind"]
        least = {key: LEAST.get(key, 0.1) for key in needed}
        if issubclass(self.cls, PromiseSettings):
            least["noise_multiplier"] = 1.0
        return self.cls.model_validate({"kind": self.name, **least})


ENTRIES = [Entry(at, name) for at, shelf in SHELVES.items() for name in shelf.names()]
ITEMS = [entry for entry in ENTRIES if entry.at not in ("training.engine", "tracker")]
"""Those that are a table of a configuration."""


def of(at: str) -> list[Entry]:
    return [entry for entry in ENTRIES if entry.at == at]


def every(entries: Sequence[Entry]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", entries, ids=[f"{entry.at}:{entry.name}" for entry in entries])


# --- every shelf ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", SHELVES)
def test_a_shelf_has_items_and_its_init_imports_none(at: str) -> None:
    shelf = SHELVES[at]
    names = shelf.names()
    assert names == sorted(set(names)) != []
    package = importlib.import_module(shelf.package)
    contract = getattr(package, shelf.contract)
    assert inspect.isabstract(contract) or issubclass(contract, Attack)
    assert package.__doc__ is not None
    assert package.__doc__.startswith("SHEL")
    items = {entry.module.__name__ for entry in of(at)}
    for init in Path(cast("str", package.__file__)).parent.rglob("__init__.py"):
        assert not imported(init) & items


@every(ENTRIES)
def test_the_file_s_name_is_the_item_s(entry: Entry) -> None:
    shelf = SHELVES[entry.at]
    assert entry.module.__name__ == f"{shelf.package}.{entry.name.replace('/', '.')}"
    assert issubclass(entry.cls, getattr(importlib.import_module(shelf.package), shelf.contract))
    # The class is the file's name in another spelling: fashion_mnist.py holds FashionMnist. `None` is Python's own.
    assert entry.cls.__name__.lower().replace("noprivacy", "none") == entry.name.rpartition("/")[2].replace("_", "")


@every(ENTRIES)
def test_everything_public_says_what_it_is(entry: Entry) -> None:
    public = [entry.module, entry.cls]
    public += [one for name, one in vars(entry.cls).items() if inspect.isfunction(one) and not name.startswith(("_", "model_"))]
    for one in public:
        assert (one.__doc__ or "").strip(), one
    # The class speaks for itself; it did not inherit its contract's words.
    assert entry.cls.__doc__ != entry.cls.__mro__[1].__doc__


def imported(path: Path) -> set[str]:
    """Every module that a file imports, and every name that it takes from one, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {cast("str", node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@every(ENTRIES)
def test_items_of_one_shelf_do_not_import_each_other(entry: Entry) -> None:
    siblings = {one.module.__name__ for one in of(entry.at)} - {entry.module.__name__}
    assert not imported(Path(cast("str", entry.module.__file__))) & siblings


@every(ENTRIES)
def test_an_item_knows_nothing_of_those_who_use_it(entry: Entry) -> None:
    above = {"privfl.federation.rounds", "privfl.running.experiment", "privfl.running.recording", "privfl.cli", "privfl.report"}
    if entry.at == "attacks.run":
        # It reads its view, or what the harness made of it, and never the run folder, the data or the membership.
        above |= {"privfl.running.run_folder", "privfl.data.federated", "privfl.data.datasets", "attacks._run"}
        above |= {"attacks._shadows", "attacks._coins", "privfl.seeding"}
    else:
        above |= {"attacks"}
    if entry.at == "block":
        above -= {"privfl.report"}
    names = imported(Path(cast("str", entry.module.__file__)))
    assert not {name for name in names if any(name == one or name.startswith(f"{one}.") for one in above)}


# --- items that are settings ------------------------------------------------------------------------------------------


@every(ITEMS)
def test_settings_are_frozen_strict_and_read_back_equal(entry: Entry) -> None:
    item = entry.made()
    assert isinstance(item, Item)
    assert item.kind == entry.name
    with pytest.raises(ValidationError, match="frozen"):
        item.kind = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="is unknown"):
        entry.cls.model_validate({**item.model_dump(exclude_none=True), "no_such_setting": 1})
    assert entry.cls.model_validate(item.model_dump(exclude_none=True)) == item
    # Worker processes are sent it.
    assert pickle.loads(pickle.dumps(item)) == item


@every(ITEMS)
def test_settings_can_be_written_in_toml(entry: Entry) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(one) for key, one in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return isinstance(value, str | int | float | bool)

    assert plain(entry.made().model_dump(mode="json", exclude_none=True))


# --- each shelf's own contract ----------------------------------------------------------------------------------------


@every(of("data"))
def test_a_data_set_says_what_it_is_before_it_is_loaded(entry: Entry) -> None:
    item = entry.made()
    assert isinstance(item, Dataset)
    assert isinstance(item, DataConfig)
    assert item.name == entry.name
    about = item.about
    assert all((about.title, about.licence, item.remedy))
    counts = (about.train, about.test, about.classes)
    if isinstance(item, OwnFiles):
        assert counts == (None, None, None), "only the files know"
        # A command line that shows it, by settings that it has.
        assert {word.partition("=")[0] for word in item.example.split()} <= set(entry.cls.model_fields)
        return
    assert about.homepage.startswith("http")
    if isinstance(item, MadeUp):
        assert counts == (None, None, None), "the settings decide"
    else:
        assert min(count or 0 for count in counts) > 0
        assert (about.classes or 0) > 1


@every(of("data.transforms"))
def test_a_transform_keeps_examples_apart_or_says_that_it_reads_the_pool(entry: Entry) -> None:
    """An example's result does not change with the others, or else a promise must pay for a statistic."""
    item, draw = entry.made(), np.random.default_rng(0)
    assert isinstance(item, Transform)
    images = draw.integers(0, 256, (12, 2, 16, 16), dtype=np.uint8)
    y = np.zeros(12, np.int64)

    def after(pool: int) -> LoadedData:
        part, test = Examples(images[:pool], y[:pool]), Examples(images[:2], y[:2])
        return item.apply(LoadedData(part, test, ("a",), "made up", pixels=Pixels((0.1, 0.2), (1.0, 2.0))), Seed(0))

    whole, other = after(12), after(6)
    assert len(whole.train) == 12
    assert whole.train.x.shape[1:] == whole.test.x.shape[1:]
    assert np.array_equal(whole.train.x[:2], whole.test.x)
    assert np.array_equal(whole.train.x[:6], other.train.x) != item.reads_pool
    assert item.reads_pool == ("noise_multiplier" in entry.cls.model_fields)
    assert whole.statistics == ()
    assert item.words()


@every(of("model"))
def test_a_model_s_weights_are_repeatable_and_all_there_is_of_it(entry: Entry) -> None:
    def vector() -> torch.Tensor:
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state((Seed(0) / "model").torch().get_state())
            try:
                return to_vector(entry.made().build((1, 28, 28), 10))
            except ModelError:  # it takes sequences
                return to_vector(entry.made().build((28,), 10))

    assert torch.equal(vector(), vector())


@every(of("task"))
def test_a_task_keeps_its_contract(entry: Entry) -> None:
    """On outputs and labels that only its own methods have made."""
    item, part = entry.made(), Examples(np.zeros((6, 2), np.float32), np.ones((6, 3), np.int64))
    shape = item.outputs(LoadedData(part, part, ("a", "b"), "made up"))
    assert len(shape) == item.dims - 1
    outputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1)) * 2
    y = item.unlikely(outputs)
    item.check(y.numpy(), 2)
    losses = item.loss(outputs, y)
    assert losses.shape == (5,)
    changed = torch.cat([outputs[:4], outputs[:1] + 9])
    assert torch.equal(item.loss(changed, y)[:4], losses[:4])
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(item.loss(outputs, y).sum(), outputs)
    assert bool(gradient.flatten(1).any(1).all()), "no gradient vanishes"
    outputs = outputs.detach()
    found = item.metrics(outputs, y)
    assert list(found) == [name for name in item.figures if name in found]
    assert "loss" in found
    assert "clients" not in item.figures
    # A metric of one class is over the examples of that class alone.
    assert all(one.low <= one.value <= one.high and 0 < one.n <= 5 for one in found.values())
    assert found["loss"].n == next(iter(found.values())).n == 5
    above, below = (part.sum().item() for part in item.tallies(outputs, y))
    headline = next(iter(found.values()))
    assert float(item.scaled(np.array([above / below]))[0]) == pytest.approx(headline.value, rel=1e-5)
    signal = item.confidence(torch.stack([outputs, outputs * 2]).numpy(), y.numpy())
    assert (signal.shape, signal.dtype) == ((2, 5), np.float64)
    assert np.logaddexp(0, -signal[0]) == pytest.approx(losses.numpy(), rel=1e-5)
    assert all(figure.title and figure.meaning.format(n=5).endswith(".") for figure in item.figures.values())


@every(of("training.optimizer"))
def test_a_local_optimizer_steps_entry_by_entry_with_a_state_of_its_own(entry: Entry) -> None:
    """A cohort's stacked weights are moved as each client's own are, in place."""
    training = TrainingConfig(local_steps=1, batch_size=1, lr=0.1, weight_decay=0.1, optimizer=entry.made())
    item, draw = training.optimizer, torch.Generator().manual_seed(0)
    assert isinstance(item, LocalOptimizer)

    def steps(weights: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        weights, state = weights.clone(), {slot: torch.zeros_like(weights) for slot in item.slots(training)}
        for taken in range(3):
            item.step(training, weights, (taken + 1) * gradients, state, 0.1, taken)
        return weights

    start, gradients = (torch.randn(3, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    together = steps(start, gradients)
    alone = [steps(w.view(2, 4), g.view(2, 4)).view(8) for w, g in zip(start, gradients, strict=True)]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-12)
    # Against the gradient: a step of one that is large enough goes down.
    assert bool(((together - start) * gradients < 0).float().mean() > 0.8)
    assert item.plain(training) is False


@every([*of("training.round_schedule"), *of("training.step_schedule")])
def test_a_schedule_s_factors_are_positive_and_at_most_one(entry: Entry) -> None:
    for warmup in (0, 4):
        item = entry.cls.model_validate({"kind": entry.name, "warmup": warmup})
        factors = [item.factor(at, 20) for at in range(20)]
        assert all(0 < factor <= 1 for factor in factors)
        assert item.factor(warmup, 20) == 1.0


@every(of("server"))
def test_a_server_s_state_is_vectors(entry: Entry) -> None:
    state = entry.made().init(torch.ones(5))
    assert all(value.shape == (5,) for value in state.values())


def context(size: int) -> RoundContext:
    layout = Layout(("weight",), ((size,),))
    return RoundContext(
        0, torch.linspace(-1, 1, size), layout, 9, b"k" * 32, "tests", root=lambda: torch.linspace(0.1, 0.2, size)
    )


def cohort(clients: int, size: int = 40) -> list[ClientUpdate]:
    generator = torch.Generator().manual_seed(0)
    deltas = 0.1 * torch.randn(clients, size, generator=generator)
    return [ClientUpdate(client, delta, 1 / (client + 1)) for client, delta in enumerate(deltas)]


@every(of("aggregator"))
@pytest.mark.parametrize("clients", [3, 5])
def test_an_aggregator_gives_the_weighted_mean_if_it_says_so_and_says_what_was_seen(entry: Entry, clients: int) -> None:
    aggregator = entry.made()
    assert isinstance(aggregator, Aggregator)
    updates = cohort(clients)
    before = [update.delta_D.clone() for update in updates]
    found = aggregator.aggregate(updates, context(40))
    weights = torch.tensor([update.weight for update in updates], dtype=torch.float64)
    sum_D = weights @ torch.stack(before).double()
    assert found.mean_D is not None
    assert found.sum_D is not None
    assert found.weight_sum == pytest.approx(float(weights.sum()))
    assert float((found.mean_D.double() * found.weight_sum - found.sum_D).abs().max()) < 1e-5
    # A rule that says it is no weighted sum must not be one, or else plans would refuse it for nothing.
    assert (float((found.sum_D - sum_D).abs().max()) < 1e-5) == aggregator.linear
    again = aggregator.aggregate(updates[::-1], context(40)).mean_D
    assert again is not None
    assert torch.equal(found.mean_D, again)
    assert (found.mean_D.shape, found.mean_D.dtype) == ((40,), torch.float32)
    assert all(torch.equal(update.delta_D, kept) for update, kept in zip(updates, before, strict=True))
    assert found.cost.bytes_up >= 4 * 40 * clients
    # What it says of hiding is what it writes down.
    names = {"sum_D", "weight_sum"} if aggregator.hides_updates else {"updates_KD", "weights_K"}
    assert set(found.seen) == names
    assert aggregator.hides_updates <= (aggregator.minimum_clients >= 3)


@every(of("aggregator"))
def test_an_aggregator_refuses_a_cohort_that_is_too_small(entry: Entry) -> None:
    aggregator = entry.made()
    with pytest.raises(PrivflError):
        aggregator.aggregate(cohort(aggregator.minimum_clients - 1), context(40))


@every(of("training.engine"))
def test_an_engine_trains_each_client_alone_and_repeatably(entry: Entry) -> None:
    def train(order: Sequence[int], seed: int = 0) -> dict[int, torch.Tensor]:
        torch.manual_seed(7)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
        trainer = entry.cls(model, TrainingConfig(local_epochs=1, batch_size=16, lr=0.5), NoPlan())
        assert isinstance(trainer, Trainer)
        generator = torch.Generator().manual_seed(1)
        # One pool, in no order, of which a part is nobody's and would spoil whatever it touched.
        x, y = torch.randn(100, 6, generator=generator), torch.randint(3, (100,), generator=generator)
        places = torch.randperm(100, generator=generator)
        x[places[80:]] = torch.nan
        owned = torch.split(places[:80], 20)
        tasks = [LocalTask(k, 20, InputStore(x), y, owned[k], Seed(seed) / "client" / k) for k in order]
        results = trainer.train(to_vector(model), tasks)
        assert [result.client for result in results] == list(order)
        assert all(result.event is None for result in results)
        return {result.client: result.delta_D for result in results}

    found = train([0, 1, 2, 3])
    for client, delta in train([3, 1]).items():
        assert torch.equal(delta, found[client])
        assert bool(delta.any())
        assert bool(delta.isfinite().all())
    assert not torch.equal(train([0], seed=1)[0], found[0])
    assert train([]) == {}


@every(of("attacks.run"))
def test_an_attack_states_its_adversary_its_threat_its_needs_and_its_cost(entry: Entry) -> None:
    item = entry.made()
    assert isinstance(item, Attack)
    assert item.adversary in ADVERSARIES
    assert item.threat.endswith(".")
    assert len(item.threat.splitlines()) == 1
    for words in (item.needs, item.cost):
        assert words, f"{entry.name}: say what it needs and what it costs; `privfl attack --list` prints both"
        assert len(words.splitlines()) == 1
    assert isinstance(item, BaseModel)
    assert len(entry.name.split("/")) == 2
