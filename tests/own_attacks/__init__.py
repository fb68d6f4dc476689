"""Attacks and questions as somebody else would write them, found by a dotted path."""
