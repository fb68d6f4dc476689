"""The user's own images: a folder with a subfolder for each class, and optionally one for each client above those."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import PositiveInt

from privfl.data.datasets import About, OwnFiles
from privfl.data.datasets._own_files import HALF, Levels, drawn_test, missing, read, require_classes, split_in_words, told
from privfl.data.federated import ByteArray, Examples, LoadedData, Pixels
from privfl.errors import DataError, first_line
from privfl.records import FileRecord

_SUFFIXES = (".png", ".jpg", ".jpeg")
_NO_DATA = ("Thumbs.db", "desktop.ini")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_MODES = {"grey": "L", "rgb": "RGB"}
_DEEP = ("I", "F")
"""First letters of Pillow's modes for images of more than 8 bits a pixel."""


@dataclass(frozen=True)
class _Listed:
    """An image file: its path, class and client, and whether it belongs to the test part."""

    path: Path
    label: str
    client: str
    test: bool


class Images(OwnFiles):
    """x: (byte / 255 - 0.5) / 0.5 in each channel, shape (N, C, size, size); y: the class, by its folder's name.

    Args:
        folder: a folder with a subfolder of PNG or JPEG files for each class; or with ``train`` and ``test`` alone, each of
            which has these subfolders. A relative path begins at the folder in which the program is started.
        size: height and width in pixels to which each image is resized, without regard to its proportions.
        colour: ``rgb``, three channels, or ``grey``, one.
        by_client: whether the folders of the classes lie in a folder for each client.
    """

    folder: Path
    size: PositiveInt
    colour: Literal["rgb", "grey"] = "rgb"
    by_client: bool = False

    about: ClassVar[About] = About(
        title="a folder of images of your own", train=None, test=None, classes=None, licence="yours", homepage=""
    )
    example: ClassVar[str] = "folder=FOLDER size=32"

    def read(self) -> LoadedData:
        """Read all images and set the test part aside.

        Raises:
            DataError: the folder is missing or has another layout, a class has no image, or an image cannot be read.
        """
        listed, parted = self._listed()
        images_N, record = self._pixels(listed)
        labels = Levels.of(np.array([one.label for one in listed], dtype=object))
        y = labels.index(np.array([one.label for one in listed], dtype=object))
        clients = np.array([one.client for one in listed], dtype=object)
        test_N = np.array([one.test for one in listed])
        if not parted:
            keys = [Levels.of(clients).index(clients)] if self.by_client else []
            test_N = drawn_test(self.test_share, self.split_seed, len(y), *keys, y)
        require_classes(f"data.folder = '{self.folder}'", labels.names, y[~test_N], y[test_N])
        named = Levels.of(clients[~test_N])
        split = "the test part is its folder test" if parted else split_in_words(self.test_share, self.split_seed)
        channels = images_N.shape[1]
        return LoadedData(
            train=Examples(images_N[~test_N], y[~test_N]),
            test=Examples(images_N[test_N], y[test_N]),
            classes=labels.names,
            provenance=f"{told(record)}; {split}. Images are {'grey' if channels == 1 else 'RGB'}, resized to {self.size} by "
            f"{self.size}, and a byte b becomes (b / 255 - 0.5) / 0.5.",
            natural_N=named.index(clients[~test_N]) if self.by_client else None,
            natural_names=named.names if self.by_client else (),
            pixels=Pixels((HALF,) * channels, (HALF,) * channels),
            files=(record,),
        )

    def _listed(self) -> tuple[list[_Listed], bool]:
        """All image files, sorted by path; and whether the folder has a test part of its own."""
        root = self.folder.expanduser()
        if not root.is_dir():
            raise missing("data.folder", self.folder, "folder")
        parts = _folders(root)
        names = {part.name for part in parts}
        parted = names == {"train", "test"}
        if not parted and "train" in names:
            others = ", ".join(sorted(names - {"train", "test"})) or "no folder test"
            raise DataError(
                f"data.folder = '{self.folder}': has a folder train, and {others}; it must have train and test alone"
            )
        found = []
        for part in parts if parted else (root,):
            for client in _folders(part) if self.by_client else (part,):
                for label in _folders(client):
                    test = parted and part.name == "test"
                    found += [_Listed(path, label.name, client.name, test) for path in _images(label)]
        return found, parted

    def _pixels(self, listed: Sequence[_Listed]) -> tuple[ByteArray, FileRecord]:
        """All images as bytes, shape (N, C, size, size); and a record of the files."""
        root, size = self.folder.expanduser(), 0
        images_N = np.empty((len(listed), 1 if self.colour == "grey" else 3, self.size, self.size), dtype=np.uint8)
        lines = []
        for number, one in enumerate(listed):
            content, record = read("data.folder", one.path)
            images_N[number] = self._decoded(one.path, content)
            size += record.size
            lines.append((one.path.relative_to(root).as_posix(), record.sha256))
        text = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(lines))
        sha256 = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        return images_N, FileRecord(name=root.resolve().name, size=size, sha256=sha256, files=len(listed))

    def _decoded(self, path: Path, content: bytes) -> ByteArray:
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
                if image.mode.startswith(_DEEP):
                    raise DataError(f"{path}: has more than 8 bits a pixel; save it with 8 bits")
                turned = ImageOps.exif_transpose(image).convert(_MODES[self.colour])
                resized = turned.resize((self.size, self.size), Image.Resampling.BILINEAR)
        except _UNREADABLE as error:
            raise DataError(f"{path}: cannot be read as PNG or JPEG ({first_line(error)}); remove or repair it") from None
        pixels: ByteArray = np.asarray(resized, dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _folders(folder: Path) -> list[Path]:
    """The subfolders of a folder, sorted; hidden ones are ignored.

    Raises:
        DataError: there is none, or a file lies beside them.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in _NO_DATA)
    files = [entry for entry in entries if not entry.is_dir()]
    if files:
        raise DataError(f"{files[0]}: is a file among the folders of classes or clients; move it, or check data.by_client")
    if not entries:
        raise DataError(f"{folder}: is empty; it must have a folder for each class")
    return entries


def _images(folder: Path) -> list[Path]:
    """The image files in a class's folder, sorted.

    Raises:
        DataError: there is none, or the folder holds something else.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in _NO_DATA)
    for entry in entries:
        if entry.is_dir():
            raise DataError(
                f"{entry}: is a folder in that of a class; move it, or set data.by_client = true if the one above is a client's"
            )
        if entry.suffix.lower() not in _SUFFIXES:
            raise DataError(f"{entry}: is no image; allowed: {', '.join(_SUFFIXES)}; remove it")
    if not entries:
        raise DataError(f"{folder}: has no image of its class; add at least one, or remove the folder")
    return entries
