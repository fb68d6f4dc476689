"""The Python API: a run as an object, many runs as one table. Its names are imported from ``privfl`` itself."""
