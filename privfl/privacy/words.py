"""Words for relations, samplers and accountants, for tables, errors and pages alike."""

from __future__ import annotations

from typing import Final

ACCOUNTANTS: Final = {
    "pld": "PLD",
    "rdp": "RDP",
    "zcdp": "zCDP",
    "papers": "the conversion of papers before 2020",
}
"""The accountants."""

RELATIONS: Final = {
    "add_or_remove_one": "add or remove one",
    "replace_one": "replace one by any other",
}
"""The difference between two neighbours."""

SAMPLERS: Final = {
    "poisson": "Poisson sampling, each independently and in secret, run and accounted so",
    "shuffle": "shuffled batches, which earn no amplification: ε is that of a batch whose composition is known",
    "fixed": "a fixed number without replacement, in secret, run and accounted so",
    "all": "everybody, every time; nothing is gained by sampling",
    "none": "public: who takes part in a round is known, and nothing is gained by sampling",
}
"""The sampling that a price counts on."""
