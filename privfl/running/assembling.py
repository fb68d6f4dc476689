"""Assembling: a configuration becomes the objects of a run, an experiment; nothing else makes them."""

from __future__ import annotations

import secrets

import numpy as np
import torch

from privfl.config import ExperimentConfig, TrainingConfig
from privfl.data.federated import Examples, FederatedData
from privfl.data.input_store import InputStore
from privfl.errors import ConfigError
from privfl.federation.aggregators import Aggregator
from privfl.federation.algorithms import Algorithm
from privfl.federation.behaviours import Behaviour
from privfl.federation.canaries._planted import plant
from privfl.federation.checks import require_one_process
from privfl.federation.clusters import Clustered
from privfl.federation.noise_domain import RunFacts, noise_domain, with_members
from privfl.federation.paces import Timetable
from privfl.federation.payload import PayloadLayout
from privfl.federation.servers import ServerOptimizer
from privfl.federation.transforms import Transform
from privfl.learning import evaluation
from privfl.learning.models import Model
from privfl.learning.models._build import constants, copied, few, sound
from privfl.learning.tasks import Task
from privfl.learning.training import Trainer
from privfl.learning.training._choice import choose
from privfl.privacy.plans import Federation, Plan, PlanSettings
from privfl.privacy.plans.none import NoPlan
from privfl.processes import ALONE, Processes, device_named
from privfl.running.calibration import calibrated
from privfl.running.experiment import Experiment, ServerExamples, initial_vector
from privfl.running.reading import read_data, set_aside
from privfl.running.timing import planned_turns
from privfl.seeding import Seed
from privfl.tables import narrow
from privfl.vectors import Layout, to_vector


def assemble(
    config: ExperimentConfig,
    plan: Plan | None = None,
    secret: Seed | None = None,
    processes: Processes = ALONE,
) -> Experiment:
    """Build all objects of a run from its configuration.

    Args:
        config: the resolved configuration.
        plan: the plan if its noise is known already, as for a shadow model; calibrated anew otherwise.
        secret: the root of the noise if the plan draws it from the operating system, as :func:`new_secret` gives it; drawn anew
            otherwise.
        processes: the processes that carry out the run together.

    Raises:
        ConfigError, DataError, ModelError: settings, data or model do not fit together; nothing was trained.
    """
    seed = Seed(config.seed)
    secret = (secret or new_secret()) if getattr(config.privacy, "randomness", "seeded") == "secure" else seed
    experiment = _assembled(config, plan, seed, secret, processes)
    _require_possible(experiment)
    return experiment


def _assembled(config: ExperimentConfig, plan: Plan | None, seed: Seed, secret: Seed, processes: Processes) -> Experiment:
    """The objects of a run, not yet checked for being possible. Each run draws secret cohorts of its own: prices add up."""
    device, task = device_named(config.device), narrow(config.task, Task)
    data, outputs = read_data(config, task, seed, secret)
    aggregator = narrow(config.aggregator, Aggregator)
    data, own = set_aside(data, aggregator.server_rows, seed / "root")
    item = narrow(config.model, Model)
    # The module is built once, because its random constants must be the same everywhere, in the shadow models too.
    module = sound(item, few(data).to(device), outputs, seed / "model", data.pool.fields)
    model_D = to_vector(module)
    data, canaries = plant(config, data, task, module, seed)
    timetable = planned_turns(config, data, seed, seed, "")
    algorithm, layout = narrow(config.algorithm, Algorithm).resolved(module), Layout.of(module)
    transform = narrow(config.transform, Transform)
    dimension = transform.message(PayloadLayout(algorithm.parts(layout), layout).joined).size
    plan = _with_noise(plan, config, data, timetable, aggregator, dimension)
    x, test_x = (InputStore.of(part, data.pixels, device) for part in (data.pool, data.test))
    choice = choose(_training(config, algorithm), plan, module, test_x, task)
    facts = RunFacts(choice.engine, device.type, constants(module))
    name = with_members(noise_domain(config, facts, plan, data), data.member_N)
    if config.privacy.secret_cohorts:
        timetable = planned_turns(config, data, seed, secret, name)
    server, behaviour = narrow(config.server, ServerOptimizer), narrow(config.behaviour, Behaviour)
    y, misbehaving = torch.from_numpy(data.pool.y).to(device), behaviour.chosen(len(data.clients), seed / "behaviour")
    rows = [torch.from_numpy(np.flatnonzero(data.owner_N == client)) for client in sorted(misbehaving)]
    poison = seed / "behaviour" / "poison"
    wrong_x, wrong_y = behaviour.poisoned_pool(x, y, rows, len(data.classes), poison) if rows else (x, y)
    plain = choose(config.training, NoPlan(), module, test_x, task).trainer if algorithm.personal or own is not None else None
    return Experiment(
        config=config,
        seed=seed,
        secret=secret,
        data=data,
        task=task,
        outputs=outputs,
        x=x,
        y=y,
        test_x=test_x,
        test_y=torch.from_numpy(data.test.y).to(device),
        plan=plan,
        # A separate module, because one in channels-last format cannot be trained privately (training/opacus.py).
        model=evaluation.prepared(copied(item, module)),
        initial_D=initial_vector(item, data, outputs, seed, algorithm, model_D).to(device),
        trainer=choice.trainer,
        personal=plain if algorithm.personal else None,
        behaviour=behaviour,
        misbehaving=misbehaving,
        wrong_x=wrong_x,
        wrong_y=wrong_y,
        engine=str(choice),
        algorithm=algorithm,
        transform=transform,
        aggregator=aggregator,
        server=server,
        timetable=timetable,
        noise_domain=name,
        processes=processes,
        canaries=canaries,
        root=None if own is None or plain is None else _server_examples(plain, own, data, device),
    )


def _training(config: ExperimentConfig, algorithm: Algorithm) -> TrainingConfig:
    """The settings of the training, with the engine that the algorithm needs if none is asked for.

    The engine is chosen at the run's own weights, since all processes must choose alike. The probe inputs are nobody's training
    data.
    """
    asked = config.training.engine
    return config.training.model_copy(update={"engine": algorithm.engine or asked if asked == "auto" else asked})


def _server_examples(trainer: Trainer, own: Examples, data: FederatedData, device: torch.device) -> ServerExamples:
    """The server's own examples on the device, with the engine that trains on them."""
    return ServerExamples(trainer, InputStore.of(own, data.pixels, device), torch.from_numpy(own.y).to(device))


def _with_noise(
    plan: Plan | None,
    config: ExperimentConfig,
    data: FederatedData,
    timetable: Timetable,
    aggregator: Aggregator,
    dimension: int,
) -> Plan:
    """The plan with its noise fixed; a plan that is given has it already."""
    federation = Federation(len(data.clients), max(map(len, timetable.asked)), dimension, data.statistics)
    plan = plan or narrow(config.privacy, PlanSettings).plan(config, federation)
    plan.require_cohorts(timetable.asked)
    return calibrated(plan, config, data, timetable.cohorts, aggregator)


def new_secret() -> Seed:
    """A random root of 256 bits from the operating system."""
    return Seed(secrets.randbits(256))


def _require_possible(experiment: Experiment) -> None:
    """Raise if the plan's noise cannot be drawn, or if rounding uses up the noise that it needs; called before training.

    Raises:
        ConfigError: names the setting and the change that helps.
    """
    plan, aggregator = experiment.plan, experiment.aggregator
    context = experiment._context(experiment.initial_state(), observed=False, transcript=None)
    rounding = aggregator.rounding_norm(context) if plan.trusts_server else 0.0
    plan.require_possible(rounding, plan.count_entry is None or aggregator.carries(plan.count_entry, context))
    if experiment.root is not None and not experiment.payload.joined == experiment.layout == context.layout:
        raise ConfigError(
            f"aggregator.kind = {aggregator.kind!r}: the server compares whole updates of one model with its own, and "
            f"algorithm {experiment.algorithm.kind!r} with transform {experiment.transform.kind!r} sends something else; set "
            "algorithm = 'fedavg' and transform = 'identity'"
        )
    if experiment.behaviour.colludes:
        setting = f"behaviour.kind = {experiment.behaviour.kind!r}"
        require_one_process(setting, "clients that act together", experiment.processes.size)
    if experiment.behaviour.colludes and experiment.canaries is not None and plan.clips_updates:
        raise ConfigError(
            f"behaviour.kind = {experiment.behaviour.kind!r}: attackers agree on what they send, so a client-level promise "
            "is not theirs, and canaries among them would measure more than it; set behaviour = 'honest' for the audit"
        )
    if isinstance(experiment.algorithm, Clustered):
        experiment.algorithm.require(plan, aggregator, len(experiment.data.clients))
