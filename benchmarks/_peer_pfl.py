"""Apple's ``pfl`` on the benchmark task: FederatedAveraging over its PyTorch model and its simulated backend.

Its own loop, data sets, central optimizer and central evaluation, set up as its tutorials do. In its favour: the clients'
evaluation of the model before and after training, which it cannot do without in its first iteration, is taken off; metrics
are not printed; its data sets keep an epoch's batches, and so do not shuffle; users come in turn, not by lot.
"""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial
from typing import Any

import torch
from _peers import EVALUATION_BATCH, Problem
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TASKS = ("cnn", "mlp")


def installed() -> bool:
    """Whether pfl and its PyTorch part can be imported."""
    try:
        import pfl.model.pytorch  # noqa: F401
    except ImportError:
        return False
    return True


class _Judged(nn.Module):
    """The model as pfl wants it: it knows its loss and its metrics."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What is minimised."""
        return cross_entropy(self.model(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """How many answers are right, of how many."""
        from pfl.metrics import Weighted

        return {"accuracy": Weighted(int((self.model(x).argmax(1) == y).sum()), len(y))}


def _algorithm() -> Any:
    from pfl.algorithm.federated_averaging import FederatedAveraging

    class Quiet(FederatedAveraging):  # type: ignore[misc]
        """Evaluates nothing at clients."""

        def get_next_central_contexts(self, *args: Any, **named: Any) -> Any:
            contexts, model, metrics = super().get_next_central_contexts(*args, **named)
            quiet = contexts and tuple(dataclasses.replace(context, do_evaluation=False) for context in contexts)
            return quiet, model, metrics

    return Quiet()


def _evaluation(problem: Problem, rounds: int) -> Any:
    from pfl.callback.central_evaluation import CentralEvaluationCallback
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam import NNEvalHyperParams
    from pfl.metrics import Metrics, StringMetricName

    class Evaluation(CentralEvaluationCallback):  # type: ignore[misc]
        """Evaluates when everybody does, and keeps the accuracy."""

        accuracy = float("nan")

        def on_train_begin(self, **_: Any) -> Any:
            return Metrics()

        def after_central_iteration(self, _: Any, model: Any, *, central_iteration: int) -> Any:
            if not problem.due(central_iteration + 1, rounds):
                return False, Metrics()
            stop, metrics = self._eval(model)
            self.accuracy = metrics[StringMetricName("accuracy")].overall_value
            return stop, metrics

    batches = NNEvalHyperParams(local_batch_size=EVALUATION_BATCH)
    return Evaluation(PyTorchTensorDataset(problem.test), model_eval_params=batches, format_fn=StringMetricName)


def run(problem: Problem, rounds: int) -> float:
    """Train from the beginning; returns the last accuracy on the test split."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    # pfl wants a thread's event loop to be there.
    asyncio.set_event_loop(asyncio.new_event_loop())
    training = problem.config.training
    judged = _Judged(problem.model())
    model = PyTorchModel(
        judged,
        local_optimizer_create=partial(torch.optim.SGD),
        central_optimizer=torch.optim.SGD(judged.parameters(), lr=1.0),
    )
    users = [PyTorchTensorDataset(client) for client in problem.clients]
    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", range(len(users))))
    evaluation = _evaluation(problem, rounds)
    _algorithm().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=rounds, train_cohort_size=problem.cohort, val_cohort_size=None
        ),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(
            local_num_epochs=training.local_epochs,
            local_learning_rate=training.lr,
            local_batch_size=training.batch_size,
        ),
        callbacks=[evaluation],
        send_metrics_to_platform=False,
    )
    return float(evaluation.accuracy)
