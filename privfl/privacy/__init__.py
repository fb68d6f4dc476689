"""BOOK of differential privacy: what is promised, what is done, what it costs.

To be read in this order: ``events`` (what was done), ``plan`` (who is protected, how), ``sampling`` (who and what is
drawn), ``ledger`` (the record of every draw) and ``accounting`` (its price).
"""
