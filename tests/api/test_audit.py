"""A model that was trained elsewhere: its predictions are attacked as a run's are, and wrong arrays are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from command_line import calling
from numpy.typing import NDArray
from scipy import stats
from small_runs import small

import privfl
from attacks import _shadows
from attacks._run import run_attacks
from attacks.membership import Evidence
from attacks.membership.lira import Lira
from privfl.auditing.questions.membership import MembershipFinding
from privfl.errors import ConfigError, DataError
from privfl.learning.tasks.multilabel import Multilabel
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.running.views import open_view
from privfl.storage import read_npz

Arrays = dict[str, NDArray[Any]]
N, S = 3_000, 4


def signals(seed: int = 0) -> Arrays:
    """A normal log-odds for each candidate and model, 1 higher if it was trained on."""
    generator = np.random.default_rng(seed)
    member, shadow_member = generator.random(N) < 0.5, generator.random((S, N)) < 0.5
    hard = generator.normal(size=N)
    return {
        "member": member.astype(np.int64),
        "confidence": hard + generator.normal(size=N) / 2 + member,
        "shadow_confidence": hard + generator.normal(size=(S, N)) / 2 + shadow_member,
        "shadow_member": shadow_member,
    }


def outputs(seed: int = 0) -> Arrays:
    """The same as logits of two classes."""
    given = signals(seed)
    labels = np.arange(N) % 2

    def logits(confidence: NDArray[Any]) -> NDArray[Any]:
        return np.where(
            (labels == 1)[..., None], np.stack([0 * confidence, confidence], -1), np.stack([confidence, 0 * confidence], -1)
        )

    return {
        "member": given["member"],
        "labels": labels,
        "logits": logits(given["confidence"]),
        "shadow_logits": logits(given["shadow_confidence"]),
        "shadow_member": given["shadow_member"],
    }


def auc(finding: MembershipFinding) -> dict[str, float]:
    return {f"{one.attack} {one.variant}": one.auc.value for one in finding.attacks}


def test_confidences_and_logits_give_the_same(tmp_path: Path) -> None:
    by_confidence, by_logits = privfl.audit(signals()), privfl.audit(outputs())
    assert {"membership/loss", "membership/lira", "membership/rmia"} <= {one.attack for one in by_logits.attacks}
    assert by_logits.shadow_models == by_confidence.shadow_models == S
    first, second = auc(by_confidence), auc(by_logits)
    # Of the entropy nothing can be said without the probabilities of all classes.
    extra = {name for name in set(second) - set(first) if "class_thresholds" not in name}
    of_classes = {"membership/entropy entropy", "membership/confidence confidence", "membership/shokri per class"}
    assert extra == {"membership/loss modified entropy", *of_classes}
    for name, value in first.items():
        assert value == pytest.approx(second[name], abs=1e-4)
    # One threshold on N(member, 1.25) has this area; to know the example's own difficulty helps.
    exact = float(stats.norm.cdf(1 / np.sqrt(2 * 1.25)))
    assert first["membership/loss loss"] == pytest.approx(exact, abs=0.03)
    assert first["membership/lira online, fixed variance"] > exact + 0.05
    assert first["membership/rmia offline, gamma 1"] == pytest.approx(first["membership/rmia offline, gamma 2"], abs=0.01)
    assert by_confidence.best.epsilon_lower > 1


def test_scores_are_judged_as_those_of_an_attack_are() -> None:
    given = signals()
    evidence = Evidence(
        labels_N=np.ones((N, 1), dtype=np.int64),
        logits_NC=given["confidence"][:, None].astype(np.float32),
        shadow_logits_SNC=given["shadow_confidence"][..., None].astype(np.float32),
        shadow_member_SN=given["shadow_member"],
        population_labels_P=np.ones((0, 1), dtype=np.int64),
        population_logits_PC=np.zeros((0, 1), np.float32),
        population_shadow_logits_SPC=np.zeros((S, 0, 1), np.float32),
        task=Multilabel(kind="multilabel"),
    )
    scores = Lira(kind="membership/lira").score(evidence)
    by_scores = privfl.audit({"member": given["member"], **scores})
    by_attack = privfl.audit(given, "membership/lira")
    assert {one.attack: (one.auc, one.rates) for one in by_scores.attacks} == {
        one.variant: (one.auc, one.rates) for one in by_attack.attacks
    }
    assert by_scores.best.epsilon_lower == by_attack.best.epsilon_lower
    # What is decided by hand is a score, too; and noise is noise.
    noise = privfl.audit({"member": given["member"], "coin": np.random.default_rng(1).integers(0, 2, N)})
    assert noise.best.epsilon_lower == 0
    assert noise.attacks[0].auc.low < 0.5 < noise.attacks[0].auc.high


def test_without_shadow_models_only_the_loss_is_attacked() -> None:
    given = {name: array for name, array in outputs().items() if not name.startswith("shadow")}
    names = {"membership/loss", "membership/entropy", "membership/confidence"}
    assert {one.attack for one in privfl.audit(given).attacks} == names
    with pytest.raises(ConfigError, match="'membership/lira': needs shadow_logits and shadow_member of at least 1"):
        privfl.audit(given, "membership/lira")
    with pytest.raises(ConfigError, match="'membership/gradient_cosine': looks at rounds of a run or at inputs"):
        privfl.audit(given, "membership/gradient_cosine")
    with pytest.raises(ConfigError, match="'membership/attack_p': needs population_logits and population_labels"):
        privfl.audit(given, "membership/attack_p")
    fresh = {"population_logits": np.zeros((9, 2)), "population_labels": np.zeros(9, dtype=int)}
    assert {one.attack for one in privfl.audit({**given, **fresh}, "membership/attack_p").attacks} == {"membership/attack_p"}
    with pytest.raises(ConfigError, match="attack 'membership/lirra': did you mean 'membership/lira'"):
        privfl.audit(given, "membership/lirra")


def test_a_run_s_own_outputs_give_the_run_s_own_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and shadows that a run kept are attacked from a file as they are in the run; all candidates, other halves."""
    monkeypatch.setattr(_shadows, "cores", lambda: 1)
    config = small(privacy="none", aggregator="mean", rounds=1, attacks={"run": ["membership/lira"], "shadow_models": 2})
    folder: RunFolder = run(config, tmp_path / "run")
    (inside,) = run_attacks(folder)
    assert isinstance(inside, MembershipFinding)
    experiment, who = assemble(config), read_npz(folder.path / "membership.npz")
    rows = np.flatnonzero(who["candidate_N"])
    shadows = [read_npz(folder.path / "attacks" / "shadows" / f"shadow_00{index}.npz") for index in range(2)]
    model_D = open_view(folder, "external", experiment.layout).final_model()
    outside = privfl.audit(
        {
            "member": who["member_N"][rows],
            "labels": experiment.data.pool.y[rows],
            "logits": experiment.logits(model_D, experiment.x[torch.from_numpy(rows)]).numpy(),
            "shadow_logits": np.stack([one["candidates_NC"] for one in shadows]),
            "shadow_member": np.stack([one["member_N"] for one in shadows]),
        },
        "membership/lira",
    )
    assert [(one.variant, one.auc) for one in outside.attacks] == [(one.variant, one.auc) for one in inside.attacks]


# --- files, and the command -------------------------------------------------------------------------------------------


def test_an_archive_and_a_table_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {**outputs(), "group": np.array(["north", "south", "east"])[np.arange(N) % 3]}
    np.savez("found.npz", **given)  # type: ignore[arg-type]
    columns = {
        name: np.moveaxis(array, 0, 1).tolist() if name.startswith("shadow") else array.tolist()
        for name, array in given.items()
    }
    parquet.write_table(pa.table(columns), "found.parquet")
    call = calling(monkeypatch, capsys)
    code, out, err = call("attack", "--predictions", "found.npz", "--out", "first")
    assert (code, err) == (0, "")
    assert "measured ε ≥" in out
    assert out.splitlines()[-1] == f"page: {tmp_path / 'first' / 'report.html'}"
    code, out, err = call("attack", "--predictions", "found.parquet")
    assert (code, err) == (0, "")
    one, other = (json.loads(Path(at, "summary.json").read_text())["findings"][0] for at in ("first", "runs/found"))
    assert one.pop("source") == "found.npz"
    assert other.pop("source") == "found.parquet"
    assert one == other
    (groups,) = [grouping["groups"] for grouping in one["groupings"] if grouping["by"] == "group"]
    assert [found["group"] for found in groups] == ["east", "north", "south"]
    for found in groups:
        assert found["auc"]["low"] > 0.6
        assert found["auc"]["level"] == pytest.approx(1 - 0.05 / 6)
    # Half of the candidates chose the best attack; the groups are of the others.
    assert sum(found["members"] + found["nonmembers"] for found in groups) == N // 2
    page = Path("first/report.html").read_text(encoding="utf-8")
    assert "3,000 candidates from found.npz, beside the outputs of 4 shadow models" in page
    assert "if a fair coin decided that for each candidate by itself" in " ".join(page.split())
    assert '<th scope="row">north</th>' in page
    assert Path("first/figures/roc.svg").is_file()


def test_members_of_another_kind_are_warned_of_first(tmp_path: Path) -> None:
    given = signals()
    rng = np.random.default_rng(5)
    alike = privfl.audit({**given, "inputs": rng.normal(size=(N, 2, 3))}, "membership/loss", out=tmp_path / "alike")
    assert alike.blind is not None
    assert alike.blind.value < 0.55
    shifted = rng.normal(size=(N, 2, 3)) + given["member"][:, None, None]
    other = privfl.audit({**given, "inputs": shifted}, "membership/loss", out=tmp_path / "other")
    assert other.blind is not None
    assert other.blind.low > 0.9
    pages = [(tmp_path / name / "report.html").read_text(encoding="utf-8") for name in ("alike", "other")]
    assert ["Members and others come from different distributions" in page for page in pages] == [False, True]
    assert all("A classifier that sees inputs and labels alone" in page for page in pages)
    assert privfl.audit(given, "membership/loss").blind is None


def test_shadow_models_that_trained_on_no_candidate_serve_the_offline_attacks() -> None:
    given = signals()
    without = given["shadow_confidence"] - given["shadow_member"]
    all_out = {**given, "shadow_confidence": without, "shadow_member": np.zeros((S, N), int)}
    found = privfl.audit(all_out)
    assert {one.variant for one in found.attacks if one.attack == "membership/lira"} == {"offline", "offline, fixed variance"}
    areas = auc(found)
    assert areas["membership/lira offline, fixed variance"] > areas["membership/loss loss"] + 0.05
    assert "membership/bavaria" not in {one.attack for one in found.attacks}
    logits = {**outputs(), "shadow_member": np.zeros((S, N), int)}
    assert "membership/class_thresholds" not in {one.attack for one in privfl.audit(logits).attacks}
    with pytest.raises(ConfigError, match="no candidate is left out of, or in, any shadow"):
        privfl.audit({**given, "shadow_member": np.ones((S, N), int)}, "membership/lira")


MISSING = object()
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"member": MISSING}, "has no array 'member' of shape (N,); it has labels, logits, shadow_logits, shadow_member"),
    ({"member": np.full(N, 2)}, "'member' holds 2; it must hold 1 for a member and 0 for any other"),
    ({"member": np.array(["yes"] * N)}, "'member' holds 'yes'; it must hold 1"),
    ({"member": np.full(N, np.nan)}, "'member' holds nan; it must hold 1"),
    ({"member": np.ones(N)}, "'member' names 3000 members among 3000 candidates; both kinds are needed"),
    ({"labels": MISSING}, "has no array 'labels' of shape (N,)"),
    ({"labels": np.full(N, 2)}, "'labels' must hold whole numbers from 0 to 1, the columns of the logits"),
    ({"labels": np.zeros(N)}, "'labels' must hold whole numbers from 0 to 1"),
    ({"labels": np.zeros(N - 1, dtype=int)}, "'labels' has the shape (2999,); it must be (N = 3000,)"),
    ({"logits": MISSING}, "has neither 'logits' nor 'confidence'; it has labels, member, shadow_logits, shadow_member"),
    ({"logits": np.zeros((N, 2, 2))}, "'logits' has the shape (3000, 2, 2); it must be (N = 3000, C)"),
    ({"logits": np.full((N, 2), np.nan)}, "'logits' has 6000 values that are NaN or infinite, of 6000; remove or replace them"),
    ({"logits": np.full((N, 2), "a")}, "'logits' holds <U1; it must hold numbers"),
    ({"shadow_logits": np.zeros((S, N, 3))}, "'shadow_logits' has the shape (4, 3000, 3); it must be (S, N = 3000, C = 2)"),
    ({"shadow_logits": MISSING}, "has no array 'shadow_logits' of shape (S, N, C)"),
    ({"shadow_member": MISSING}, "has no array 'shadow_member' of shape (S, N)"),
    ({"shadow_member": np.zeros((S - 1, N))}, "'shadow_member' has the shape (3, 3000); it must be (S = 4, N = 3000)"),
    ({"shadow_member": np.full((S, N), 0.5)}, "'shadow_member' holds 0.5; it must hold 1 for a member"),
    ({"shadow_loggits": np.zeros(1)}, "has an array 'shadow_loggits', which no attack reads; did you mean 'shadow_logits'"),
    ({"confidence": np.zeros(N)}, "has both 'confidence' and 'logits'"),
    ({"population_labels": np.zeros(9, dtype=int)}, "has no array 'population_logits' of shape (P, C)"),
    (
        {"population_logits": np.zeros((0, 2)), "population_labels": np.zeros(0, int)},
        "the population is empty; leave its arrays out, or give outputs on fresh examples",
    ),
    ({"inputs": np.zeros((7, 2))}, "'inputs' has the shape (7, 2); it must be (N = 3000, D1)"),
    ({"inputs": np.full((N, 2), np.nan)}, "'inputs' holds values that are no finite numbers; leave it out, or give numbers"),
    ({"group": np.zeros(7)}, "'group' has the shape (7,); it must be (N = 3000,)"),
]


@pytest.mark.parametrize(("changed", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_wrong_predictions_are_refused_in_one_line(changed: dict[str, Any], said: str) -> None:
    arrays = {name: array for name, array in {**outputs(), **changed}.items() if array is not MISSING}
    with pytest.raises(DataError) as caught:
        privfl.audit(arrays, kind="predictions")
    assert str(caught.value).startswith("the arrays: ")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_wrong_scores_are_refused_in_one_line() -> None:
    member = outputs()["member"]
    for arrays, said in (
        ({"member": member}, "the arrays: has no scores; it has member"),
        ({"member": member, "mine": np.full(N, np.inf)}, "'mine' has 3000 values that are NaN or infinite"),
        ({"member": member, "mine": np.zeros((N, 1))}, r"'mine' has the shape \(3000, 1\); it must be \(N = 3000,\)"),
        ({"mine": np.zeros(N)}, r"has no array 'member' of shape \(N,\); it has mine"),
        ({"member": [1, 0], "mine": [0.5, 0.2]}, "2 candidates, of which half have .*; give more candidates of both kinds"),
    ):
        with pytest.raises(DataError, match=said):
            privfl.audit(arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has outputs of a model, which are no scores"):
        privfl.audit(outputs(), kind="scores")
    with pytest.raises(ConfigError, match="'membership/lira': scores are judged as they are"):
        privfl.audit({"member": member, "mine": np.zeros(N)}, "membership/lira")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scores", "nowhere.npz"), "nowhere.npz: cannot be read (No such file or directory); give an .npz or Parquet file"),
        (("--scores", "words.txt"), "words.txt: is neither an .npz archive of plain arrays nor a Parquet table"),
        (("--scores", "cut.parquet"), "cut.parquet: is neither an .npz archive of plain arrays nor a Parquet table"),
        (("--scores", "objects.npz"), "objects.npz: is neither an .npz archive of plain arrays"),
        (("--scores", "words.txt", "--predictions", "words.txt"), "--scores and --predictions: give one of them"),
        ((), "nothing to attack: give the folder of a run, or --scores FILE, or --predictions FILE"),
        (("somewhere", "--out", "x"), "--out x: goes with --scores or --predictions"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("PAR and nothing else")
    Path("cut.parquet").write_bytes(b"PAR1" + b"\0" * 20)
    np.savez("objects.npz", member=np.array([None, {}], dtype=object))
    code, out, err = calling(monkeypatch, capsys)("attack", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"privfl: {said}")
