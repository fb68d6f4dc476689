"""The same seed, the same bytes: how a run keeps results from depending on threads and on kernels that may differ."""

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
    """The same seed, the same bytes: one thread, deterministic kernels, float32; the process is left as it was found.

    Sums are split over threads, so that results would depend on the number of cores. Runs are spread over processes
    instead (see the shadow models). What stays is that the process keeps the memory that it frees.
    """
    keep_freed_memory()
    # cuBLAS reads it at its first product; without it a GPU's products may differ from run to run.
    workspace = os.environ.get(_WORKSPACE)
    os.environ[_WORKSPACE] = workspace or ":4096:8"
    threads, algorithms = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    # The other way to ask for it imports two seconds' worth of compiler. Nor need fresh memory be filled before it is used.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Asked only to warn, one kernel of attention goes on in any order; the others do not.
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
