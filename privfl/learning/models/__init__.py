"""SHELF of models. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Model`; its fields are the model's settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, NonNegativeInt, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import nn

from privfl.learning.models._lora import Lora
from privfl.learning.models._weights import sha256_of
from privfl.tables import Item, contradiction

_START: Final = ("weights", "weights_hash", "torch_seed", "trainable", "lora")


class Model(Item, ABC):
    """The contract of this shelf, and the settings of every model.

    Args:
        weights: a safetensors file of initial weights, with exactly the model's names and shapes. They count as public.
        weights_hash: the hash of that file. It is filled in when a configuration without it is read, and recorded.
        torch_seed: the initial weights are those that PyTorch draws after ``torch.manual_seed(torch_seed)``, as other projects'
            code draws them. They count as public, and shadow models have them too. None: they depend on the run's seed.
        trainable: patterns over parameter names (``fc*``, ``head.*``); the parameters that match none of them are frozen.
        lora: low-rank adapters beside linear layers. The model itself is frozen, but for the parameters in ``trainable``.
    """

    weights: Path | None = None
    weights_hash: str | None = None
    torch_seed: NonNegativeInt | None = None
    trainable: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    lora: Lora | None = None

    inputs: ClassVar[tuple[str, ...]] = ()
    """The inputs that ``forward()`` takes by name, of data whose examples have several; empty: one tensor."""

    as_dictionary: ClassVar[bool] = False
    """Whether ``forward()`` takes those inputs as one dictionary, and not as keywords."""

    @abstractmethod
    def build(self, input_shape: Any, outputs: int) -> nn.Module:
        """A module from (B, *input_shape) to outputs of shape (B, outputs), with PyTorch's default initialisation.

        Args:
            input_shape: the shape of an example's input; of a model with :attr:`inputs`, name -> shape of each of them.
            outputs: the width of the last layer, which the task and the data decide.

        The caller sets the seed of the global generators of PyTorch, NumPy and Python around this call, so that initial
        weights, and constants that are drawn beside them, are repeatable: each process calls it for itself. Lazy layers are
        made whole by an example, and the result is checked before training (:mod:`privfl.learning.models._build`).

        Raises:
            ModelError: the model cannot take inputs of that shape.
        """

    @model_validator(mode="before")
    @classmethod
    def _with_hash(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("weights_hash") is not None and value.get("weights") is None:
            raise contradiction("weights_hash", value["weights_hash"], "is the hash of model.weights, which is not given")
        if not isinstance(value, Mapping) or not isinstance(value.get("weights"), str | Path) or "weights_hash" in value:
            return value
        try:
            return {**value, "weights_hash": sha256_of(Path(value["weights"]))}
        except OSError as error:
            hint = f"cannot be read ({error.strerror}); give a safetensors file"
            raise contradiction("weights", str(value["weights"]), hint) from None

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run that sets none of them is named, and draws its noise, as if they did not exist."""
        found: dict[str, Any] = handler(self)
        return {name: value for name, value in found.items() if name not in _START or value is not None}
