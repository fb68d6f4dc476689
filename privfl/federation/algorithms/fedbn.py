"""FedBN: scales and shifts of batch normalisation stay at each client (Li et al. 2021, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field
from torch import nn

from privfl.errors import ConfigError
from privfl.federation.algorithms._layers import require_rest
from privfl.federation.algorithms._local import PartlyLocal


class FedBn(PartlyLocal):
    """FedAvg of all parameters but those of BatchNorm layers, which each client keeps.

    The layers have ``track_running_stats=False``, since running means are no parameters. ``layers`` is found from the model.

    **Privacy.** BatchNorm mixes the examples of a batch, so an example-level plan refuses such a model.
    """

    layers: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @property
    def own_names(self) -> tuple[str, ...]:
        """The parameters of the BatchNorm layers."""
        return self.layers

    def resolved(self, model: nn.Module) -> Self:
        """With the names of the parameters of all BatchNorm layers."""
        of = {
            name: [f"{name}.{own}" if name else own for own, _ in layer.named_parameters(recurse=False)]
            for name, layer in model.named_modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        }
        found = tuple(name for names in of.values() for name in names)
        if not found:
            raise ConfigError(
                "algorithm.kind = 'fedbn': the model has no BatchNorm with scales and shifts; set a model that has, with "
                "track_running_stats=False, or algorithm = {kind = 'fedper', head = [...]} to keep other layers at the clients"
            )
        require_rest(found, model, "algorithm.kind = 'fedbn'")
        return self.model_copy(update={"layers": found})
