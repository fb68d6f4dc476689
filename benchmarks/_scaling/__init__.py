"""What the benchmark of growth trains on and with: items of a configuration, by their dotted paths."""
