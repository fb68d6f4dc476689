"""The state that the next round begins with, as a run folder keeps it in ``state.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from privfl.errors import RunFolderError, first_line
from privfl.federation.client_states import stacked, unstacked
from privfl.federation.server_state import ServerState
from privfl.running.run_folder import RunFolder
from privfl.storage import write_atomic

_NAME = "state.safetensors"


def write_state(folder: RunFolder, state: ServerState) -> None:
    """Write the state in place of that of the round before."""
    parts = {
        "optimizer": state.optimizer,
        "plan": state.plan,
        "algorithm": state.algorithm,
        "transform": state.transform,
        "of": stacked(state.clients),
        "version": {str(begun): model_D for begun, model_D in state.versions.items()},
    }
    tensors = {"global_D": state.global_D}
    for prefix, named in parts.items():
        tensors |= {f"{prefix}.{name}": value for name, value in named.items()}
    on_cpu = {name: value.cpu().contiguous() for name, value in tensors.items()}
    write_atomic(folder.path / _NAME, save_tensors(on_cpu, metadata={"round": str(state.round)}))


def read_state(folder: RunFolder, device: torch.device) -> ServerState | None:
    """The state that was written last; None if no round was finished. Clients' own states stay on the CPU.

    Raises:
        RunFolderError: it is damaged.
    """
    path = folder.path / _NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            done = int(file.metadata()["round"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = first_line(error)
        raise RunFolderError(f"{folder.path}: its state is damaged ({why}); replace the run with --overwrite") from None
    clients = unstacked(_under("of", tensors))
    tensors = {name: value.to(device) for name, value in tensors.items()}
    optimizer, plan, algorithm, transform = (
        _under(prefix, tensors) for prefix in ("optimizer", "plan", "algorithm", "transform")
    )
    versions = {int(begun): model_D for begun, model_D in _under("version", tensors).items()}
    return ServerState(done, tensors["global_D"], optimizer, plan, algorithm, clients, versions, transform)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
