"""Flower on the benchmark task: its FedAvg strategy and a ClientApp, in one process; needs ``flwr``.

Its message API as its users write it: the strategy's own loop, its sampling of nodes, its records and their serialisation
of every parameter, its aggregation, and a client that loads the record into a model, trains and answers with a record.
Messages are handed over in memory by the smallest possible ``Grid``. Left out, all in Flower's favour: Ray and its processes,
the link state and its polling, transport, and loading data in every client. Its clients train by a plain loop of PyTorch
over tensors that lie ready, in one model that is kept; where they are private, by Opacus: one GradSampleModule that is kept
for all clients, a fresh DPOptimizer for each, and Poisson batches out of the same tensors, at the rate, the noise and the
clipping norm of privfl's plan. PrivacyEngine with its data loader, made anew for each client as its users
write it, takes as long (3 % more, which is within the noise).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import torch
from _peers import Problem
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TASKS = ("cnn", "mlp", "dp_cnn")

Train = Callable[[Tensor, Tensor], float]


def installed() -> bool:
    """Whether Flower and its message API can be imported."""
    try:
        import flwr.serverapp.strategy  # noqa: F401
    except ImportError:
        return False
    return True


def _plain(problem: Problem, model: nn.Module) -> Train:
    training = problem.config.training

    def train(x: Tensor, y: Tensor) -> float:
        optimizer = torch.optim.SGD(model.parameters(), lr=training.lr)
        total = 0.0
        for _ in range(training.local_epochs or 0):
            for batch in torch.split(torch.randperm(len(y)), training.batch_size):
                optimizer.zero_grad()
                loss = cross_entropy(model(x[batch]), y[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += float(loss.detach())
        return total

    return train


def _private(problem: Problem, model: nn.Module) -> Train:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    todo = problem.local
    assert todo is not None
    private = GradSampleModule(model)

    def train(x: Tensor, y: Tensor) -> float:
        optimizer = DPOptimizer(
            torch.optim.SGD(private.parameters(), lr=problem.config.training.lr),
            noise_multiplier=todo.noise_multiplier,
            max_grad_norm=todo.max_grad_norm,
            expected_batch_size=todo.expected_batch_size,
        )
        total = 0.0
        for _ in range(todo.steps):
            batch = (torch.rand(len(y)) < todo.sample_rate).nonzero().squeeze(1)
            optimizer.zero_grad()
            loss = cross_entropy(private(x[batch]), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
        return total

    return train


def _client_app(problem: Problem) -> Any:
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app, model = ClientApp(), problem.model()
    train = _plain(problem, model) if problem.local is None else _private(problem, model)

    @app.train()  # type: ignore[untyped-decorator]
    def _(message: Message, context: Context) -> Message:
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = problem.clients[int(context.node_config["partition-id"])]
        loss = train(x, y)
        content = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "metrics": MetricRecord({"train_loss": loss, "num-examples": len(y)}),
            }
        )
        return Message(content=content, reply_to=message)

    return app


def _grid(app: Any, clients: int) -> Any:
    from flwr.app import Context, RecordDict
    from flwr.serverapp import Grid

    class Handover(Grid):  # type: ignore[misc]
        """Hands every message to the client, and its answer back."""

        def __init__(self) -> None:
            settings = {client: {"partition-id": client, "num-partitions": clients} for client in range(clients)}
            self.contexts = {
                # Node 0 is nobody.
                client + 1: Context(run_id=1, node_id=client + 1, node_config=node, state=RecordDict(), run_config={})
                for client, node in settings.items()
            }

        def set_run(self, run: Any) -> None:
            raise NotImplementedError

        run = property(set_run)  # type: ignore[arg-type]

        def create_message(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        def get_node_ids(self) -> Iterable[int]:
            return list(self.contexts)

        def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
            raise NotImplementedError

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
            raise NotImplementedError

        def send_and_receive(self, messages: Iterable[Any], **_: Any) -> Iterable[Any]:
            replies = []
            for message in messages:
                # As Flower's own grid in memory does.
                message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
                replies.append(app(message, self.contexts[message.metadata.dst_node_id]))
            return replies

    return Handover()


def _identify() -> None:
    """Who sends: its own server says so when it starts, since 1.42 in this way."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:
        return
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def run(problem: Problem, rounds: int) -> float:
    """Train from the beginning; returns the last accuracy on the test split."""
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.serverapp.strategy import FedAvg

    logging.getLogger("flwr").setLevel(logging.ERROR)
    scratch, reached = problem.model(), [float("nan")]

    def evaluate(server_round: int, arrays: Any) -> Any:
        if server_round == 0 or not problem.due(server_round, rounds):
            return None
        scratch.load_state_dict(arrays.to_torch_state_dict())
        reached.append(problem.accuracy(scratch))
        return MetricRecord({"accuracy": reached[-1]})

    clients = len(problem.clients)
    _identify()
    FedAvg(fraction_train=problem.cohort / clients, fraction_evaluate=0.0, min_available_nodes=clients).start(
        grid=_grid(_client_app(problem), clients),
        initial_arrays=ArrayRecord(problem.start.state_dict()),
        num_rounds=rounds,
        evaluate_fn=evaluate,
    )
    return reached[-1]
