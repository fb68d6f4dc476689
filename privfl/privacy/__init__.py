"""BOOK of differential privacy: the promises, the mechanisms that keep them, and their price in ε and δ.

Read the chapters in this order:

- ``events``: the private steps of a run, as a ledger records them;
- ``plans``: the shelf of guarantees: the unit that is protected, from whom, and by which noise;
- ``sampling``: the batches of local training; ``cohorts``: the shelf of samplers of clients;
- ``clipping`` and ``gaussian``: clipping of updates, and Gaussian noise for their sums; ``client_plans``: the base classes of
  client-level plans;
- ``ledger``: the record of every event, and the only source of ε;
- ``mechanisms``: the releases that an accountant can price; ``accounting``: their ε and δ, by ``privacy_loss``
  (privacy loss distributions, of releases put on a grid by ``discretisation``) and ``renyi`` (Rényi divergences);
- ``streams``: random words; ``integer_noise``: exact samples; ``noise``: secure Gaussian noise;
- ``distributed``: noisy integers for a secure sum; ``factorization``: noise that is correlated over rounds.
"""
