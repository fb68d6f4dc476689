"""The ``[paper]`` table of a configuration: a figure of a paper, and the condition under which it counts as reproduced.

The table describes a configuration and is no part of it. A run does not read it, so it changes neither the run nor its folder.
docs/papers.md has an example and says how to add a paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from privfl.shelves import nearest
from privfl.tables import Delta, Frozen, contradiction

Topic = Literal["dp", "federated", "personal", "clusters", "user_dp", "attack", "robust", "accounting"]
Reading = Literal["last", "best", "mean_of_last_10"]


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


ArrayName = Annotated[str, Field(pattern=r"^[\w-]+/[\w.-]+\.npz:\w+$")]
"""An array of an archive in a folder: ``FOLDER/FILE.npz:ARRAY``."""

Rows = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_listed)]
"""The names of rows; one may stand without a list."""

CONDITIONS: Final = frozenset({"tolerance", "factor", "above", "below"})
"""The settings of which one says when a figure agrees with the claim."""

_ROUNDS_TO: Final = "rounds_to:"
_METRICS: Final = {
    "epsilon": r"epsilon",
    "epsilon:pld": r"epsilon:(pld|rdp|papers|zcdp)",
    "train": r"train",
    "test.accuracy": r"test\.\w+",
    "clients.mean": r"clients\.(mean|minimum|p10|median|p90|maximum)",
    "personal.mean": r"personal\.(mean|minimum|p10|median|p90|maximum)",
    "clusters.in_group": r"clusters\.in_group",
    "client:NAME": r"client:.+",
    "group:NAME": r"group:.+",
    "groups.mean": r"(groups|local)\.mean",
    "attack:membership/loss:auc": r"attack:[\w./]+(\[.+\])?:(auc|balanced_accuracy|tpr_at_\w+)",
}


def _is_metric(metric: str) -> bool:
    name = metric.removeprefix(_ROUNDS_TO)
    if name != metric:
        return re.fullmatch(_METRICS["test.accuracy"], name) is not None
    return any(re.fullmatch(pattern, name) for pattern in _METRICS.values())


class Figure(Frozen):
    """One figure of a paper, and the condition under which ours agrees with it.

    Exactly one of ``tolerance``, ``factor``, ``above`` and ``below`` is the condition. The mean over the seeds must be within
    ``tolerance`` of ``claim``, in the metric's own unit; or it must be between ``claim / factor`` and ``claim * factor``. With
    ``above`` or ``below`` the order is the claim: on every seed this row's value must be larger, or smaller, than those of the
    rows that are named, by more than ``by``.

    Args:
        name: the cell's words, such as a hospital's name, if the row has several cells.
        metric: the figure of ours; docs/papers.md lists them.
        reading: which round counts: the last, the best, or the mean of the last ten evaluations.
        target: the value that ``rounds_to`` asks for.
        claim: the paper's value.
        tolerance: the largest absolute difference.
        factor: the largest ratio, either way.
        above, below: the names of other rows, of which the cell of the same name counts, or the only one.
        by: the least difference of an order; below 0, how far the row may be on the wrong side.
    """

    name: str = ""
    metric: str = "test.accuracy"
    reading: Reading = "last"
    target: float | None = None
    claim: float | None = None
    tolerance: PositiveFloat | None = None
    factor: Annotated[float, Field(gt=1)] | None = None
    above: Rows = ()
    below: Rows = ()
    by: float = Field(default=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not _is_metric(self.metric):
            raise contradiction(
                "metric", self.metric, f"must be like one of {', '.join(_METRICS)}, rounds_to:test.accuracy; see docs/papers.md"
            )
        if self.metric.startswith(_ROUNDS_TO) != (self.target is not None):
            raise contradiction("target", self.target, "belongs to a metric rounds_to:test.<metric>, which needs it")
        if not self.conditions:
            raise contradiction("tolerance", None, "is missing: give tolerance, factor, above or below")
        if len(self.conditions) > 1 and self.conditions != ["above", "below"]:
            raise contradiction(self.conditions[0], getattr(self, self.conditions[0]), f"give it or {self.conditions[1]}")
        if self.by and not self.ordered:
            raise contradiction("by", self.by, "belongs to above or below")
        if self.claim is None and not self.ordered:
            raise contradiction("claim", None, "is missing: tolerance and factor are about a value")
        return self

    @property
    def conditions(self) -> list[str]:
        """The names of the conditions that are given."""
        return [name for name in ("tolerance", "factor", "above", "below") if getattr(self, name)]

    @property
    def ordered(self) -> bool:
        """Whether the claim is an order between rows."""
        return bool(self.above or self.below)

    @property
    def rounds_to(self) -> str | None:
        """The metric whose target is to be reached; None if the figure is no number of rounds."""
        return self.metric.removeprefix(f"{_ROUNDS_TO}test.") if self.metric.startswith(_ROUNDS_TO) else None

    @property
    def priced(self) -> bool:
        """Whether the figure is a price, which needs no training."""
        return self.metric.partition(":")[0] == "epsilon"


class Published(Frozen):
    """Outputs that the authors of a paper published, which a row attacks in place of a model that it trains.

    The candidates are the examples of the configuration's data: its training part are the members, its test split the others.
    Arrays are named ``FOLDER/FILE.npz:ARRAY``, below ``$PRIVFL_DATA``.

    Args:
        logits: the target's outputs, one row for each training example, then for each test example.
        reference: settings, ``key=value``, with which the configuration's data are those of a shadow model.
        reference_logits: that model's outputs, likewise.
    """

    logits: ArrayName
    reference: Annotated[tuple[str, ...], Field(strict=False)] = ()
    reference_logits: ArrayName | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are needed, below ``$PRIVFL_DATA``."""
        return tuple({name.partition(":")[0]: None for name in (self.logits, self.reference_logits) if name is not None})


class Paper(Frozen):
    """The row of a paper that a configuration reproduces.

    If the row has one figure, the settings of a :class:`Figure` stand beside the others. If it has several, ``cells`` lists
    them, and each takes the settings that it does not give from the row.

    Args:
        title, authors, year, venue: the citation; ``authors`` as "Tramèr & Boneh".
        where: the table or figure, and the cell in it.
        topic: the subject, by which `privfl reproduce --topic` chooses.
        cells: the row's figures.
        claim_epsilon, claim_delta: the promise that the paper states.
        accountant: how the paper computed it, in words.
        seeds: the seeds of the runs, or their number, counted from 0. A row is reproduced with three seeds at the least.
        seeded: settings that are set to the seed, beside ``seed`` itself, such as ``model.torch_seed``.
        provenance: the source of the claim: the paper's own text or table, the authors' repository, somebody else's reading of
            it, or memory. A claim from memory is never counted as reproduced.
        learning_rate: whether the learning rate is the paper's, or was tuned here because the paper does not give it.
        stand_in: a sentence, if the data, the model or the size differ from the paper's; the row is then a method check.
        note: a sentence that says why the claim does not hold; it is printed if it does not.
        device: the device that the row is meant for; without a GPU a row for one is not run.
        minutes: the time of one seed on two cores, or on the GPU.
        published: outputs of the authors' models, which are attacked in place of a model that is trained.
        needs: modules that the row imports beside privfl's own requirements, such as kymatio.
        smoke: settings, ``key=value``, that make the run end within seconds, to try it out.
    """

    title: str
    authors: str
    year: Annotated[int, Field(ge=1950, le=2100)]
    venue: str
    where: str
    topic: Topic
    cells: Annotated[tuple[Figure, ...], Field(strict=False, min_length=1)]
    claim_epsilon: PositiveFloat | None = None
    claim_delta: Delta | None = None
    accountant: str | None = None
    seeds: PositiveInt | Annotated[tuple[int, ...], Field(strict=False, min_length=1)] = 3
    seeded: Annotated[tuple[str, ...], Field(strict=False)] = ()
    provenance: Literal["paper", "code", "second_hand", "memory"]
    learning_rate: Literal["paper", "tuned"] = "paper"
    stand_in: str | None = None
    note: str | None = None
    device: Literal["cpu", "gpu"] = "cpu"
    minutes: PositiveFloat
    published: Published | None = None
    needs: Annotated[tuple[str, ...], Field(strict=False)] = ()
    smoke: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _folded(cls, value: object) -> object:
        """Put the figure that stands beside the other settings into every cell, each with its own settings first."""
        if not isinstance(value, Mapping):
            return value
        for key in value:
            if key not in (known := [*cls.model_fields, *Figure.model_fields]):
                hint = "is unknown; " + nearest(key, known)
                raise PydanticCustomError("unknown_key", "{hint}", {"key": key, "hint": hint})
        cells = value.get("cells", [{}])
        if not isinstance(cells, list | tuple) or not all(isinstance(cell, Mapping) for cell in cells):
            raise contradiction("cells", cells, "must be a list of tables, [{ name = ..., claim = ... }, ...]")
        shared = {key: one for key, one in value.items() if key in Figure.model_fields}
        found = []
        for cell in cells:
            left = shared.keys() - (CONDITIONS if CONDITIONS & cell.keys() else set())
            found.append({**{key: shared[key] for key in left}, **cell})
        return {**{key: one for key, one in value.items() if key not in shared}, "cells": found}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [cell.name for cell in self.cells]
        for place, name in enumerate(names):
            if len(names) > 1 and (not name or name in names[:place]):
                raise contradiction("cells", name, "each cell needs a name of its own")
        if isinstance(self.seeds, tuple) and len(set(self.seeds)) < len(self.seeds):
            raise contradiction("seeds", list(self.seeds), "names a seed twice; name each once")
        for override in self.smoke:
            if "=" not in override:
                raise contradiction("smoke", override, "must be a list of 'key=value'")
        if self.published is not None:
            for cell in self.cells:
                if not cell.metric.startswith("attack:"):
                    raise contradiction("metric", cell.metric, "must be attack:<name>:<figure>, of the published outputs")
        return self

    @property
    def citation(self) -> str:
        """Authors and year, as a table cites it."""
        return f"{self.authors} {self.year}"

    @property
    def partners(self) -> tuple[str, ...]:
        """The rows with which this row is compared."""
        return tuple(dict.fromkeys(name for figure in self.cells for name in (*figure.above, *figure.below)))

    @property
    def priced(self) -> bool:
        """Whether every figure is a price, so that nothing needs to be trained."""
        return all(figure.priced for figure in self.cells)

    @property
    def trained(self) -> bool:
        """Whether a model is trained. A price, and an attack on published outputs, are the same for every seed."""
        return not self.priced and self.published is None

    def seeds_of(self, count: int | None = None) -> tuple[int, ...]:
        """The seeds of the runs: the row's own, or as many as ``count``."""
        own = tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds
        if count is None or count == len(own):
            return own
        # More seeds than the row names are those that follow the largest.
        return (own + tuple(range(max(own) + 1, max(own) + 1 + count)))[:count]
