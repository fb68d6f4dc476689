"""Initial weights from a file: a pretrained model that a run starts from. They count as public."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from privfl.errors import ModelError


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@torch.no_grad()
def load_weights(module: nn.Module, path: Path, sha256: str) -> None:
    """Copy every parameter and buffer of a safetensors file into a module, in place.

    Args:
        module: has exactly the names and shapes of the file.
        path: the file.
        sha256: the file's hash as the configuration recorded it.

    Raises:
        ModelError: the file cannot be read, is another file than was recorded, or does not fit the module.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror}); put the file there, or name another") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _refused(path, f"is not the file whose SHA-256 is model.weights_hash = {sha256[:12]}...; put that file there")
    try:
        given = load(content)
    except SafetensorError as error:
        raise _refused(path, f"is no safetensors file ({error}); write it with safetensors.torch.save_file") from error
    wanted = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if differing := sorted(wanted.keys() ^ given.keys()):
        side = "is not in the file" if differing[0] in wanted else "is not in the model"
        more = f", and {len(differing) - 1} more names differ" if len(differing) > 1 else ""
        raise _refused(path, f"{differing[0]} {side}{more}; the file needs exactly the model's names")
    for name, value in given.items():
        if value.shape != wanted[name].shape:
            raise _refused(path, f"{name} has shape {tuple(value.shape)}; the model's is {tuple(wanted[name].shape)}")
        if value.is_floating_point() != wanted[name].is_floating_point():
            raise _refused(path, f"{name} is {value.dtype}; the model's is {wanted[name].dtype}")
        if not value.isfinite().all():
            raise _refused(path, f"{name} has entries that are not finite numbers; write the file anew")
    module.load_state_dict(given)


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(f"model.weights = {str(path)!r}: {why}")
