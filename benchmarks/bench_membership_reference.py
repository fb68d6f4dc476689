"""Do the membership attacks find what a reference implementation found, on the same models?

The reference: Fashion-MNIST ``train[:4000]``, an MLP 784-64-10, SGD with lr 0.05 and momentum 0.9, batches of 64,
50 epochs; 64 models, each trained on half of the examples, each example in half of the models; every model is the
target once and the other 63 are its shadows; population ``test[:5000]``; no augmentation. It does not say what its
activation is (ReLU here), nor what becomes of the last, smaller batch of an epoch (it is trained on here).

The 64 models are trained as one stacked program; the attacks are those of ``attacks/membership``. A figure agrees when
it lies within two standard deviations (over targets) of the reference. ``--quick`` trains for 10 epochs and attacks
8 targets: it shows that the benchmark works and is not the reference.

The loss appears twice. The attack of this project computes it so that confident outputs do not tie; computed by the
rounded probability, they do, and there is hardly a TPR at a low FPR to be had. The reference's are of the second kind.

    python benchmarks/bench_membership_reference.py [--quick] [--json FILE]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import torch
from _harness import Figures, options, write_json
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import special
from torch import Tensor
from torch.nn.functional import cross_entropy

from attacks.membership import BoolArray, Evidence, FloatArray, MembershipAttack
from privfl.auditing import balanced_accuracy, best_balanced_accuracy, roc
from privfl.data.federated import LoadedData
from privfl.data.input_store import InputStore
from privfl.errors import DataError
from privfl.seeding import Seed
from privfl.shelves import SHELVES

MODELS: Final = 64
EXAMPLES: Final = 4000
POPULATION: Final = 5000
HIDDEN: Final = 64
BATCH: Final = 64
LR: Final = 0.05
MOMENTUM: Final = 0.9
SEED: Final = Seed(0) / "bench_membership_reference"

METRICS: Final = ("auc", "balanced_accuracy", "tpr_at_1_percent", "tpr_at_1_permille")
# None: the reference does not say. The last five rows are of its pool of complementary pairs with 62 shadows.
REFERENCE: Final[dict[tuple[str, str], tuple[float | None, ...]]] = {
    ("membership/loss", "loss"): (0.578, 0.596, 0.0104, 0.0013),
    ("membership/loss", "loss by the rounded probability"): (0.579, 0.599, 0.0008, 0.0000),
    ("membership/lira", "online"): (0.691, 0.624, 0.1089, 0.0392),
    ("membership/lira", "online, fixed variance"): (0.688, 0.624, 0.1027, 0.0371),
    ("membership/lira", "offline"): (0.649, 0.611, 0.0656, 0.0167),
    ("membership/rmia", "offline, gamma 1"): (0.670, 0.609, 0.0989, 0.0413),
    ("membership/rmia", "offline, gamma 2"): (0.668, 0.603, 0.0992, 0.0463),
    ("membership/entropy", "entropy"): (0.553, 0.566, 0.0101, 0.0012),
    ("membership/watson", "loss"): (0.614, 0.574, 0.0559, 0.0190),
    ("membership/watson", "confidence"): (0.644, 0.610, 0.0595, 0.0178),
    ("membership/sablayrolles", "middle"): (0.649, 0.596, 0.0751, 0.0279),
    ("membership/attack_r", "reference"): (0.648, 0.620, 0.0, 0.0),
    ("membership/rmia", "online, gamma 1"): (0.674, 0.611, 0.1030, 0.0331),
    ("membership/joint", "joint prior"): (0.693, None, 0.116, 0.048),
    ("membership/base", "BASE3"): (0.689, None, 0.115, 0.048),
    ("membership/bavaria", "n, online"): (0.688, None, 0.114, 0.046),
    ("membership/bavaria", "t, online"): (0.690, None, 0.113, 0.046),
    ("membership/rank_average", "BASE1 + BaVarIA-t"): (0.688, None, 0.120, 0.053),
}
REFERENCE_ACCURACY: Final = {"member_accuracy": 0.976, "nonmember_accuracy": 0.814}


@dataclass(frozen=True)
class Pool:
    """Examples flattened to vectors of length F: N candidates and P of the population."""

    x_NF: Tensor
    y_N: Tensor
    population_PF: Tensor
    population_y_P: Tensor


def main() -> None:
    """Parse the arguments, train, attack, print or write."""
    chosen = options("Do the membership attacks find what a reference implementation found, on the same models?")
    epochs, targets = (10, 8) if chosen.quick else (50, MODELS)
    try:
        pool = load_pool()
    except DataError as error:
        raise SystemExit(f"{error}") from None
    member_MN = np.random.default_rng(0).uniform(size=(MODELS, EXAMPLES)).argsort(0) < MODELS // 2
    began = time.perf_counter()
    weights = train(pool.x_NF, pool.y_N, torch.from_numpy(member_MN), epochs)
    trained = time.perf_counter()
    logits_MNC, population_MPC = logits(weights, pool.x_NF), logits(weights, pool.population_PF)
    figures = {
        **accuracies(logits_MNC, pool.y_N, member_MN),
        **attack(pool, logits_MNC.numpy(), population_MPC.numpy(), member_MN, targets),
        "training_seconds": trained - began,
        "attack_seconds": time.perf_counter() - trained,
        "targets": float(targets),
        "epochs": float(epochs),
    }
    if chosen.json:
        write_json(chosen.json, figures)
    else:
        show(figures, quick=chosen.quick)


def load_pool() -> Pool:
    """``train[:4000]`` and ``test[:5000]``, normalised by the project's own loader."""
    data: LoadedData = SHELVES["data"].find("fashion_mnist").model_validate({"kind": "fashion_mnist", "clients": 1}).load()
    train_x, test_x = (InputStore.of(part, data.pixels, torch.device("cpu")) for part in (data.train, data.test))
    return Pool(
        train_x[:EXAMPLES].flatten(1),
        torch.from_numpy(data.train.y[:EXAMPLES]),
        test_x[:POPULATION].flatten(1),
        torch.from_numpy(data.test.y[:POPULATION]),
    )


# --- 64 models as one program: M models, B examples in a batch, F features, H hidden units, C classes ----------------


def train(x_NF: Tensor, y_N: Tensor, member_MN: Tensor, epochs: int, hidden: int = HIDDEN, seed: Seed = SEED) -> list[Tensor]:
    """Train one MLP per row of ``member_MN``; returns weights (M, F, H), (M, 1, H), (M, H, C), (M, 1, C)."""
    models, classes = len(member_MN), int(y_N.max()) + 1
    weights = [
        *_linear(models, x_NF.shape[1], hidden, x_NF.dtype, seed / 1),
        *_linear(models, hidden, classes, x_NF.dtype, seed / 2),
    ]
    momenta = [torch.zeros_like(weight) for weight in weights]
    generator = (seed / "shuffle").numpy()
    for _ in track(range(epochs), description=f"training {models} models", console=Console(stderr=True)):
        for index_MB, present_MB in _batches(member_MN, generator):
            _step(weights, momenta, x_NF[index_MB], y_N[index_MB], present_MB)
    return [weight.detach() for weight in weights]


def _linear(models: int, inputs: int, outputs: int, dtype: torch.dtype, seed: Seed) -> tuple[Tensor, Tensor]:
    """PyTorch's default for nn.Linear: weights and biases uniform in ±1/√inputs."""
    generator, bound = seed.torch(), inputs**-0.5
    shapes = (models, inputs, outputs), (models, 1, outputs)
    weight, bias = (torch.rand(shape, generator=generator, dtype=dtype) * 2 * bound - bound for shape in shapes)
    return weight.requires_grad_(), bias.requires_grad_()


def _batches(member_MN: Tensor, generator: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: each model's members in its own new order, the last batch smaller. Indices, and which of them count."""
    order_MN = torch.from_numpy(generator.random(member_MN.shape)).masked_fill(~member_MN, 2).argsort(dim=1)
    size_M1 = member_MN.sum(dim=1, keepdim=True)
    for start in range(0, int(size_M1.max()), BATCH):
        index_MB = order_MN[:, start : start + BATCH]
        yield index_MB, torch.arange(start, start + index_MB.shape[1]) < size_M1


def forward(weights: list[Tensor], x_MBF: Tensor) -> Tensor:
    """Logits of shape (M, B, C)."""
    into, into_bias, out, out_bias = weights
    return torch.baddbmm(out_bias, torch.baddbmm(into_bias, x_MBF, into).relu(), out)


def _step(weights: list[Tensor], momenta: list[Tensor], x_MBF: Tensor, y_MB: Tensor, present_MB: Tensor) -> None:
    """One step of SGD with momentum; a model whose epoch has already ended stands still."""
    losses_MB = cross_entropy(forward(weights, x_MBF).flatten(0, 1), y_MB.flatten(), reduction="none").view(y_MB.shape)
    size_M = present_MB.sum(dim=1)
    loss = ((losses_MB * present_MB).sum(dim=1) / size_M.clamp(min=1)).sum()
    going_M11 = (size_M > 0).view(-1, 1, 1)
    with torch.no_grad():
        for weight, momentum, gradient in zip(weights, momenta, torch.autograd.grad(loss, weights), strict=True):
            momentum.copy_(torch.where(going_M11, MOMENTUM * momentum + gradient, momentum))
            weight -= LR * momentum * going_M11


def logits(weights: list[Tensor], x_NF: Tensor) -> Tensor:
    """Every model's logits on the same examples, of shape (M, N, C)."""
    return forward(weights, x_NF.expand(len(weights[0]), -1, -1))


# --- attacks --------------------------------------------------------------------------------------------------------


def accuracies(logits_MNC: Tensor, y_N: Tensor, member_MN: BoolArray) -> Figures:
    """Mean accuracy on members and on non-members."""
    right_MN = (logits_MNC.argmax(-1) == y_N).numpy()
    return {"member_accuracy": float(right_MN[member_MN].mean()), "nonmember_accuracy": float(right_MN[~member_MN].mean())}


def attack(
    pool: Pool, logits_MNC: NDArray[np.float32], population_MPC: NDArray[np.float32], member_MN: BoolArray, targets: int
) -> Figures:
    """Mean and standard deviation over targets of each metric of each variant."""
    names = dict.fromkeys(name for name, _ in REFERENCE)
    attacks = [cast("MembershipAttack", SHELVES["attacks.run"].find(name).model_validate({"kind": name})) for name in names]
    rows: dict[str, list[float]] = {}
    for target in track(range(targets), description=f"attacking {targets} targets", console=Console(stderr=True)):
        others = np.arange(len(member_MN)) != target
        evidence = Evidence(
            labels_N=pool.y_N.numpy(),
            logits_NC=logits_MNC[target],
            shadow_logits_SNC=logits_MNC[others],
            shadow_member_SN=member_MN[others],
            population_labels_P=pool.population_y_P.numpy(),
            population_logits_PC=population_MPC[target],
            population_shadow_logits_SPC=population_MPC[others],
        )
        scores = {one.kind: one.score(evidence) for one in attacks}
        scores["membership/loss"]["loss by the rounded probability"] = rounded_loss(evidence)
        for name, variants in scores.items():
            for variant, scores_N in variants.items():
                for metric, value in measure(scores_N, member_MN[target], target).items():
                    rows.setdefault(figure_name(name, variant, metric), []).append(value)
    return {
        f"{name}_{statistic}": value
        for name, values in rows.items()
        for statistic, value in (("mean", float(np.mean(values))), ("sd", float(np.std(values, ddof=1))))
    }


def figure_name(attack: str, variant: str, metric: str) -> str:
    """Such as ``lira_online_fixed_variance_auc``."""
    words = f"{attack.removeprefix('membership/')} {variant} {metric}".replace(",", "")
    return words.replace(" ", "_")


def rounded_loss(evidence: Evidence) -> FloatArray:
    """Minus the loss as it is often computed: log p_y, where p_y rounds to 1 and all very confident outputs tie."""
    probability_NC = special.softmax(evidence.logits_NC.astype(np.float64), axis=1)
    return np.asarray(np.log(probability_NC[np.arange(len(evidence.labels_N)), evidence.labels_N]))


def measure(scores_N: FloatArray, member_N: BoolArray, target: int) -> Figures:
    """The metrics of one target. One target cannot resolve the low FPRs; their mean over targets is a figure all the same."""
    curve = roc(scores_N, member_N)
    chosen_N = (SEED / "halves" / target).numpy().random(len(member_N)) < 0.5
    return {
        "auc": float(np.trapezoid(curve.tpr_T, curve.fpr_T)),
        "balanced_accuracy": best_balanced_accuracy(curve),
        "held_out_balanced_accuracy": balanced_accuracy(scores_N, member_N, chosen_N).value,
        "tpr_at_1_percent": float(curve.tpr_T[curve.at(0.01)]),
        "tpr_at_1_permille": float(curve.tpr_T[curve.at(0.001)]),
    }


def show(figures: Figures, *, quick: bool) -> None:
    """Measured mean (sd over targets), the reference, and whether they agree."""
    title = "QUICK: not the reference's epochs and targets" if quick else "mean (sd over targets) | reference"
    table = Table("attack", *METRICS, "held-out balanced accuracy", title=title)
    outside = 0
    for (name, variant), references in REFERENCE.items():
        cells = []
        for metric, reference in zip(METRICS, references, strict=True):
            mean, sd = (figures[f"{figure_name(name, variant, metric)}_{statistic}"] for statistic in ("mean", "sd"))
            agrees = reference is None or abs(mean - reference) <= 2 * sd
            outside += not agrees
            verdict = "" if quick else " ok" if agrees else " OUTSIDE"
            cells.append(f"{mean:.4f} ({sd:.4f})" + ("" if reference is None else f" | {reference:.4f}{verdict}"))
        held_out = figures[figure_name(name, variant, "held_out_balanced_accuracy_mean")]
        table.add_row(f"{name.removeprefix('membership/')}, {variant}", *cells, f"{held_out:.4f}")
    console = Console(width=170)
    console.print(table)
    for name, reference in REFERENCE_ACCURACY.items():
        console.print(f"{name} {figures[name]:.4f} | {reference:.3f}")
    console.print(f"training {figures['training_seconds']:.0f} s, attacks {figures['attack_seconds']:.0f} s")
    if not quick:
        compared = sum(one is not None for row in REFERENCE.values() for one in row)
        console.print(f"{outside} of {compared} figures outside two standard deviations")


if __name__ == "__main__":
    main()
