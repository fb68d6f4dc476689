"""The data of ``bench_malicious_server.py``, in a package so that a configuration can name them by a dotted path."""
