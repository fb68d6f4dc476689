"""Names of relations, samplers and accountants for readers, the same in tables, errors and pages."""

from __future__ import annotations

from typing import Final

ACCOUNTANTS: Final = {
    "pld": "PLD",
    "rdp": "RDP",
    "zcdp": "zCDP",
    "papers": "the RDP conversion used before 2020",
}
"""Name of each accountant."""

RELATIONS: Final = {
    "add_or_remove_one": "add or remove one",
    "replace_one": "replace one by another",
}
"""Difference between two neighbouring data sets, for each relation."""

SAMPLERS: Final = {
    "poisson": "Poisson sampling, independent and secret, both in the run and in the accounting",
    "shuffle": "shuffled batches, without amplification: ε is that of a batch of known composition",
    "fixed": "a fixed number, drawn without replacement and in secret, both in the run and in the accounting",
    "all": "everybody, every time, without amplification by sampling",
    "none": "public cohorts: participation in each round is known, without amplification by sampling",
}
"""Sampling that a price assumes, for each sampler."""
