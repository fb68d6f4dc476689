"""A finding about membership looks at classes and clients, and lists the members that are exposed most."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import small

from attacks._run import run_attacks
from privfl.auditing.evaluation import best_scores
from privfl.auditing.questions.membership import MembershipFinding
from privfl.report import write_report
from privfl.running.assembling import assemble
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.seeding import Seed
from privfl.storage import read_npz


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = run(
        small(
            data={"kind": "digits", "clients": 5, "holdout": 0.5, "partition": {"kind": "iid"}},
            privacy={"kind": "none"},
            attacks={"run": ["membership/loss"], "shadow_models": 0},
        ),
        tmp_path_factory.mktemp("runs") / "run",
    )
    run_attacks(folder)
    return folder


def finding(folder: RunFolder) -> MembershipFinding:
    (found,) = folder.findings
    assert isinstance(found, MembershipFinding)
    return found


def test_classes_and_clients(attacked: RunFolder) -> None:
    found = finding(attacked)
    by = {one.by: one for one in found.groupings}
    assert set(by) == {"class", "client"}
    assert [one.group for one in by["client"].groups] == [f"client {number}" for number in range(5)]
    assert len(by["class"].groups) == 10
    for grouping in by.values():
        assert sum(one.members + one.nonmembers for one in grouping.groups) == found.best.candidates
        assert grouping.level == pytest.approx(1 - 0.05 / (2 * len(grouping.groups)))
        assert grouping.left_out == 0


def test_the_exposed_are_members_that_chose_nothing_highest_first(attacked: RunFolder) -> None:
    data = assemble(attacked.config).data
    arrays = read_npz(attacked.path / "attacks" / "membership" / "loss.npz")
    member_N = arrays.pop("member")
    scores = {name.removeprefix("membership/loss: "): one for name, one in arrays.items()}
    best = best_scores({"membership/loss": scores}, member_N, (Seed(attacked.config.seed) / "halves").numpy())
    found = finding(attacked)
    assert (best.attack, best.variant) == (found.best.attack, found.best.variant)
    rows_N = np.flatnonzero(data.candidate_N)
    place = {int(row): number for number, row in enumerate(rows_N)}
    assert len(found.exposed) == 12
    listed = [place[one.row] for one in found.exposed]
    assert all(member_N[listed])
    assert all(best.measured_N[listed])
    others = best.scores_N[best.measured_N & member_N]
    assert best.scores_N[listed].tolist() == sorted(others, reverse=True)[:12]
    outside = best.scores_N[best.measured_N & ~member_N]
    for one, number in zip(found.exposed, listed, strict=True):
        assert one.label == data.classes[data.pool.y[one.row]]
        assert one.client == data.clients[data.owner_N[one.row]]
        assert one.percentile == np.mean(outside < best.scores_N[number])


def test_pictures_are_the_inputs(attacked: RunFolder) -> None:
    data = assemble(attacked.config).data
    one = finding(attacked).exposed[0]
    assert one.picture is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(one.picture))), dtype=np.float64)
    true = data.pool.x[one.row].reshape(pixels.shape).astype(np.float64)
    assert np.corrcoef(pixels.ravel(), true.ravel())[0, 1] > 0.999


def test_the_page_folds_them_and_says_that_they_are_private(attacked: RunFolder) -> None:
    write_report([attacked], attacked.path / "report.html")
    html = attacked.path.joinpath("report.html").read_text(encoding="utf-8")
    assert "<summary>By class: AUC " in html
    assert "These are private training examples: keep this page as private as those" in html
    assert html.count("data:image/png;base64,") == 12
    leaks = "finds no more members than guessing" not in html
    assert ("so that the list is a matter of chance" in html) is not leaks


def test_a_setting_leaves_them_out(attacked: RunFolder) -> None:
    (found,) = run_attacks(attacked, settings=["attacks.exposed=0"])
    assert isinstance(found, MembershipFinding)
    assert found.exposed == []
    assert found.groupings
    write_report([attacked], attacked.path / "report.html")
    html = Path(attacked.path, "report.html").read_text(encoding="utf-8")
    assert "data:image/png" not in html
    assert "private training examples" not in html
