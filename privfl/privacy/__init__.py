"""BOOK of differential privacy: what is promised, what is done, what it costs.

To be read in this order: ``events`` (what was done), ``plan`` (who is protected, how), ``sampling`` (who and what is
drawn), ``ledger`` (the record of every draw); ``mechanisms`` (what was released once), ``accounting`` (its price) by ``loss``
(privacy loss distributions) and ``renyi`` (Rényi divergences); ``streams`` (random words), ``integer_noise`` (exact
samples), ``noise`` (secure Gaussian noise), ``distributed`` (integers for a secure sum) and ``factorization`` (noise that is
correlated over rounds).
"""
