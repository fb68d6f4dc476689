"""The parts of ``bench_gpu.py``: throughput, a trace of one round, a comparison of devices; one file each."""
