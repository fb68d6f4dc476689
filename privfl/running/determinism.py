"""Determinism: settings of PyTorch with which the same seed gives the same bytes whatever the number of cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from privfl.learning.training._memory import keep_freed_memory
from privfl.learning.training._precision import float32_products

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic() -> Iterator[None]:
    """Run code deterministically: one thread, deterministic kernels and float32.

    With more threads, sums would be split by the number of cores, and results would depend on it. Runs are spread over
    processes instead, as shadow models are. The process' own settings are restored afterwards, except that it keeps the memory
    that it frees.
    """
    keep_freed_memory()
    # cuBLAS reads it at its first product. Without it, products on a GPU may differ from run to run.
    workspace = os.environ.get(_WORKSPACE)
    os.environ[_WORKSPACE] = workspace or ":4096:8"
    threads, algorithms = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    # torch.use_deterministic_algorithms would import a compiler, which takes two seconds. Fresh memory need not be filled.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # In the mode "warn" this attention kernel stays nondeterministic. The other kernels do not.
    efficient = torch.backends.cuda.mem_efficient_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    try:
        with float32_products():
            yield
    finally:
        torch.backends.cuda.enable_mem_efficient_sdp(efficient)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(algorithms)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
        if workspace is None:
            del os.environ[_WORKSPACE]
