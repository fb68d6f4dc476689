"""Files that are written whole or not at all: atomic replacement, lines of JSON, NumPy archives."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from privfl.errors import RunFolderError, StorageError

_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn a disk that refuses into one line.

    Raises:
        RunFolderError: the place cannot be written: no permission, a file in a folder's place, or the reverse.
        StorageError: the disk is full, or failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAILURES:
            raise RunFolderError(f"{path}: cannot be written ({error.strerror}); choose another place with --out") from None
        raise StorageError(
            f"{path}: could not be written ({error.strerror}); free some space, then go on with --resume: "
            "what was written is whole"
        ) from None


def write_atomic(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Replace ``path`` by ``content`` in one step: a reader, or a crash, sees the old file or the new one.

    Args:
        path: the file.
        content: all of it, or piece after piece, so that it need not be in memory.

    Raises:
        RunFolderError, StorageError: as :func:`storing`.
    """
    partial = path.with_name(path.name + ".partial")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def append_line(path: Path, line: BaseModel) -> None:
    """Add a typed record as one line of JSON; on disk when this returns.

    Raises:
        RunFolderError, StorageError: as :func:`storing`.
    """
    with storing(path), path.open("ab") as file:
        file.write(line.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """JSON with sorted keys and full precision; NaN and infinities are refused."""
    write_atomic(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays as a compressed NumPy archive; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an archive that :func:`npz` made.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        # From memory: NumPy leaves the file open if an archive turns out to be damaged.
        with np.load(io.BytesIO(path.read_bytes())) as archive:
            return dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise RunFolderError(f"{path}: is missing or damaged ({error}); run the config.toml of its folder again") from None
