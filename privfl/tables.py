"""Tables of a configuration or a record: immutable, typed, and strict about their keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from privfl.errors import ConfigError
from privfl.shelves import SHELVES, nearest

Contract = TypeVar("Contract")


def _in_float32(value: float) -> float:
    if not 1e-30 <= value <= 1e38:
        raise PydanticCustomError("size", "must be between 1e-30 and 1e38, which float32 can be multiplied by")
    return value


Size = Annotated[PositiveFloat, AfterValidator(_in_float32)]
"""A number above 0 that float32 can be multiplied by."""


LEAST_DELTA: Final = 1e-300
"""A smaller δ has no price: it could not be told from 0."""


def _priced(value: float) -> float:
    if value < LEAST_DELTA:
        raise PydanticCustomError("delta", "must be at least {least}, to have a price", {"least": f"{LEAST_DELTA:g}"})
    return value


Delta = Annotated[float, Field(gt=0, lt=1), AfterValidator(_priced)]
"""A δ that can be priced."""


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
    """A choice from a shelf: ``kind`` names the file, the other fields are that item's own settings.

    A setting may be of a type that a file writes as text or as a list: a path, a tuple, a set, an enumeration.
    """

    kind: str

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_a_file_writes_it(cls, value: object, validated: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        try:
            return validated(value)
        except ValidationError:
            if not isinstance(value, str | list) or info.field_name is None:
                raise
            field = cls.model_fields[info.field_name]
            try:
                # JSON has the types that TOML has: by its rules text may be a path, and no text is a number.
                return _adapter(field.annotation, *field.metadata).validate_json(json.dumps(value), strict=True)
            except TypeError:
                pass
            raise


def _adapter(annotation: Any, *metadata: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[annotation, *metadata] if metadata else annotation)


def contradiction(key: str, value: object, allowed: str) -> PydanticCustomError:
    """The error for settings that are each allowed but not together."""
    return PydanticCustomError("contradiction", "{hint}", {"key": key, "value": value, "hint": allowed})


class InvalidItemError(Exception):
    """A shelf item's own settings are wrong; carries place and reason past pydantic, which would flatten it."""

    def __init__(self, at: str, given: object, error: ValidationError | ConfigError) -> None:
        self.at, self.given, self.error = at, given, error

    def key(self, table: Mapping[str, Any]) -> str:
        """The item's key: :attr:`at`, and the item's place if a list of items stands there."""
        value = value_at(table, self.at)
        return f"{self.at}.{value.index(self.given)}" if isinstance(value, list | tuple) else self.at


def on_shelf(at: str, default: str | None = None) -> Any:
    """The item that a table, or a name alone, chooses from the shelf of that key; ``default`` if a table names none."""

    def resolve(value: object) -> object:
        table = {"kind": value} if isinstance(value, str) else value
        if default is not None and isinstance(table, Mapping) and "kind" not in table:
            table = {"kind": default, **table}
        if isinstance(table, Mapping) and not get_close_matches("kind", list(table), n=1):
            raise contradiction("kind", None, "is missing")
        if isinstance(table, Item) or not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
            return table
        try:
            return SHELVES[at].find(table["kind"]).model_validate(table)
        except ValidationError as error:
            raise InvalidItemError(at, value, error) from None
        except ConfigError as error:
            raise InvalidItemError(at, value, error) from None

    return BeforeValidator(resolve)


def narrow(item: object, contract: type[Contract]) -> Contract:
    """The item, typed by its shelf's contract; loading the configuration has made sure of it.

    Raises:
        ConfigError: it does not derive from the contract.
    """
    if not isinstance(item, contract):
        raise ConfigError(
            f"{type(item).__name__} does not derive from {contract.__module__}.{contract.__name__}; see its docstring"
        )
    return item


def value_at(table: Mapping[str, Any], key: str) -> object:
    """The value at a dotted key of nested tables."""
    value: Any = table
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else value
    return value
