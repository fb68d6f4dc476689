"""BOOK of papers reproduced: ``verdict`` says whether a row holds, ``tables`` and ``page`` show it.

It reads rows and their results only, so that everything can be written again without training.
"""
