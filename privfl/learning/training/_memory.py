"""Memory of a training process: the settings of its allocator, and the error if it is not enough."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from privfl.config import TrainingConfig
from privfl.errors import ConfigError

# The CPU's allocator raises a plain RuntimeError; this is in it.
_CPU_SAYS = ("can't allocate memory", "not enough memory")

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MIB = 2**20


def keep_freed_memory() -> None:
    """Ask glibc's allocator to keep freed memory, up to blocks of 32 MiB; without glibc nothing happens.

    Every step of training frees and takes the same blocks of some MiB. Given back to the system they come again page by
    page, which takes a tenth of a private step of a small convolutional network.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)  # The largest that it takes.
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 64 * _MIB)


@contextmanager
def memory_named(config: TrainingConfig, way_out: str) -> Iterator[None]:
    """Turn a lack of memory into one line that names the setting to change.

    Args:
        config: how the engine was told to train.
        way_out: the advice for this engine.

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
