"""The first 4,000 training examples of Fashion-MNIST, and its test examples."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from privfl.data.datasets import About, Dataset
from privfl.data.datasets.fashion_mnist import FashionMnist
from privfl.data.federated import Examples, LoadedData


class Pool(Dataset):
    """Fashion-MNIST ``train[:4000]``."""

    about: ClassVar[About] = replace(FashionMnist.about, train=4000)

    def read(self) -> LoadedData:
        """See the class."""
        whole = FashionMnist(kind="fashion_mnist", clients=1).load()
        return replace(whole, train=Examples(whole.train.x[:4000], whole.train.y[:4000]))
