"""The page of one run: complete, correct, self-contained, safe and readable whatever is missing."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from made_runs import CLASSES, Made, make
from page_reader import Reader
from rich.console import Console

import privfl
from privfl.auditing import tpr_bound
from privfl.auditing.questions.membership import MembershipFinding, RateAt
from privfl.errors import RunFolderError
from privfl.report import attacks_tables, roc, write_report
from privfl.report.drawing import COLOURS, MOST_MARKS, Mark, empty_figure, style, thinned, to_drawing
from privfl.report.headline import verdict
from privfl.report.run_records import RunRecords
from privfl.running.run_folder import RunFolder


def membership(folder: RunFolder) -> MembershipFinding:
    (finding,) = folder.findings
    assert isinstance(finding, MembershipFinding)
    return finding


def page(folder: RunFolder) -> str:
    return write_report([folder], folder.path / "report.html").read_text()


@pytest.fixture(scope="session")
def html(quickstart: RunFolder) -> str:
    return page(quickstart)


def test_page_needs_nothing_else(html: str) -> None:
    reader = Reader(html)
    assert "http" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert all(reference.startswith("#") for reference in reader.references)
    assert not reader.tags & {"iframe", "link", "img", "object", "embed"}
    # The script sorts and filters what is there without it.
    (script,) = re.findall(r"<script.*?</script>", html, re.DOTALL)
    assert not re.search(r"https?:|fetch|XMLHttp|WebSocket|sendBeacon|import|innerHTML|eval", script)


def test_ids_are_unique_and_found(html: str) -> None:
    reader = Reader(html)
    assert len(reader.ids) == len(set(reader.ids))
    used = {reference[1:] for reference in reader.references} | set(re.findall(r"url\(#([^)]*)\)", html))
    assert used <= set(reader.ids)


def rate_at(rates: list[RateAt], fpr: float) -> RateAt:
    """The entry for one false-positive rate."""
    (found,) = [one for one in rates if one.fpr == fpr]
    return found


def at_most(share: float) -> str:
    """In per cent, with one digit, and never below the share."""
    shown = math.ceil(share * 1000) / 10
    assert share * 100 <= shown < share * 100 + 0.1
    return f"{shown:.1f}"


def test_page_holds_every_headline(html: str, quickstart: RunFolder) -> None:
    text, result, leakage = Reader(html).text, quickstart.result, membership(quickstart)
    assert result.privacy is not None
    accuracy, tpr = result.evaluation.headline, rate_at(leakage.best.rates, 0.01).tpr
    assert tpr is not None
    allowed = float(tpr_bound(0.01, result.privacy.curve_epsilon, result.privacy.curve_delta))
    for figure in (
        f"{accuracy.value * 100:.1f} %",
        f"{accuracy.low * 100:.1f} – {accuracy.high * 100:.1f} % (95 % interval)",
        f"ε = {result.privacy.epsilon:.2f} per example, at δ = 10⁻⁵, against external, client and server",
        f"{tpr.value * 100:.2f} % {tpr.low * 100:.2f} – {tpr.high * 100:.2f} %",
        f"ε ≥ {leakage.best.epsilon_lower:.2f} with 95 % confidence",
        f"+{((result.bytes_up + result.bytes_down) / result.bytes_plain - 1) * 100:.1f} %",
        f"No attack at 1 % FPR can find more than {at_most(allowed)} %",
    ):
        assert figure in text
    assert "Note." not in text


def test_bound_is_that_of_the_whole_curve(html: str, quickstart: RunFolder) -> None:
    privacy = quickstart.result.privacy
    assert privacy is not None
    one_pair = float(tpr_bound(0.01, [privacy.epsilon], [privacy.delta]))
    whole = float(tpr_bound(0.01, privacy.curve_epsilon, privacy.curve_delta))
    assert whole < one_pair / 2
    description = re.search(r'<desc id="roc-alt">([^<]*)', html)
    assert description is not None
    assert f"allows {at_most(whole)}\u202f%" in description[1]


def test_one_attack_has_one_figure(html: str, quickstart: RunFolder) -> None:
    """In the headline, the table, the figure's words and on the terminal; that of all candidates is nowhere."""
    leakage = membership(quickstart)
    best = leakage.best
    whole = next(one for one in leakage.attacks if (one.attack, one.variant) == (best.attack, best.variant))
    honest, lucky = (rate_at(one.rates, 0.01).tpr for one in (best, whole))
    assert honest is not None
    assert lucky is not None
    figure, of_all = (f"{one.value * 100:.2f} %" for one in (honest, lucky))
    assert figure != of_all
    assert best.auc.value != whole.auc.value
    text = Reader(html).text
    (row,) = re.findall(r"rmia · offline, gamma 1 best (.*?)rmia", text)
    assert f"{figure} {honest.low * 100:.2f} – {honest.high * 100:.2f} %" in row
    assert row.startswith(f"{best.auc.value:.3f} {best.auc.low:.3f} – {best.auc.high:.3f}")
    assert of_all not in text
    printed = Console(width=200, file=io.StringIO())
    printed.print(*attacks_tables(quickstart))
    (line,) = [one for one in printed.file.getvalue().splitlines() if "best" in one]  # type: ignore[attr-defined]
    assert figure in line.replace("\u202f", " ")
    assert of_all not in line.replace("\u202f", " ")


def test_the_page_begins_with_a_verdict(html: str, odd: str) -> None:
    assert (
        "The best attack on the final model finds no more members than guessing; measured leakage: 0.21 of the promised "
        "ε = 7.99." in Reader(html).text
    )
    assert "finds no more members than guessing" in Reader(odd).text


def test_a_verdict_about_too_few_candidates_says_so(tmp_path: Path) -> None:
    run = RunRecords.read(make(tmp_path / "run", Made(nonmembers=150)))
    assert "there are too few non-members" in " ".join(verdict(run))


def test_a_verdict_names_the_adversary_that_found_the_most(tmp_path: Path) -> None:
    run = RunRecords.read(make(tmp_path / "run", Made(leak=4, epsilon_lower=2.5)))
    (weak,) = run.findings
    assert isinstance(weak, MembershipFinding)
    best = weak.best.model_copy(update={"epsilon_lower": 3.5})
    strong = weak.model_copy(update={"adversary": "server", "best": best})
    (first, second) = (
        sentence.replace("\u202f", " ").replace("\u00a0", " ") for sentence in verdict(replace(run, findings=(weak, strong)))
    )
    accuracy = f"{run.result.evaluation.headline.value * 100:.1f} %"
    assert first == f"The test accuracy is {accuracy}, and ε = 7.99 is promised for each example."
    tpr = rate_at(best.rates, 0.01).tpr
    assert tpr is not None
    assert second == (
        f"The best attack by the server finds {tpr.value * 100:.1f} % of the members if it falsely accuses 1 % of the others; "
        "measured leakage: 3.50 of the promised ε = 7.99. The other adversary found no more."
    )
    unknown = verdict(replace(run, findings=(), result=run.result.model_copy(update={"privacy": None})))
    assert unknown[1] == "No attack was run."


def test_every_entry_of_the_contents_is_a_section(html: str) -> None:
    (contents,) = re.findall(r'<nav class="contents".*?</nav>', html, re.DOTALL)
    anchors = re.findall(r'href="#([a-z]+)"', contents)
    assert anchors == re.findall(r'<section id="([a-z]+)"', html)
    assert len(anchors) > 5


def test_same_folder_gives_the_same_bytes(html: str, quickstart: RunFolder) -> None:
    assert page(quickstart) == html


def test_page_is_small(html: str) -> None:
    assert len(html.encode()) < 400_000


def test_figures_stand_alone(html: str, quickstart: RunFolder) -> None:
    files = sorted((quickstart.path / "figures").glob("*.svg"))
    names = {file.stem for file in files}
    assert names == {"accuracy", "loss", "epsilon", "clipped", "bytes", "seconds", "roc", "partition"}
    for file in files:
        root = ElementTree.fromstring(file.read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        title, alt = root[0], root[1]
        assert title.text
        assert alt.text
        assert root.get("aria-labelledby") == f"{title.get('id')} {alt.get('id')}"
        assert "#0001" not in file.read_text(), "a stand-in colour was left"
        assert "var(" not in file.read_text(), "other programs draw it black"
        assert f"{title.text}</p>" in html


def test_each_figure_has_its_numbers_in_a_file(html: str, quickstart: RunFolder) -> None:
    for name in ("accuracy", "loss", "epsilon", "clipped", "bytes", "seconds", "roc", "partition"):
        header, *rows = csv.reader((quickstart.path / "figures" / f"{name}.csv").read_text().splitlines())
        assert rows
        assert all(len(row) == len(header) for row in rows)
    with (quickstart.path / "figures" / "accuracy.csv").open() as file:
        last = [row for row in csv.DictReader(file) if row["of"] == "test split"][-1]
    assert float(last["value"]) == pytest.approx(quickstart.result.evaluation.headline.value, rel=1e-5)
    assert "<title>test split: " in html, "a tooltip"


def test_the_pointer_finds_a_value_at_its_place() -> None:
    with style():
        figure, axes = empty_figure(width=300, height=200)
        axes.plot([0, 10], [0, 1])
        axes.set(xlim=(0, 10), ylim=(0, 1))
        marks = [Mark(axes, x, y, f"{x}") for x, y in ((0, 0), (10, 1))]
        svg = to_drawing(figure, "name", "title", "alt", marks=marks).svg
    (low, high) = ((float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg))
    *_, line = re.findall(r'<path d="M ([\d.]+) ([\d.]+) L ([\d.]+) ([\d.]+) ?" clip', svg)
    assert [*low, *high] == pytest.approx([float(end) for end in line], abs=0.1)


def test_many_points_of_a_line_are_thinned_and_the_last_stays() -> None:
    with style():
        _, axes = empty_figure()
    marks = [Mark(axes, x, 0.0, "") for x in range(1000)]
    kept = thinned(marks)
    assert len(kept) <= MOST_MARKS
    assert kept[-1] is marks[-1]
    assert thinned(marks[:60]) == marks[:60]


def test_files_for_papers_are_written_when_asked(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", Made())
    write_report([folder], folder.path / "report.html")
    assert {file.suffix for file in (folder.path / "figures").iterdir()} == {".svg", ".csv"}
    assert not (folder.path / "tables").exists()
    write_report([folder], folder.path / "report.html", papers=True)
    kinds = {file.name for file in (folder.path / "figures").glob("roc.*")}
    assert kinds == {"roc.svg", "roc.csv", "roc.pdf", "roc.png"}
    rows = list(csv.DictReader((folder.path / "tables" / "attacks.csv").read_text().splitlines()))
    finding = membership(folder)
    assert [float(row["auc"]) for row in rows] == pytest.approx(
        [roc.shown(one, finding).auc.value for one in finding.attacks], rel=1e-5
    )
    assert (folder.path / "tables" / "attacks.tex").read_text().count(r" \\") == 1 + len(rows)
    assert len((folder.path / "tables" / "attacks.md").read_text().splitlines()) == 2 + len(rows)


def test_figures_name_all_classes_and_attacks(html: str) -> None:
    text = Reader(html).text
    for name in (*CLASSES, "lira · offline, fixed variance", "rmia · offline, gamma 1 (best)"):
        assert name in text


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_can_be_read(scheme: int) -> None:
    paper = luminance(COLOURS["paper"][scheme])
    for name, colours in COLOURS.items():
        if name not in ("paper", "rule"):
            light, dark = max(paper, luminance(colours[scheme])), min(paper, luminance(colours[scheme]))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def test_nothing_promised_nothing_attacked(tmp_path: Path) -> None:
    bare = Made(
        name="bare",
        overrides=["privacy.kind=none", "aggregator.kind=mean", "cohort.kind=all", "evaluation.every=5"],
        attacked=False,
        clients=4,
    )
    folder = make(tmp_path / "bare", bare)
    text = Reader(page(folder)).text
    for phrase in (
        "no promise",
        "nothing was promised. The leakage of this model is unknown",
        "Secure aggregation off",
        "the update of every client in every round",
        "Evaluated every 5 rounds and after the last.",
        "No attack was run for this adversary.",
    ):
        assert phrase in text
    assert "ε so far" not in text
    assert "None" not in text
    assert "nan" not in text.split()
    assert not (folder.path / "figures" / "roc.svg").exists()


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything goes wrong at once."""
    made = Made(
        name="odd",
        skipped=(3, 7),
        stopped="round 15 would bring client 17 to ε = 8.41; <b>raise</b> privacy.max_epsilon",
        done=14,
        clients=700,
        nonmembers=600,
        classes=['<script>alert("1")</script>', "$x_1$", "a & b", "类"] * 6,
        exceeds=True,
        epsilon_lower=9.1,
        overrides=["records.views=final"],
    )
    return page(make(tmp_path_factory.mktemp("odd") / "odd", made))


def test_names_are_escaped(odd: str) -> None:
    reader = Reader(odd)
    assert "b" not in reader.tags
    assert odd.count("<script") == 1
    assert "<script>alert…" in reader.text
    assert "$x_1$" in reader.text, "a class name is no formula"
    assert "a & b" in reader.text
    assert "<b>raise</b>" in reader.text


def test_trouble_is_said_first(odd: str) -> None:
    text = Reader(odd).text
    body = text[: text.index("Round by round")]
    assert "The run ended early, after 14 rounds of 20: round 15 would bring client 17" in body
    assert "measured ε of at least 9.10 contradicts the promised 7.99" in body
    assert "More was found than the promised ε allows, by lira · online." in body
    assert "TPR at 5 % FPR" in body, "the 300 non-members of a half resolve 10 % and 5 %"
    assert "A rate of 1 % needs 1,000 non-members; here are " in body


def test_skipped_rounds_and_many_clients(odd: str) -> None:
    text = Reader(odd).text
    assert "Rounds 4 and 8 skipped: 1 clients took part; secure_sum needs 2." in text
    # The table of seconds has other means, over all rounds.
    assert " at the server, each round that moved the model" in text
    assert "the mean of about 5.8 clients of similar size" in text
    assert "every global model of 14 rounds (the folder kept only the last)" in text
    assert len(odd.encode()) < 700_000


def test_unfinished_run_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", Made(attacked=False))
    (folder.path / "result.json").unlink()
    with pytest.raises(RunFolderError, match="--resume"):
        write_report([folder], folder.path / "report.html")
    assert not (folder.path / "report.html").exists()


def test_damaged_record_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", Made(attacked=False))
    table = json.loads((folder.path / "result.json").read_text())
    (folder.path / "result.json").write_text(json.dumps({**table, "rounds": "many"}))
    with pytest.raises(RunFolderError, match="damaged"):
        write_report([folder], folder.path / "report.html")


def test_the_figure_names_the_best_attack_and_the_loss_attack(quickstart: RunFolder) -> None:
    (finding,) = quickstart.findings
    assert isinstance(finding, MembershipFinding)
    best = finding.attacks[0]
    many = [
        best.model_copy(
            update={
                "attack": f"membership/kind_{kind}",
                "variant": f"variant {variant}",
                "auc": best.auc.model_copy(update={"value": 0.5 + 0.01 * kind + 0.001 * variant}),
            }
        )
        for kind in range(12)
        for variant in range(2)
    ]
    named, others = roc.split(finding.model_copy(update={"attacks": [*many, *finding.attacks]}))
    assert [(one.attack, one.variant) for one in named] == [
        (finding.best.attack, finding.best.variant),
        ("membership/loss", "loss"),
    ]
    assert len(others) == len(many) + len(finding.attacks) - 2
    alone = [one for one in finding.attacks if (one.attack, one.variant) == (finding.best.attack, finding.best.variant)]
    assert roc.split(finding.model_copy(update={"attacks": alone})) == (alone, [])


def test_an_attack_that_scores_all_alike_is_said_to_tell_nothing(tmp_path: Path) -> None:
    scores = {"member": np.arange(400) % 2, "flat": np.zeros(400), "some": np.random.default_rng(0).normal(size=400)}
    found = privfl.audit(scores, out=tmp_path)
    flat = next(one for one in found.attacks if one.attack == "flat")
    assert (flat.auc.value, flat.auc.low < 0.5 < flat.auc.high) == (0.5, True)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("all scores are equal: it tells nothing apart") == 1
