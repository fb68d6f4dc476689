"""MNIST's file format: data sets that are published as four IDX files of grey 28 by 28 images and labels."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.data.datasets import Contents, File, FileDataset, Form
from privfl.data.federated import Examples, LoadedData, Pixels
from privfl.errors import DataError


def idx_files(sha256s: tuple[str, str, str, str]) -> tuple[Form]:
    """The four files of the form; ``sha256s`` are the hashes of training images and labels, then of test images and labels."""
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    sizes = (16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000)
    return (tuple(File(name, size, f"sha256:{sha}") for name, size, sha in zip(names, sizes, sha256s, strict=True)),)


class IdxDataset(FileDataset, ABC):
    """x: (pixel / 255 - mean) / std, shape (N, 1, 28, 28); y: the class."""

    mean: ClassVar[float]
    std: ClassVar[float]
    labels: ClassVar[tuple[str, ...]]
    provenance: ClassVar[str]

    def parse(self, contents: Contents) -> LoadedData:
        """Decode the images.

        Raises:
            DataError: a file is not in IDX format.
        """
        return LoadedData(
            train=_part(contents, "train"),
            test=_part(contents, "t10k"),
            classes=self.labels,
            provenance=self.provenance,
            pixels=Pixels((self.mean,), (self.std,)),
        )


def _part(contents: Contents, part: str) -> Examples:
    images_NHW = parse_idx(contents, f"{part}-images-idx3-ubyte")
    labels_N = parse_idx(contents, f"{part}-labels-idx1-ubyte")
    return Examples(images_NHW[:, None], labels_N.astype(np.int64))


def parse_idx(contents: Contents, name: str) -> NDArray[np.uint8]:
    """Decode an array of bytes in IDX format (LeCun 1998).

    A file holds two bytes 0, the type 8 (unsigned byte), the number of axes, their lengths (big-endian uint32) and the values.

    Raises:
        DataError: the header differs from this, or the file's length does not fit it.
    """
    content = contents[name]
    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    if content[:3] != b"\0\0\x08" or len(content) < start:
        raise DataError(f"{name}: is no IDX file of bytes")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", count=axes, offset=4))
    if len(content) - start != np.prod(shape):
        raise DataError(f"{name}: holds {len(content) - start:,} bytes; its header announces {np.prod(shape):,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
