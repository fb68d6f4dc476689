"""What do attacks cost: the shadow models, the scores, and the attacks on a federation's rounds?

Shadow models: 64 MLPs 784-64-10 on Fashion-MNIST ``train[:4000]``, each on its half of the examples, by the harness of privfl,
which trains 16 of them at a time as one program. Beside them the same models one by one as PyTorch and Opacus are
mostly used: a ``DataLoader`` over the members, and ``PrivacyEngine.make_private``. Both take as many steps of batches that are
expected to be as large, 64, in five epochs; ``--quick`` trains one.

Scores: all attacks that need no more than outputs, for 64 targets of 4,000 candidates, each beside the other 63 models.

Rounds: all attacks of a server that read what it sees, single updates included, on one run of ``bench_federated_attacks.py``,
over the run itself; both with reading the data, the attacks with their statistics too. Seconds of the processor on one thread.

    python benchmarks/bench_attacks.py [--quick] [--json FILE]
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import bench_federated_attacks
import numpy as np
import torch
from _harness import Figures, Sample, figures, interleaved, options, print_table, write_json
from numpy.typing import NDArray
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from attacks.membership import Evidence, MembershipAttack, Signals
from privfl.adversaries import Adversary
from privfl.data.input_store import InputStore
from privfl.errors import DataError
from privfl.learning.evaluation import logits
from privfl.learning.training._memory import keep_freed_memory
from privfl.loading import loads
from privfl.running import side_by_side
from privfl.running.assembling import assemble
from privfl.running.attacking import attack
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.recording import run
from privfl.shelves import SHELVES

MODELS: Final = 64
BATCH: Final = 64
STEPS: Final = 32
"""An epoch's."""
LR: Final = 0.05
CLIP: Final = 1.0
SIGMA: Final = 1.0
POPULATION: Final = 5000


def configuration(private: bool, epochs: int) -> dict[str, Any]:
    """One client that owns the whole pool. The sample rate counts what it owns, so that a batch holds 64 of 2,000 members."""
    training = (
        {"local_steps": epochs * STEPS, "batch_size": 2 * BATCH} if private else {"local_epochs": epochs, "batch_size": BATCH}
    )
    promise = {"kind": "example", "noise_multiplier": SIGMA, "max_grad_norm": CLIP, "delta": 1e-5}
    return {
        "name": "shadows",
        "rounds": 1,
        "data": {"kind": "fashion_mnist", "train_size": 4000, "clients": 1, "holdout": 0.5},
        "model": {"kind": "mlp", "hidden": [64]},
        "cohort": {"kind": "all"},
        "training": {**training, "lr": LR},
        "privacy": promise if private else {"kind": "none"},
        "aggregator": {"kind": "mean"},
        "server": {"kind": "fedavg"},
        "attacks": {"run": [], "shadow_models": 0},
    }


# --- shadow models ----------------------------------------------------------------------------------------------------


def at_once(experiment: Experiment, member_MN: NDArray[np.bool_]) -> list[Tensor]:
    """All shadow models by the harness' way: as many at a time as it trains together."""
    size = side_by_side.runs_at_once(experiment)
    found: list[Tensor] = []
    with deterministic():
        for start in range(0, len(member_MN), size):
            group = range(start, min(start + size, len(member_MN)))
            found += side_by_side.trained([experiment.shadow(index, member_MN[index]) for index in group])
    return found


def with_loader(experiment: Experiment, member_MN: NDArray[np.bool_], private: bool, epochs: int) -> list[nn.Module]:
    """One after another, as the documentation of PyTorch and of Opacus shows it, on tensors that lie ready."""
    x_NF, found = experiment.x[:].flatten(1), list[nn.Module]()
    for member_N in member_MN:
        rows = torch.from_numpy(np.flatnonzero(member_N))
        model: nn.Module = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=LR)
        loader: Any = DataLoader(TensorDataset(x_NF[rows], experiment.y[rows]), batch_size=BATCH, shuffle=True)
        if private:
            model, optimizer, loader = PrivacyEngine().make_private(
                module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=SIGMA, max_grad_norm=CLIP
            )
        for x_BF, y_B in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), epochs * STEPS):
            optimizer.zero_grad()
            cross_entropy(model(x_BF), y_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found.append(model)
    return found


def shadow_models(
    private: bool, epochs: int, repeats: int
) -> tuple[dict[str, Sample], list[Tensor], Experiment, NDArray[np.bool_]]:
    """Seconds of both ways; and the models that the first trains."""
    experiment = assemble(loads(configuration(private, epochs)))
    pool = len(experiment.data.member_N)
    member_MN = np.random.default_rng(0).uniform(size=(MODELS, pool)).argsort(0) < MODELS // 2
    trained: list[list[Tensor]] = []

    def cases(members_MN: NDArray[np.bool_]) -> dict[str, Callable[[], object]]:
        return {
            "at once": lambda: trained.append(at_once(experiment, members_MN)),
            "one by one": lambda: with_loader(experiment, members_MN, private, epochs),
        }

    taken = interleaved(cases(member_MN), repeats, time.process_time, warm_up=cases(member_MN[:2]))
    return taken, trained[-1], experiment, member_MN


# --- scores -----------------------------------------------------------------------------------------------------------


def scoring(models: Sequence[Tensor], experiment: Experiment, member_MN: NDArray[np.bool_], repeats: int) -> tuple[Sample, int]:
    """Seconds of all attacks on all targets, and how many attacks there are. Outputs are at hand."""
    shelf = SHELVES["attacks.run"]
    items = [shelf.find(name) for name in shelf.names()]
    attacks = [item(kind=name) for name, item in zip(shelf.names(), items, strict=True) if issubclass(item, MembershipAttack)]
    test_x, test_y = experiment.test_x[:POPULATION], experiment.test_y[:POPULATION].numpy()
    outputs_MNC, population_MPC = (
        np.stack([logits(experiment.model, model_D, x).numpy() for model_D in models])
        for x in (experiment.x, InputStore(test_x))
    )
    labels_N, confidence = experiment.y.numpy(), experiment.task.confidence

    def score() -> None:
        signals_MN, signals_MP = (
            np.stack([confidence(one, labels) for one in outputs])
            for outputs, labels in ((outputs_MNC, labels_N), (population_MPC, test_y))
        )
        for target in range(len(models)):
            others = np.arange(len(models)) != target
            evidence = Evidence(
                labels_N=labels_N,
                logits_NC=outputs_MNC[target],
                shadow_logits_SNC=outputs_MNC[others],
                shadow_member_SN=member_MN[others],
                population_labels_P=test_y,
                population_logits_PC=population_MPC[target],
                population_shadow_logits_SPC=population_MPC[others],
                given=Signals(signals_MN[target], signals_MN[others], signals_MP[target], signals_MP[others]),
            )
            for one in attacks:
                one.score(evidence)

    return interleaved({"all": score}, repeats, time.process_time)["all"], len(attacks)


# --- rounds -----------------------------------------------------------------------------------------------------------


def server_attacks() -> list[str]:
    """The attacks of the federated benchmark whose adversary is a server that sees single updates, or their sums.

    Those that train models of their own are measured there.
    """
    adversary: Adversary = "server"
    shelf = SHELVES["attacks.run"]
    reading = [name for name in bench_federated_attacks.ATTACKS if name not in bench_federated_attacks.SIMULATING]
    return [name for name in reading if shelf.find(name).adversary == adversary]


def rounds(epochs: int, repeats: int) -> tuple[Sample, Sample]:
    """Seconds of a run, and of all attacks on it."""
    spent: list[tuple[float, float]] = []
    for seed in range(repeats + 1):
        with tempfile.TemporaryDirectory() as place:
            begun = time.process_time()
            folder = run(loads(bench_federated_attacks.configuration(epochs, 20, seed)), Path(place) / "run")
            trained = time.process_time()
            attack(folder, server_attacks())
            spent.append((trained - begun, time.process_time() - trained))
    # The first warms up.
    training_R, attacking_R = np.array(spent[1:]).T
    return Sample(training_R), Sample(attacking_R)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the figures."""
    asked = options(__doc__ or "", argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    repeats = 1 if asked.quick else 3
    flat: Figures = {}
    try:
        for private, name in ((True, "dp_shadow"), (False, "shadow")):
            taken, models, experiment, member_MN = shadow_models(private, 1 if asked.quick else 5, repeats)
            flat |= figures(name, {f"{way.replace(' ', '_')}_cpu_seconds": sample for way, sample in taken.items()})
            flat |= figures(name, {"speedup": taken["one by one"].over(taken["at once"])})
        spent, attacks = scoring(models, experiment, member_MN, repeats)
        flat |= {**figures("scoring", {"cpu_seconds": spent}), "scoring_attacks": float(attacks)}
        for epochs in (1, 5):
            training, attacking = rounds(epochs, repeats)
            named = {"training_cpu_seconds": training, "cpu_seconds": attacking, "over_training": attacking.over(training)}
            flat |= figures(f"server_attacks_{epochs}_epochs", named)
    except DataError as error:
        raise SystemExit(f"{error}") from None
    if asked.json is not None:
        write_json(asked.json, flat)
        return 0
    print_table("median, and interquartile range", {"": {name: f"{value:.3f}" for name, value in flat.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
