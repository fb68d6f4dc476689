"""How much noise on each example's gradient hides an image, and does secure aggregation?

Fashion-MNIST, clients of one image each, one local step of SGD from an untrained model. ``reconstruction/first_layer`` attacks
an MLP 784-256-10 (ReLU), ``inverting_gradients`` a small convolutional network (tanh): single updates, with and without noise,
and secure sums. σ is the noise multiplier of the plan ``example`` with a clipping norm of 1, so that a gradient has
noise of standard deviation σ on each number. PSNR is the median over images. The other figures are shares of images: more like
their reconstruction than 95 % of them are like the nearest of 1,000 test images (recognised), or with a PSNR of 60 dB and
more (exact).

    python benchmarks/bench_reconstruction.py [--quick] [--json FILE] [--picture FILE]

The picture has true images in the first row and, below each, its reconstruction by ``inverting_gradients``: two images for
each σ, from the left to the right in the order of the table.
"""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from _harness import Figures, options, write_json
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from privfl.auditing.questions._compared import Picture
from privfl.auditing.questions.reconstruction import ReconstructionFinding
from privfl.errors import DataError
from privfl.loading import loads
from privfl.running.attacking import attack
from privfl.running.recording import run

SIGMAS: Final = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
SUMS: Final = (3, 8)
"""The clients of a secure sum."""

MODELS: Final[dict[str, dict[str, Any]]] = {
    "first_layer": {"kind": "mlp", "hidden": [256]},
    "inverting_gradients": {"kind": "_reconstruction.smooth"},
}


def main() -> None:
    """Parse the arguments, train, attack, print or write."""
    chosen = options("How much noise on each example's gradient hides an image, and does secure aggregation?", picture=True)
    sigmas, sums, steps, images = ((0.0, 1.0), (3,), 100, 3) if chosen.quick else (SIGMAS, SUMS, 500, 6)
    figures: Figures = {"steps": float(steps)}
    pictures: list[Picture] = []
    cases = [(name, sigma, 0) for name in MODELS for sigma in sigmas] + [
        (name, 0.0, clients) for name in MODELS for clients in sums
    ]
    try:
        for name, sigma, clients in track(cases, description="runs", console=Console(stderr=True)):
            found, drawn = measured(name, sigma, clients, steps, images)
            figures |= found
            pictures += [drawn[0], drawn[len(drawn) // 2]] if drawn and name == "inverting_gradients" and not clients else []
    except DataError as error:
        raise SystemExit(f"{error}") from None
    if chosen.picture:
        grid(pictures).save(chosen.picture, optimize=True)
    if chosen.json:
        write_json(chosen.json, figures)
    else:
        show(figures, cases)


def configuration(name: str, sigma: float, clients: int, images: int) -> dict[str, Any]:
    """One round; ``clients``: of the secure sum, 0: single updates are seen."""
    noisy = {"kind": "example", "noise_multiplier": sigma, "delta": 1e-5, "max_grad_norm": 1.0}
    return {
        "name": "reconstruction",
        "rounds": 1,
        # Everybody who owns an image trains on it: that one is held out has a chance of a hundred-thousandth.
        "data": {"kind": "fashion_mnist", "clients": 60_000, "holdout": 1e-9},
        "model": MODELS[name],
        "cohort": {"kind": "fixed", "size": clients or images},
        "training": {"local_steps": 1, "batch_size": 1, "lr": 1.0},
        "privacy": noisy if sigma else {"kind": "none"},
        "aggregator": {"kind": "secure_sum" if clients else "mean"},
        "server": {"kind": "fedavg"},
        "attacks": {"run": [], "shadow_models": 0},
    }


def measured(name: str, sigma: float, clients: int, steps: int, images: int) -> tuple[Figures, list[Picture]]:
    """PSNR, chance, shares and ε of one run, and images with their reconstructions."""
    item = f'kind="reconstruction/{name}"' + (f",steps={steps}" if name != "first_layer" else "")
    item += ',of="sum"' if clients else f",most={images}"
    with tempfile.TemporaryDirectory() as place:
        folder = run(loads(configuration(name, sigma, clients, images)), Path(place) / "run")
        (finding,) = attack(folder, settings=[f"attacks.run=[{{{item}}}]"])
        privacy = folder.result.privacy
    assert isinstance(finding, ReconstructionFinding)
    variant = "inputs" if name != "first_layer" else "quotients" if clients else "one input"
    (record,) = [one for one in finding.attacks if one.variant == variant]
    assert record.recognised is not None
    assert record.exact is not None
    found = {"recognised": record.recognised.value, "exact": record.exact.value}
    if record.measures:
        found |= {"psnr": record.measures[0].median.value, "chance_psnr": record.measures[0].chance}
    if privacy is not None:
        found["epsilon"] = privacy.epsilon
    return {f"{case_name(name, sigma, clients)}.{figure}": value for figure, value in found.items()}, record.pictures


def grid(pictures: list[Picture], zoom: int = 3) -> Image.Image:
    """True images in the first row, reconstructions in the second."""

    def read(text: str) -> np.ndarray:
        return np.pad(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), 1, constant_values=255)

    rows = [np.hstack([read(getattr(one, part)) for one in pictures]) for part in ("original", "reconstruction")]
    return Image.fromarray(np.vstack(rows).repeat(zoom, 0).repeat(zoom, 1))


def case_name(name: str, sigma: float, clients: int) -> str:
    """The first part of a figure's name."""
    return f"reconstruction.{name}.secure_sum_{clients}" if clients else f"reconstruction.{name}.sigma_{sigma:g}"


def show(figures: Figures, cases: list[tuple[str, float, int]]) -> None:
    """One row for each run."""
    table = Table("attack", "seen", "σ", "ε", "PSNR", "chance", "recognised", "exact")
    for name, sigma, clients in cases:
        case = case_name(name, sigma, clients)

        def shown(figure: str, form: str, case: str = case) -> str:
            value = figures.get(f"{case}.{figure}")
            return "–" if value is None else format(value, form)

        seen = f"secure sum of {clients}" if clients else "single updates"
        psnr = [shown(figure, ".1f") for figure in ("psnr", "chance_psnr")]
        shares = [shown(figure, ".0%") for figure in ("recognised", "exact")]
        table.add_row(name, seen, f"{sigma:g}", shown("epsilon", ".3g"), *psnr, *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
