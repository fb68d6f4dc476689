"""Blocks of 640 training examples of Fashion-MNIST, and its test examples: 64 for each of ten clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from privfl.data.datasets import About, Dataset
from privfl.data.datasets.fashion_mnist import FashionMnist
from privfl.data.federated import Examples, LoadedData


class Images(Dataset):
    """Fashion-MNIST, 640 training examples in a row; which ones, ``block`` says."""

    about: ClassVar[About] = replace(FashionMnist.about, train=640)

    block: Annotated[int, Field(ge=0, le=92)] = 0

    def read(self) -> LoadedData:
        """See the class."""
        whole = FashionMnist(kind="fashion_mnist", clients=1).load()
        here = slice(640 * self.block, 640 * (self.block + 1))
        return replace(whole, train=Examples(whole.train.x[here], whole.train.y[here]))
