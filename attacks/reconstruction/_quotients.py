"""Inputs from the rows of a first layer's gradient, divided by the gradient of its bias."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_SMALL: Final = 1e-4
"""A gradient of the bias that is smaller than this share of the largest is left out: its quotient is rounding."""

_SAME: Final = 1e-2
"""Quotients that differ by at most this share of their length are one input."""


def quotients(weight_HF: Tensor, bias_H: Tensor) -> Tensor:
    """The distinct quotients of rows of a weight's gradient by the gradient of the bias, of shape (R, F)."""
    size_H = bias_H.abs()
    order_R = size_H.argsort(descending=True, stable=True)
    order_R = order_R[size_H[order_R] > _SMALL * size_H.max()]
    rows_RF = weight_HF[order_R] / bias_H[order_R, None]
    rows_RF = rows_RF[rows_RF.isfinite().all(1)]
    off_RR = torch.cdist(rows_RF, rows_RF, compute_mode="donot_use_mm_for_euclid_dist")
    same_RR = off_RR <= _SAME * rows_RF.norm(dim=1)[:, None]
    kept, agreeing = list[int](), list[int]()
    left_R = torch.ones(len(rows_RF), dtype=torch.bool)
    for row in range(len(rows_RF)):
        if left_R[row]:
            group_R = same_RR[row].cpu() & left_R
            group_R[row] = True
            left_R &= ~group_R
            kept.append(row)
            agreeing.append(int(group_R.sum()))
    best = torch.tensor(agreeing).argsort(descending=True, stable=True) if kept else torch.zeros(0, dtype=torch.int64)
    return rows_RF[torch.tensor(kept, dtype=torch.int64)[best]]
