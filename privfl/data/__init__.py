"""Data: the shelves of data sets and partitions, who owns which example, and how a run keeps its inputs."""
