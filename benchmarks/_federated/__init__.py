"""The data of ``bench_federated_attacks.py``, in a package so that a configuration can name them by a dotted path."""
