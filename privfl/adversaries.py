"""The adversaries: who may look at a run. :mod:`privfl.running.views` says what each of them sees."""

from __future__ import annotations

from typing import Literal, get_args

Adversary = Literal["external", "recipient", "client", "server", "malicious_server"]

ADVERSARIES: tuple[Adversary, ...] = get_args(Adversary)
