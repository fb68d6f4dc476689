"""Precision of products of float32 numbers: a GPU rounds their factors to ten bits if it may ("TF32")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


@contextmanager
def float32_products(precision: Literal["highest", "high"] = "highest") -> Iterator[None]:
    """Set PyTorch's precision of matrix products and of convolutions, which differ by default; restore it afterwards.

    Args:
        precision: ``highest``: factors are float32; ``high``: they may be rounded.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
