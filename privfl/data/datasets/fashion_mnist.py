"""Fashion-MNIST: grey images, 28 by 28, of Zalando's articles (Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747)."""

from __future__ import annotations

from typing import ClassVar

from privfl.data.datasets import About, Apt, Form, Source, Url
from privfl.data.datasets._idx import IdxDataset, idx_files

_ORIGINAL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"


class FashionMnist(IdxDataset):
    """x: (pixel / 255 - .2860) / .3530, shape (N, 1, 28, 28); y: the type of article."""

    about: ClassVar[About] = About(
        title="Zalando's articles, 28x28 grey",
        train=60_000,
        test=10_000,
        classes=10,
        licence="MIT",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
    )
    forms: ClassVar[tuple[Form, ...]] = idx_files(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        )
    )
    sources: ClassVar[tuple[Source, ...]] = (
        Apt(30_900_652, "dataset-fashion-mnist"),
        Url(30_878_645, tuple(f"{_ORIGINAL}{file.name}.gz" for file in forms[0])),
    )
    system: ClassVar[tuple[str, ...]] = ("/usr/share/datasets/fashion-mnist",)
    mean: ClassVar[float] = 0.2860
    std: ClassVar[float] = 0.3530
    labels: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    provenance: ClassVar[str] = "Fashion-MNIST (Zalando Research, 2017), the original files, with its own test split."
