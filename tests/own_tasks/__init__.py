"""Data sets and a model of somebody's own, for the tasks that no shipped data set is for."""
