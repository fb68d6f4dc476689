"""What an engine says when the memory is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from privfl.config import TrainingConfig
from privfl.errors import ConfigError

# The CPU's allocator raises a plain RuntimeError; this is in it.
_CPU_SAYS = ("can't allocate memory", "not enough memory")


@contextmanager
def memory_named(config: TrainingConfig, way_out: str) -> Iterator[None]:
    """Turn a lack of memory into one line that says what to change.

    Args:
        config: how the engine was told to train.
        way_out: what helps with this engine.

    Raises:
        ConfigError: the memory was not enough.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        said = str(error)
        named = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in said for words in _CPU_SAYS)
        if not named:
            raise
        why = (said.splitlines() or ["no more memory"])[0][:160]
        raise ConfigError(f"training.batch_size = {config.batch_size}: training ran out of memory ({why}); {way_out}") from None
