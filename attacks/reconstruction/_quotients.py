"""Inputs from the rows of a first layer's gradient, divided by the gradient of its bias."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_SMALL: Final = 1e-4
"""A gradient of the bias that is smaller than this share of the largest is left out: its quotient is rounding."""

_SAME: Final = 1e-2
"""Quotients that differ by at most this share of their length are one input."""


def least_squares(weight_HF: Tensor, bias_H: Tensor) -> Tensor:
    """The input x of shape (F,) for which the rows b_j x are nearest to the rows of a weight's gradient: Σ b_j W_j / Σ b_j²."""
    return bias_H @ weight_HF / bias_H.square().sum().clamp(min=1e-300)


def quotients(weight_HF: Tensor, bias_H: Tensor) -> Tensor:
    """The distinct quotients of rows of a weight's gradient by the gradient of the bias, of shape (R, F)."""
    size_H = bias_H.abs()
    order_R = size_H.argsort(descending=True, stable=True)
    order_R = order_R[size_H[order_R] > _SMALL * size_H.max()]
    order_R = order_R[(weight_HF[order_R] / bias_H[order_R, None]).isfinite().all(1)]
    weight_RF, bias_R = weight_HF[order_R], bias_H[order_R]
    rows_RF = weight_RF / bias_R[:, None]
    off_RR = torch.cdist(rows_RF, rows_RF, compute_mode="donot_use_mm_for_euclid_dist")
    same_RR = off_RR <= _SAME * rows_RF.norm(dim=1)[:, None]
    left_R = torch.ones(len(rows_RF), dtype=torch.bool)
    groups = list[Tensor]()
    for row in range(len(rows_RF)):
        if left_R[row]:
            group_R = same_RR[row] & left_R
            group_R[row] = True
            left_R &= ~group_R
            groups.append(group_R)
    groups.sort(key=lambda group_R: -int(group_R.sum()))
    found = [least_squares(weight_RF[group_R], bias_R[group_R]) for group_R in groups]
    return torch.stack(found) if found else rows_RF
