"""Block for reconstruction: true and reconstructed inputs side by side, their similarity, and that of chance."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.table import Table

from privfl.adversaries import Adversary
from privfl.auditing.questions import Finding
from privfl.auditing.questions._compared import Measure
from privfl.auditing.questions.reconstruction import ReconstructionFinding, ReconstructionRecord
from privfl.records import Interval, PrivacyResult
from privfl.report.blocks import Block, Cell, Column, Headline, Section
from privfl.report.wording import NNBSP, adversary_name, attack_name, count, percent, percent_range, plural, rounds_read


class Reconstruction(Block):
    """The block of :class:`privfl.auditing.questions.reconstruction.ReconstructionFinding`."""

    kind: str = "reconstruction"

    def headlines(self, finding: Finding, promise: PrivacyResult | None) -> list[Headline]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none, since no promise covers reconstruction."""
        return []

    def warnings(self, finding: Finding, promise: PrivacyResult | None) -> list[str]:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: none."""
        return []

    def section(self, finding: Finding, promise: PrivacyResult | None) -> Section:  # noqa: ARG002
        """See :class:`privfl.report.blocks.Block`: pictures, a sentence for each attack, and a table of all variants."""
        finding = _narrow(finding)
        measures = next(([one.name for one in record.measures] for record in finding.attacks if record.measures), [])
        attacks = [
            {
                "name": _name(record),
                "sentence": _sentence(record),
                "pictures": [(one, f"{one.psnr:.1f}{NNBSP}dB") for one in record.pictures],
                "measures": [_measure_cell(one) for one in record.measures] or [("–", "")] * len(measures),
                "recognised": _share_cell(record.recognised),
                "exact": _share_cell(record.exact),
                "labels": _labels_cell(record),
            }
            for record in finding.attacks
        ]
        parts = {"finding": finding, "attacks": attacks, "measures": measures, "by": adversary_name(finding.adversary)}
        return Section(_TEMPLATE, parts, [])

    def measured(self, finding: Finding) -> str:
        """See :class:`privfl.report.blocks.Block`."""
        return " ".join(_sentence(record) for record in _narrow(finding).attacks)

    def columns(self, finding: Finding | None, adversary: Adversary) -> list[Column]:
        """See :class:`privfl.report.blocks.Block`: the attack that recognised the most inputs, with its first measure."""
        found: Cell = ("not measured", "")
        if finding is not None:
            best = max(_narrow(finding).attacks, key=lambda record: record.recognised.value if record.recognised else -1.0)
            share, _ = _share_cell(best.recognised)
            found = (share, _terms(best))
        title = f"inputs recognised by the {adversary_name(adversary)}"
        return [Column(title, found)]

    def table(self, finding: Finding) -> Table:
        """See :class:`privfl.report.blocks.Block`."""
        finding = _narrow(finding)
        rounds = tuple(sorted({number for record in finding.attacks for number in record.rounds}))
        asked = max((record.asked for record in finding.attacks), default=0)
        source = f"up to {plural(asked, 'round')} that it asked for" if asked else rounds_read(rounds)
        title = f"reconstruction, by the {adversary_name(finding.adversary)}, from {source}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("attack", "inputs recognised", "", "similarity", "labels correct"):
            table.add_column(heading)
        for record in finding.attacks:
            labels = ", ".join(part for part in _labels_cell(record) if part)
            table.add_row(_name(record), *_share_cell(record.recognised), _similarity(record), labels)
        return table


def _narrow(finding: Finding) -> ReconstructionFinding:
    assert isinstance(finding, ReconstructionFinding)
    return finding


def _name(record: ReconstructionRecord) -> str:
    return attack_name(record.attack, record.variant)


def _sentence(record: ReconstructionRecord) -> str:
    """Return the result of one variant in one sentence."""
    clients, rounds = plural(len(record.clients), "client"), rounds_read(tuple(record.rounds))
    if record.asked:
        rounds = f"{plural(record.asked, 'round')} that it asked for, which the ledger does not price"
    if record.targets > 1 or len(record.clients) == 1:
        origin = f"the {plural(record.targets, 'update')} of {clients}"
    else:
        origin = f"{plural(record.targets, 'sum')} of the updates of {clients}"
    sentence = f"From {origin} ({rounds}), {_name(record)} "
    if record.recognised is not None:
        hits = round(record.recognised.value * record.trained_on)
        sentence += f"recovered {count(hits)} of {plural(record.trained_on, 'input')} recognisably"
        if not hits:
            sentence = sentence.replace("recovered 0 of", "recovered none of")
        if similarity := _similarity(record):
            sentence += f" (median {similarity})"
    if record.labels is not None:
        joined = ", and named " if record.recognised is not None else "named "
        sentence += f"{joined}{percent(record.labels.right.value)} of the labels correctly"
        sentence += f" (guessing: {percent(record.labels.chance)})"
    return f"{sentence}."


def _number(measure: Measure, value: float) -> str:
    if measure.unit == "%":
        return percent(value)
    return f"{value:.1f}{NNBSP}{measure.unit}" if measure.unit else f"{value:.3f}"


def _similarity(record: ReconstructionRecord) -> str:
    """Return the first measure, with its value for chance; empty if there is none."""
    if not record.measures:
        return ""
    first = record.measures[0]
    return f"{first.name} {_number(first, first.median.value)}, chance {_number(first, first.chance)}"


def _measure_cell(measure: Measure) -> Cell:
    low, high = (_number(measure, value) for value in (measure.median.low, measure.median.high))
    return _number(measure, measure.median.value), f"{low} – {high}\nchance: {_number(measure, measure.chance)}"


def _share_cell(share: Interval | None) -> Cell:
    return ("–", "") if share is None else (percent(share.value), percent_range(share))


def _labels_cell(record: ReconstructionRecord) -> Cell:
    if record.labels is None:
        return "–", ""
    return percent(
        record.labels.right.value
    ), f"{percent_range(record.labels.right)}\nguessing: {percent(record.labels.chance)}"


def _terms(record: ReconstructionRecord) -> str:
    return f"by {_name(record)}; {_similarity(record)}" if record.measures else f"by {_name(record)}"


_TEMPLATE: Final = """\
{% from "parts.html.j2" import cell with context %}
<h3>Reconstruction, by the {{ by }}</h3>
<p class="prose">Each attack reconstructs the examples that clients trained on. The reconstructions are matched one to one with the true
examples. Chance is the most similar of {{ finding.fresh | count }} inputs that nobody trained on. An input is recognised if its
reconstruction is more similar to it than 95{{ "\u00a0" }}% of the true inputs are to their nearest such input.</p>
{% for attack in attacks %}
<p class="prose">{{ attack.sentence }}</p>
{% if attack.pictures %}
<div class="pictures" role="group" aria-label="Inputs and their reconstructions by {{ attack.name }}">
{% for one, decibels in attack.pictures %}
<figure class="pair"><img src="data:image/png;base64,{{ one.original }}" alt="true input {{ loop.index }}"><img src="data:image/png;base64,{{ one.reconstruction }}" alt="its reconstruction, PSNR {{ decibels }}"><figcaption>{{ decibels }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}
{% endfor %}
{% if attacks | map(attribute="pictures") | select | list %}
<p class="note">Each pair shows the true image at the left and its reconstruction at the right, with their PSNR. The pairs
are taken evenly over all pairs, from the most to the least similar. They are training data: keep this page as private as those.</p>
{% endif %}
<div class="scroll" role="region" aria-label="Reconstructions by each attack" tabindex="0">
<table class="stacked">
<thead><tr><th scope="col">attack</th><th scope="col">inputs recognised</th><th scope="col">exact</th>
{% for name in measures %}<th scope="col">{{ name }}, median</th>{% endfor %}<th scope="col">labels correct</th></tr></thead>
<tbody>
{% for attack in attacks %}
<tr><th scope="row">{{ attack.name }}</th>{{ cell(attack.recognised, "inputs recognised") }}{{ cell(attack.exact, "exact") }}
{% for pair in attack.measures %}{{ cell(pair, measures[loop.index0]) }}{% endfor %}{{ cell(attack.labels, "labels correct") }}</tr>
{% endfor %}
</tbody>
</table>
<p class="note">Shares are over all examples that these clients trained on, medians over the matched pairs. The 95 % intervals treat the
examples as independent; for fewer than six pairs the range is shown. An exact reconstruction has a root mean squared error below a thousandth of the range.</p>
</div>
"""  # noqa: E501
