"""The trained model of a finished run, as a module and as a file for other programs."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from privfl.data.datasets import Dataset
from privfl.data.federated import FederatedData
from privfl.data.named_inputs import unpacked
from privfl.data.transforms import transformed
from privfl.errors import ConfigError, ModelError, RunFolderError, first_line
from privfl.federation.algorithms import Algorithm
from privfl.learning.models import Model
from privfl.learning.models._build import built, by_name_alone, constants, few
from privfl.learning.tasks import Task
from privfl.running.run_folder import RunFolder
from privfl.seeding import Seed
from privfl.storage import write_atomic
from privfl.tables import narrow


@dataclass(frozen=True)
class TrainedModel:
    """A trained module in evaluation mode on the CPU, with two examples of the test split as example inputs.

    Args:
        module: is called with ``*args, **kwargs``.
        args: one tensor. If the model takes several inputs, it is one dictionary of tensors or empty.
        kwargs: the inputs that the model takes by name.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Tensor]

    @classmethod
    def of(cls, folder: RunFolder) -> TrainedModel:
        """Build the model of a run and load its final weights. The data are read, because the model's shape depends on them.

        Raises:
            RunFolderError: the run has not finished, or its weights are damaged.
            ModelError: the model's code has changed since the run.
            ConfigError, DataError: the model or the data are missing.
        """
        path = folder.path / "model.safetensors"
        if not folder.finished or not path.exists():
            raise RunFolderError(f"{folder.path}: has no trained model: the run has not finished; continue it with --resume")
        config, seed = folder.config, Seed(folder.config.seed)
        models = narrow(config.algorithm, Algorithm).models
        if models > 1:
            raise ModelError(
                f"algorithm.kind = {config.algorithm.kind!r}: the run has {models} models, one a cluster, and a module "
                "holds one; export to .safetensors, whose names begin with the cluster's"
            )
        task = narrow(config.task, Task)
        loaded = task.fitting(transformed(narrow(config.data, Dataset).load(), config.data, seed / "transforms"))
        x_B, item = few(FederatedData.build(loaded, config.data, seed / "data")), narrow(config.model, Model)
        module = built(item, x_B, task.outputs(loaded), seed / "model", loaded.train.fields)
        folder.require_same_constants(constants(module))
        try:
            module.load_state_dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{path}: is damaged ({first_line(error)}); run the config.toml of its folder again") from None
        except RuntimeError as error:
            # The second line names the first parameter that is missing, unknown or of another shape.
            detail = " ".join(str(error).split("\n\t")[1:2]) or first_line(error)
            raise ModelError(
                f"model.kind = {config.model.kind!r}: does not take the weights in {path} ({detail.strip()}); "
                "restore the code that the run was trained with"
            ) from None
        if not item.inputs:
            return cls(module.eval(), (x_B,), {})
        by_name_alone(module)
        # Copies, because an exported program would require every input to be a part of a row.
        inputs = {name: value.clone() for name, value in unpacked(x_B, loaded.train.fields, item.inputs).items()}
        return cls(module.eval(), (inputs,), {}) if item.as_dictionary else cls(module.eval(), (), inputs)

    @property
    def free(self) -> Any:
        """Dynamic shapes for an exporter: the first dimension of every input may have any size."""
        any_batch = {0: torch.export.Dim.DYNAMIC}
        if self.kwargs:
            return dict.fromkeys(self.kwargs, any_batch)
        return tuple(dict.fromkeys(one, any_batch) if isinstance(one, dict) else any_batch for one in self.args)


def export(folder: RunFolder, out: Path | str) -> Path:
    """Write the trained model of a run to a file; the suffix of its name selects the format.

    ``.safetensors`` holds the weights under the names of ``state_dict``. ``.pt2`` is a program of ``torch.export``, which
    ``torch.export.load`` reads without the model's code. ``.onnx`` has one input ``x``, or the inputs that the model takes by
    name, and one output ``outputs``. ``.pt2`` and ``.onnx`` accept batches of any size.

    Args:
        folder: a finished run.
        out: the file; an existing one is replaced.

    Returns:
        ``out``.

    Raises:
        ConfigError: the suffix is unknown, or a package that the format needs is not installed.
        ModelError: the model cannot be exported.
        RunFolderError, DataError: as :meth:`TrainedModel.of`.
    """
    out = Path(out)
    if out.suffix not in _WRITERS:
        raise ConfigError(f"{out}: has no suffix of an export format; use {_listed(_WRITERS)}")
    if out.suffix == ".onnx":
        _require_onnx()
    write_atomic(out, _WRITERS[out.suffix](folder))
    return out


def _listed(words: Any) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export to .onnx needs the package {' and '.join(missing)}: pip install 'privfl[onnx]', or export to .pt2"
        )


def _safetensors(folder: RunFolder) -> bytes:
    try:
        return (folder.path / "model.safetensors").read_bytes()
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder.path}: has no trained model: the run has not finished; continue it with --resume"
        ) from None


def _pt2(folder: RunFolder) -> bytes:
    model = TrainedModel.of(folder)
    content = io.BytesIO()

    def save() -> None:
        torch.export.save(torch.export.export(model.module, model.args, model.kwargs, dynamic_shapes=model.free), content)

    _exported(folder, save)
    return content.getvalue()


def _onnx(folder: RunFolder) -> bytes:
    model = TrainedModel.of(folder)

    def save() -> Any:
        return torch.onnx.export(
            model.module,
            model.args,
            kwargs=model.kwargs,
            dynamo=True,
            dynamic_shapes=model.free,
            input_names=list(model.kwargs) or (["x"] if isinstance(model.args[0], Tensor) else list(model.args[0])),
            output_names=["outputs"],
            verbose=False,
        )

    program = _exported(folder, save)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _exported(folder: RunFolder, save: Callable[[], Any]) -> Any:
    """Call an exporter of PyTorch and turn its errors, which have many types, into one.

    Raises:
        ModelError: one line with the exporter's own message.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return save()
    except Exception as error:
        raise ModelError(
            f"model.kind = {folder.config.model.kind!r}: cannot be exported ({type(error).__name__}: "
            f"{first_line(error)[:200]}); export to .safetensors, which needs the model's code to be read"
        ) from error


_WRITERS: Final[dict[str, Callable[[RunFolder], bytes]]] = {".onnx": _onnx, ".pt2": _pt2, ".safetensors": _safetensors}
