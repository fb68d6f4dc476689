"""Reproducing rows of papers: one run for each row and seed, none done twice, several at once."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from privfl.errors import ConfigError, PrivflError
from privfl.loading import load
from privfl.records import Environment, PaperCell, PaperResult
from privfl.running import sweeping
from privfl.running.paper_figures import attack_figure, figure_value, prices_of
from privfl.running.paper_rows import PaperRow
from privfl.running.published import attacked
from privfl.running.run_folder import RunFolder
from privfl.running.sweeping import Variant


@dataclass(frozen=True)
class Order:
    """One row with one seed.

    Args:
        row: the row.
        seed: the seed.
        smoke: whether the row's smoke settings are used.
    """

    row: PaperRow
    seed: int
    smoke: bool

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings that the run has beside those of the file."""
        # A GPU's row is tried out on whatever there is.
        smoke = ("device=auto", *self.row.paper.smoke) if self.smoke else ()
        return (*smoke, *(f"{key}={self.seed}" for key in ("seed", *self.row.paper.seeded)))

    @property
    def words(self) -> str:
        """The row's name and the seed."""
        return f"{self.row.name}, seed {self.seed}" if self.row.paper.trained else self.row.name


@dataclass(frozen=True)
class Done:
    """The figures of one row with one seed.

    Args:
        order: the row and the seed.
        values: one for each cell of the row; None if a target was not reached. Empty if it failed.
        prices: ε by accountant, empty without a promise.
        delta, unit: of the promise.
        minutes: the time that the run took.
        environment: machine and versions.
        error: the reason why it failed, or None.
    """

    order: Order
    values: tuple[float | None, ...]
    prices: Mapping[str, float]
    delta: float | None
    unit: str | None
    minutes: float
    environment: Environment | None
    error: str | None = None


def orders(rows: Sequence[PaperRow], seeds: int | None, *, smoke: bool) -> list[Order]:
    """All orders for rows: every seed of every row; the first alone for a smoke run, or if nothing is trained."""
    return [
        Order(row, seed, smoke) for row in rows for seed in row.paper.seeds_of(seeds if row.paper.trained and not smoke else 1)
    ]


def carry_out(todo: Sequence[Order], out: Path, *, jobs: int, gpus: int) -> Iterator[Done]:
    """Carry out orders, ``jobs`` at a time; those whose run is finished are only read.

    Args:
        todo: the orders.
        out: the folder for the run folders, ``ROW/seed=N``.
        jobs: the number of runs at a time.
        gpus: the number of GPUs.

    Returns:
        the results as they come. An order that fails takes no other with it.
    """

    def one(order: Order, environment: Mapping[str, str]) -> Done:
        paper = order.row.paper
        try:
            if paper.published is not None:
                return _attacked(order)
            return _priced(order) if paper.priced else _trained(order, out, environment)
        except PrivflError as error:
            return _failed(order, str(error))

    return sweeping.side_by_side(todo, one, jobs=jobs, gpus=gpus)


def _failed(order: Order, error: str) -> Done:
    return Done(order, (), {}, None, None, 0.0, None, error)


def _priced(order: Order) -> Done:
    from privfl.running import pricing, recording

    begun = time.monotonic()
    priced = pricing.account(load(order.row.path, *order.overrides))
    plan = priced.plan
    prices = {one.accountant: one.epsilon for one in priced.prices if one.relation == plan.relation}
    values = []
    for figure in order.row.paper.cells:
        accountant = figure.metric.partition(":")[2]
        if accountant and accountant not in prices:
            raise ConfigError(f"paper.metric = {figure.metric!r}: cannot price this plan; allowed: {', '.join(prices)}")
        values.append(prices[accountant] if accountant else priced.epsilon)
    here = recording.environment(priced.experiment.x.device)
    return Done(order, tuple(values), prices, plan.delta, plan.unit, (time.monotonic() - begun) / 60, here)


def _attacked(order: Order) -> Done:
    from privfl.running import recording

    begun, paper = time.monotonic(), order.row.paper
    finding = attacked(order.row)
    values = tuple(attack_figure(finding.attacks, figure.metric) for figure in paper.cells)
    minutes = (time.monotonic() - begun) / 60
    return Done(order, values, {}, None, None, minutes, recording.environment(torch.device("cpu")))


def _trained(order: Order, out: Path, environment: Mapping[str, str]) -> Done:
    folder = RunFolder(out / order.row.name / f"seed={order.seed}")
    config = load(order.row.path, *order.overrides)
    begun = (folder.path / "config.toml").exists()
    # A run of other settings is of no use. It is replaced, since only this command writes here.
    alike = begun and folder.has_config(config)
    attacked = not config.attacks.run or (folder.path / "attacks" / "summary.json").exists()
    if not (alike and folder.finished and attacked):
        variant = Variant(order.overrides, folder.path.name)
        ended = sweeping.run_one(order.row.path, variant, folder.path.parent, environment, begun and not alike)
        if ended.code:
            return _failed(order, ended.words)
    folder = RunFolder.open(folder.path)
    privacy = folder.result.privacy
    return Done(
        order,
        tuple(figure_value(figure, folder) for figure in order.row.paper.cells),
        prices_of(folder),
        None if privacy is None else privacy.delta,
        None if privacy is None else privacy.unit,
        sum(timing.total for timing in folder.timings()) / 60,
        folder.environment,
    )


def result_of(row: PaperRow, done: Sequence[Done]) -> PaperResult | None:
    """The measured part of a row's result, over its seeds; None unless every seed was run.

    Args:
        row: the row.
        done: its results, in the order of the seeds.
    """
    if not done or any(one.error is not None for one in done):
        return None
    here = done[0].environment
    assert here is not None
    prices = {name: max(one.prices[name] for one in done) for name in done[0].prices}
    return PaperResult(
        row=row.name,
        digest=row.digest,
        seeds=[one.order.seed for one in done],
        cells=[
            PaperCell(name=figure.name, values=[one.values[place] for one in done])
            for place, figure in enumerate(row.paper.cells)
        ],
        prices=prices,
        delta=done[0].delta,
        unit=done[0].unit,
        minutes=sum(one.minutes for one in done) / len(done),
        device=here.device,
        versions={"privfl": here.privfl, "python": here.python, **here.packages},
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
