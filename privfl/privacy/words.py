"""Names of relations, samplers and accountants for readers, the same in tables, errors and pages."""

from __future__ import annotations

from typing import Final

ACCOUNTANTS: Final = {
    "pld": "PLD",
    "rdp": "RDP",
    "zcdp": "zCDP",
    "papers": "the conversion of papers before 2020",
}
"""Name of each accountant."""

RELATIONS: Final = {
    "add_or_remove_one": "add or remove one",
    "replace_one": "replace one by any other",
}
"""Difference between two neighbouring data sets, for each relation."""

SAMPLERS: Final = {
    "poisson": "Poisson sampling, each independently and in secret, run and accounted so",
    "shuffle": "shuffled batches, which earn no amplification: ε is that of a batch whose composition is known",
    "fixed": "a fixed number without replacement, in secret, run and accounted so",
    "all": "everybody, every time; nothing is gained by sampling",
    "none": "public: who takes part in a round is known, and nothing is gained by sampling",
}
"""Sampling that a price assumes, for each sampler."""
