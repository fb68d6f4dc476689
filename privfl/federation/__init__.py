"""The federation: one training round as a function, and the algorithms, aggregators and server optimizers it is made of."""
