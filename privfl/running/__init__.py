"""Running: from a configuration to a run folder, its price, and what each adversary saw."""
