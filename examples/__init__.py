"""Short scripts, each of which does one thing with the Python API: ``python -m examples.NAME`` in the folder above."""
