"""What every table of a configuration or a record is: immutable, typed, and strict about its keys."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from privfl.shelves import nearest


class Frozen(BaseModel):
    """An immutable table of a configuration; an unknown key is refused, with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: object) -> object:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key", "{hint}", {"key": key, "hint": "is unknown; " + nearest(key, list(cls.model_fields))}
                    )
        return value


class Item(Frozen):
    """A choice from a shelf: ``kind`` names the file, the other fields are that item's own settings."""

    kind: str


def contradiction(key: str, value: object, allowed: str) -> PydanticCustomError:
    """The error for settings that are each allowed but not together."""
    return PydanticCustomError("contradiction", "{hint}", {"key": key, "value": value, "hint": allowed})
