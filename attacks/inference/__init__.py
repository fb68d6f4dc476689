"""SHELF of attacks on something else than membership: whose an example is, for one.

An item is one module with one class that derives from :class:`attacks.Attack`; its fields are its settings.
"""
