"""Check of the inputs of models of sequences of tokens."""

from __future__ import annotations

from privfl.errors import ModelError


def length_of(kind: str, input_shape: tuple[int, ...]) -> int:
    """T, the number of places of a sequence.

    Raises:
        ModelError: the inputs are no sequences.
    """
    if len(input_shape) != 1:
        raise ModelError(
            f"model.kind = {kind!r} takes sequences of T tokens, shape (T,); the data has shape {input_shape}: "
            "use 'mlp' or 'cnn'"
        )
    return input_shape[0]
