"""Model replacement: attackers scale the update of a model with a backdoor until it replaces the global model (2020)."""

from __future__ import annotations

from privfl.federation.behaviours._backdoor import BackdoorBehaviour


class ModelReplacement(BackdoorBehaviour):
    """Model replacement (Bagdasaryan et al. 2020, section 4.2): every attacker shows the whole trigger in its images."""
