"""Clipping settings of plans: how a gradient or an update is clipped to norm C."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, PositiveFloat

from privfl.tables import Frozen


class FlatClipping(Frozen):
    """Flat clipping: the whole gradient or update is scaled to an L2 norm of at most C (Abadi 2016, McMahan 2018)."""

    kind: Literal["flat"]


class PerLayerClipping(Frozen):
    """Per-layer clipping: each of L parts is scaled to at most C/√L, so the whole is within C (McMahan 2018, section 2.1).

    The parts of an example's gradient are layers; the parts of a client's update are parameter tensors.
    """

    kind: Literal["per_layer"]


class AdaptiveClipping(Frozen):
    """Adaptive clipping: C follows a quantile of the updates' norms, counted under the same ε (Andrew 2021).

    ``quantile``: the share of updates that C should leave unclipped. ``lr``: learning rate of the geometric step. The noise
    on the count has a standard deviation of a twentieth of the cohort.
    """

    kind: Literal["adaptive"]
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    lr: PositiveFloat = 0.2


def _kind_alone(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


FixedClipping = Annotated[Annotated[FlatClipping | PerLayerClipping, Discriminator("kind")], BeforeValidator(_kind_alone)]

Clipping = Annotated[
    Annotated[FlatClipping | PerLayerClipping | AdaptiveClipping, Discriminator("kind")], BeforeValidator(_kind_alone)
]


def scheme_of(clipping: FlatClipping | PerLayerClipping | AdaptiveClipping) -> Literal["flat", "per_layer"]:
    """The scheme by which one vector is clipped; an adaptive norm clips the whole vector."""
    return "per_layer" if clipping.kind == "per_layer" else "flat"
