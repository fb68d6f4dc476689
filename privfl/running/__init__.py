"""Running experiments: from a configuration to a run folder, its price in ε, and each adversary's view of it."""
