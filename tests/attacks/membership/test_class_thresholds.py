"""Decisions by class thresholds: their definition, what is done without both kinds in a class, and the paper's own figures."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import calling
from pool_of_models import random_evidence

import privfl
from attacks.membership.class_thresholds import ClassThresholds, decided
from privfl.errors import ConfigError, DataError

DATA = Path(os.environ.get("PRIVFL_DATA") or "nowhere")
DOCS = Path(__file__).parents[3] / "docs" / "attacks.md"
PAPER = {
    "location30.npz": {"correctness": 68.7, "confidence": 76.3, "entropy": 61.6, "modified entropy": 78.1},
    "location30_memguard.npz": {"correctness": 68.7, "confidence": 69.1, "entropy": 52.1, "modified entropy": 68.8},
}


def made(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Metrics and classes of 200 candidates and of 300 examples of a shadow model, with the latter's membership."""
    rng = np.random.default_rng(seed)
    labels_N, labels_R = rng.integers(0, 4, 200), rng.integers(0, 4, 300)
    member_R = rng.random(300) < 0.5
    return rng.normal(size=200) + labels_N, labels_N, rng.normal(size=300) + labels_R + member_R, labels_R, member_R


def test_thresholds_are_those_of_the_definition() -> None:
    metric_N, labels_N, metric_R, labels_R, member_R = made()
    expected = np.zeros(200)
    for label in range(4):
        ours, theirs = (metric_R[(labels_R == label) & kind] for kind in (member_R, ~member_R))
        merit = {value: (ours >= value).mean() + (theirs < value).mean() for value in np.concatenate([ours, theirs])}
        _, best = max((share, value) for value, share in merit.items())
        expected[labels_N == label] = metric_N[labels_N == label] >= best
    np.testing.assert_array_equal(decided(metric_N, labels_N, metric_R, labels_R, member_R), expected)
    assert 0 < expected.sum() < 200


def test_a_class_of_one_kind_takes_the_threshold_of_all() -> None:
    metric_N, labels_N, metric_R, labels_R, member_R = made()
    alone_R = np.where(labels_R == 2, True, member_R)
    found = decided(metric_N, labels_N, metric_R, labels_R, alone_R)
    whole = decided(metric_N, np.zeros(200, int), metric_R, np.zeros(300, int), alone_R)
    np.testing.assert_array_equal(found[labels_N == 2], whole[labels_N == 2])
    # The same for a class that the shadow model never saw.
    never = decided(metric_N, np.full(200, 9), metric_R, labels_R, alone_R)
    np.testing.assert_array_equal(never, whole)


def test_what_the_reference_lacks_is_named() -> None:
    evidence = random_evidence(0)
    with pytest.raises(ConfigError, match=r"attacks\.shadow_models = 0: .* needs at least 1"):
        ClassThresholds(kind="membership/class_thresholds").score(evidence)
    given = {"member": np.arange(40) % 2, "labels": np.zeros(40, int), "logits": np.random.default_rng(0).normal(size=(40, 3))}
    assert "membership/class_thresholds" not in {one.attack for one in privfl.audit(given).attacks}
    with pytest.raises(ConfigError, match="'membership/class_thresholds': needs shadow_logits and shadow_member"):
        privfl.audit(given, "membership/class_thresholds")
    reference = {"reference_logits": np.zeros((6, 3)), "reference_labels": np.zeros(6, int)}
    with pytest.raises(DataError, match="has no array 'reference_member' of shape"):
        privfl.audit({**given, **reference})
    with pytest.raises(DataError, match="'reference_member' has 6 members among 6 examples; both kinds are needed"):
        privfl.audit({**given, **reference, "reference_member": np.ones(6)})
    with pytest.raises(DataError, match=r"'reference_logits' has the shape \(6, 2\); it must be \(R, C = 3\)"):
        privfl.audit({**given, **reference, "reference_member": np.arange(6) % 2, "reference_logits": np.zeros((6, 2))})
    found = privfl.audit({**given, **reference, "reference_member": np.arange(6) % 2}, "membership/class_thresholds")
    assert len(found.attacks) == 4


@pytest.mark.skipif(
    not all((DATA / name).is_dir() for name in ("location30", "location30_predictions")),
    reason="the authors' predictions are not in $PRIVFL_DATA/location30_predictions",
)
def test_the_paper_s_figures_on_location_30(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly, to the digit that is printed there: by the script and the command of the documentation."""
    page = DOCS.read_text(encoding="utf-8")
    (script,) = re.findall(r'```python\n("""The predictions of Song & Mittal.*?)```', page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "docs/attacks.md", "exec"), {})
    call = calling(monkeypatch, capsys)
    for name, figures in PAPER.items():
        code, _, err = call("attack", "--predictions", name, "membership/class_thresholds", "--out", "out")
        assert code == 0, err
        (found,) = json.loads((tmp_path / "out" / "summary.json").read_text())["findings"]
        shares = {one["variant"]: 100 * one["auc"]["value"] for one in found["attacks"]}
        assert set(shares) == set(figures)
        for variant, share in shares.items():
            # They round .5 up: 61.55 is 61.6 in the paper.
            assert int(share * 10 + 0.5 + 1e-9) / 10 == figures[variant], (name, variant, share)
