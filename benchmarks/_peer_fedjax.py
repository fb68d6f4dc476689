"""FedJAX on the benchmark task: its federated averaging with ``for_each_client`` under jit; needs ``fedjax``.

Its algorithm, optimizers, client sampler, in-memory data and evaluation. In its favour: what jax compiles in the round that
warms up counts for nothing, and is kept for all runs; images lie channels last, as XLA likes them on a CPU. An epoch's last
batch is filled up to 32 (FedJAX has it so): 608 examples instead of 600.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from _peers import EVALUATION_BATCH, Problem
from torch import nn

TASKS = ("cnn", "mlp")

# As for PyTorch: one thread. It must be said before jax starts.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def installed() -> bool:
    """Whether FedJAX can be imported. Its last version (0.0.17) calls jax.tree_map, which jax has renamed since."""
    try:
        import fedjax  # noqa: F401
        import jax
    except ImportError:
        return False
    if not hasattr(jax, "tree_map"):
        jax.tree_map = jax.tree_util.tree_map
    return True


def _forward(layers: nn.Module) -> Any:
    """The same model in jax: a function of (parameters by their PyTorch names, a batch of (B, rows, columns, channels))."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    def forward(parameters: Mapping[str, Any], h: Any) -> Any:
        for name, layer in layers.named_children():
            if isinstance(layer, nn.Conv2d):
                assert not isinstance(layer.padding, str)
                pads, kinds = [(each, each) for each in layer.padding], ("NHWC", "HWIO", "NHWC")
                h = lax.conv_general_dilated(h, parameters[f"{name}.weight"], layer.stride, pads, dimension_numbers=kinds)
                h += parameters[f"{name}.bias"]
            elif isinstance(layer, nn.MaxPool2d):
                assert isinstance(layer.kernel_size, int)
                assert isinstance(layer.stride, int)
                window, steps = (1, layer.kernel_size, layer.kernel_size, 1), (1, layer.stride, layer.stride, 1)
                h = lax.reduce_window(h, -jnp.inf, lax.max, window, steps, "VALID")
            elif isinstance(layer, nn.Flatten):
                h = h.transpose(0, 3, 1, 2).reshape(h.shape[0], -1)
            elif isinstance(layer, nn.Linear):
                h = h @ parameters[f"{name}.weight"] + parameters[f"{name}.bias"]
            else:
                h = {nn.Tanh: jnp.tanh, nn.ReLU: jax.nn.relu}[type(layer)](h)
        return h

    return forward


def _parameters(model: nn.Module) -> dict[str, Any]:
    from jax import numpy as jnp

    found = {name: value.detach().numpy() for name, value in model.named_parameters()}
    turned = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return {name: jnp.asarray(value.transpose(turned[value.ndim])) for name, value in found.items()}


@lru_cache(maxsize=1)
def _prepared(problem: Problem) -> tuple[Any, Any, Any, Any]:
    """The model and the algorithm, compiled once; the clients' data and the test split, in NumPy arrays."""
    import fedjax

    forward = _forward(problem.start)
    model = fedjax.Model(
        init=lambda _: _parameters(problem.start),
        apply_for_train=lambda parameters, batch, _: forward(parameters, batch["x"]),
        apply_for_eval=lambda parameters, batch: forward(parameters, batch["x"]),
        train_loss=lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], logits),
        eval_metrics={"accuracy": fedjax.metrics.Accuracy()},
    )
    training = problem.config.training
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(training.lr),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=training.batch_size, num_epochs=training.local_epochs),
    )

    def arrays(x: Any, y: Any) -> dict[str, Any]:
        return {"x": np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1)), "y": y.numpy()}

    clients = fedjax.InMemoryFederatedData(
        {str(number).encode(): arrays(*client) for number, client in enumerate(problem.clients)}
    )
    return model, algorithm, clients, fedjax.ClientDataset(arrays(*problem.test))


def run(problem: Problem, rounds: int) -> float:
    """Train from the beginning; returns the last accuracy on the test split."""
    import fedjax

    model, algorithm, clients, test = _prepared(problem)
    sampler = fedjax.client_samplers.UniformGetClientSampler(clients, num_clients=problem.cohort, seed=0)
    state = algorithm.init(model.init(None))
    accuracy = float("nan")
    for done in range(1, rounds + 1):
        state, _ = algorithm.apply(state, sampler.sample())
        if problem.due(done, rounds):
            found = fedjax.evaluate_model(model, state.params, test.padded_batch(batch_size=EVALUATION_BATCH))
            accuracy = float(found["accuracy"])
    return accuracy
