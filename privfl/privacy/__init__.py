"""BOOK of differential privacy: the promises, the mechanisms that keep them, and their price in ε and δ.

Read the chapters in this order:

- ``events``: the private steps of a run, as a ledger records them;
- ``plans``: the shelf of guarantees: the unit that is protected, from whom, and by which noise;
- ``sampling``: the batches of local training; ``cohorts``: the shelf of samplers of clients;
- ``ledger``: the record of every event, and the only source of ε;
- ``mechanisms``: the releases that an accountant can price; ``accounting``: their ε and δ, by ``loss`` (privacy loss
  distributions) and ``renyi`` (Rényi divergences);
- ``streams``: random words; ``integer_noise``: exact samples; ``noise``: secure Gaussian noise;
- ``distributed``: noisy integers for a secure sum; ``factorization``: noise that is correlated over rounds.
"""
