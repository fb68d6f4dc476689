"""What all benchmarks share."""

import subprocess
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "benchmarks"
PEAKS = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
from _harness import peak_mib
before = peak_mib()
np.ones(100 * 2**17)
print(before, peak_mib())
"""


def test_the_peak_of_memory_is_the_process_own() -> None:
    """A process that a large one starts is not large for that."""
    held = np.ones(600 * 2**17)
    said = subprocess.check_output([sys.executable, "-c", PEAKS.format(folder=str(FOLDER))], text=True)
    before, after = (float(one) for one in said.split())
    assert held.nbytes / 2**20 == 600
    assert before < 400
    assert 95 < after - before < 120
