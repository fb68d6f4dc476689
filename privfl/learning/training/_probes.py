"""Made-up inputs for checks of a model before it is trained, of the kind that the model is meant for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from privfl.learning.training._guards import bears, whole_numbers

_LEVELS = (0.8, 1.25, -0.45, 0.3)
"""Levels of the examples, in no order, further apart than the variation that is added to them."""

_LOWEST, _HIGHEST = -0.85, 1.65
"""Between these are all numbers of :func:`probe_like`."""


def probe_like(x: Tensor, count: int) -> Tensor:
    """Inputs of the shape of real ones that tell nothing about them, so that no check depends on private data.

    Returns:
        shape (count, ...), numbers of both signs, by none of which four examples are in order: a layer that sorts them shows.
        If a model makes integers of them they are zeros and ones, and so they are if real ones are integers.
    """
    shape = (count, *x.shape[1:])
    if not x.is_floating_point():
        low, high = (torch.full(x.shape[1:], value, dtype=x.dtype, device=x.device) for value in (0, 1))
        return _integers(low, high, (), count)
    numbers = torch.arange(math.prod(shape), dtype=x.dtype, device=x.device)
    levels = x.new_tensor([_LEVELS[i % len(_LEVELS)] for i in range(count)]).view(count, *[1] * (x.dim() - 1))
    # The same variation for all examples, less than levels are apart.
    alike = numbers[: math.prod(shape[1:])].sin().view(1, *shape[1:])
    return levels + 0.3 * alike + 0.1 * numbers.cos().view(shape)


@torch.no_grad()
def probe_for(model: nn.Module, x: Tensor, count: int) -> Tensor:
    """The first of several kinds of inputs that the model gives finite numbers for.

    They reach the cases that layers treat apart: a table's padding, and a word that comes more than once in an example.

    Args:
        model: the model to check.
        x: examples, shape (n, ...). If there is one, its shape and type count. If there are several, the range of each number
            counts too, and which numbers are integers; and if the model bears nothing else, they are taken as they are. So
            these must belong to nobody who is trained on.
        count: how many examples are wanted, at least 3.

    Returns:
        shape (count, ...), or more examples if a model's tables have many paddings.
    """
    marks = sorted({int(found) for layer in model.modules() if isinstance(found := getattr(layer, "padding_idx", None), int)})
    kinds = list(_kinds(x, max(count, len(marks) + 2), marks))
    # A model that takes none of them is given the kind that is the least strange to it.
    return next((found for found in kinds if bears(model, found)), kinds[-1 if len(x) > 1 else 0])


def _kinds(x: Tensor, count: int, marks: Sequence[int]) -> Iterator[Tensor]:
    made_up, ones = probe_like(x, count), torch.ones_like(x[0])
    if len(x) > 1:
        low, high, whole = x.amin(0), x.amax(0), whole_numbers(x)
        share = (made_up - _LOWEST) / (_HIGHEST - _LOWEST) if x.is_floating_point() else made_up
        # First in every place: a padding may be in no example. But a large table's padding is no row of a small one.
        for anywhere in (True, False) if marks else (True,):
            integers = _integers(low, high, marks, count, anywhere=anywhere)
            yield integers.where(whole, made_up)
            yield integers.where(whole, low + (high - low) * share)
    elif marks:
        words = _integers(0 * ones, ones, marks, count)
        # To a model that makes integers of floats, these alone reach a padding; all else is to be numbers.
        yield torch.cat([words, made_up]) if x.is_floating_point() else words
    yield made_up
    # To some models zeros are no words but empty places.
    yield _integers(ones, 2 * ones, (), count)
    if len(x) > 1:
        yield x[_unordered(count, len(x), x.device) % len(x)]


def _integers(low: Tensor, high: Tensor, marks: Sequence[int], count: int, *, anywhere: bool = True) -> Tensor:
    """Integers from low to high, some twice in an example, and in each place each mark in some example.

    Args:
        low: the least of each number, shape (...).
        high: the largest.
        marks: fewer than ``count``.
        count: how many examples.
        anywhere: whether marks are also put in places whose range they are out of.

    Returns:
        shape (count, ...).
    """
    places, size = torch.arange(low.numel(), device=low.device).view(low.shape), (high - low + 1).long()
    examples = torch.arange(count, device=low.device).view(count, *[1] * low.dim())
    ranks = _unordered(count, count, low.device).view(examples.shape)
    values = (low + ((ranks * size) // count + places // 2) % size.clamp(min=1)).to(low.dtype)
    for number, mark in enumerate(marks):
        fits = torch.ones_like(places, dtype=torch.bool) if anywhere else (low <= mark) & (mark <= high)
        values = values.masked_fill(fits & ((examples + places) % count == number), mark)
    return values


def _unordered(count: int, of: int, device: torch.device) -> Tensor:
    """That many numbers from 0 to ``of`` - 1, evenly spread and in no order."""
    numbers = torch.arange(count, device=device) * of // count
    return numbers.roll(count // 2)
