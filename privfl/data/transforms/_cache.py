"""Cache of computed features: files that are found by the content that they were computed from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from privfl.errors import StorageError

_FORMAT = 1
"""Counts changes of this project's code after which the same settings give other features."""


@dataclass(frozen=True, eq=False)
class Key:
    """All that features depend on.

    Args:
        x: the inputs as they are kept, shape (N, ...).
        meaning: the meaning of their bytes.
        settings: each transform with its settings.
        packages: the packages that compute them.
        shape: the shape of the features, N first.
    """

    x: NDArray[np.generic]
    meaning: str
    settings: tuple[str, ...]
    packages: tuple[str, ...]
    shape: tuple[int, ...]

    def digest(self) -> str:
        """SHA-256 of the content of the inputs and of everything else, as hexadecimal text."""
        versions = [(name, importlib.metadata.version(name)) for name in self.packages]
        parts = (_FORMAT, self.meaning, self.settings, versions, self.shape, self.x.shape, str(self.x.dtype))
        sha = hashlib.sha256(repr(parts).encode())
        sha.update(np.ascontiguousarray(self.x).data)
        return sha.hexdigest()


def folder() -> Path:
    """The folder of the cached features. Whatever is removed from it is computed again."""
    return Path(platformdirs.user_cache_dir("privfl")) / "features"


def cached(key: Key, fill: Callable[[NDArray[np.float32]], None]) -> NDArray[np.float32]:
    """The features of that key, float32, read from their file without loading it into memory; made if there is none.

    Args:
        key: what they depend on.
        fill: writes all of them into an array of the key's shape.

    Raises:
        StorageError: the cache cannot be written.
    """
    path = folder() / f"{key.digest()}.npy"
    found = _read(path, key.shape)
    if found is not None:
        return found
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=key.shape)
        fill(made)
        made.flush()
        del made
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); free some space in the cache of features") from None
    finally:
        partial.unlink(missing_ok=True)
    found = _read(path, key.shape)
    assert found is not None, "it was written just now"
    return found


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The features in a file; None if it is missing or damaged."""
    try:
        found: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.float32 else None
