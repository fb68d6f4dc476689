"""The federation: the shelves of aggregators and server optimisers, and one round as a function."""
