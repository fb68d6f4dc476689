"""Data of a run: the shelves of data sets and partitions, the owner of each example, and the storage of a model's inputs."""
