"""The parameters of a model that a run trains, chosen by patterns over their names; all others are frozen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from privfl.errors import ModelError


def chosen(module: nn.Module, patterns: Sequence[str]) -> list[Tensor]:
    """The parameters that require a gradient and have a name that matches one of the patterns.

    Args:
        module: a parameter that several of its layers share has a name in each of them.
        patterns: ``*``, ``?`` and ``[...]`` as in file names; ``*`` also matches dots.

    Raises:
        ModelError: a pattern matches no name.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    require_matches("model.trainable", patterns, named, "parameter")
    return [value for name, value in named.items() if value.requires_grad and matches(name, patterns)]


def freeze_all_but(module: nn.Module, kept: Iterable[Tensor]) -> None:
    """Freeze every parameter that is not among those kept."""
    ids = {id(parameter) for parameter in kept}
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in ids)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def require_matches(key: str, patterns: Sequence[str], names: Iterable[str], noun: str) -> None:
    """Raise a ModelError if a pattern matches none of the names; it gives the names that are nearest to the pattern."""
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern.strip("*."), names, n=3, cutoff=0.4) or names[:8]
            there = f"near it: {', '.join(near)}" if near else f"the model has no {noun}"
            raise ModelError(f"{key}: {pattern!r} matches no {noun}; {there}")
