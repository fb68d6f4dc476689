"""The privacy card: the terms of a run's promise, and the limits of that promise."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from privfl.data.transforms import Transform
from privfl.federation.aggregators._rows import RowRule
from privfl.federation.algorithms import Algorithm
from privfl.federation.behaviours import Behaviour
from privfl.privacy.plans import PlanSettings, PlanWords
from privfl.privacy.words import ACCOUNTANTS, RELATIONS, SAMPLERS
from privfl.records import Extrapolated, PrivacyResult
from privfl.report.run_records import RunRecords
from privfl.report.wording import count, epsilon, listing, plural, scientific
from privfl.tables import narrow


@dataclass(frozen=True)
class Card:
    """The terms of the promise and the matters that it does not cover, each as (name, one or two sentences)."""

    terms: list[tuple[str, str]]
    uncovered: list[tuple[str, str]]


def card(run: RunRecords) -> Card:
    """Return the privacy card of one run."""
    privacy = run.result.privacy
    if privacy is None:
        return Card([("Protected", "Nothing. The run added no noise, so no bound on its leakage can be given.")], _always(run))
    words = narrow(run.config.privacy, PlanSettings).words(privacy.sampler)
    return Card([*_terms(privacy, words), *_statistics(run)], [*_limits(privacy, words), *_always(run)])


def as_json(run: RunRecords) -> dict[str, Any]:
    """Return the privacy card as JSON: the sentences and the figures, without the privacy curve."""
    privacy, words = run.result.privacy, card(run)
    figures = privacy.model_dump(exclude={"curve_epsilon", "curve_delta"}) if privacy is not None else None
    return {
        "promise": figures,
        "delta_against": None if privacy is None else f"1/{privacy.units}",
        "terms": dict(words.terms),
        "not_covered": dict(words.uncovered),
    }


def _terms(privacy: PrivacyResult, words: PlanWords) -> list[tuple[str, str]]:
    whole = (
        "It covers all data of the client."
        if privacy.unit == "client"
        else "It does not cover all examples of one client or one person together."
    )
    own = RELATIONS[privacy.relation] + (", client sizes fixed" if privacy.unit == "example" else "")
    # If the cohorts are public, participation is no secret; only the content of an update is.
    protected = f"The use of any one {privacy.unit}"
    if _public_cohort(privacy):
        protected, own = "The content of any one client's updates", "one client's update replaced by zeros, in the same cohorts"
        if privacy.relation == "replace_one":
            own = "one client's update replaced by another, in the same cohorts"
    terms = [
        ("Protected", f"{protected}: {privacy.unit}-level differential privacy. {whole}"),
        ("From whom", _sentence(listing([ADVERSARIES[name] for name in privacy.adversaries])) + _not_from(privacy)),
        ("Neighbouring", _sentence(own)),
        ("Sampler", _sentence(SAMPLERS[privacy.sampler])),
        ("Clip and noise", _noise(privacy, words)),
        ("ε by accountant", _prices(privacy)),
        ("δ", f"{scientific(privacy.delta)}, below 1/{count(privacy.units)}, the inverse of the number of {privacy.unit}s."),
        ("Randomness", RANDOMNESS[privacy.randomness]),
        ("Over clients", _spread(privacy)),
    ]
    if privacy.extrapolated is not None:
        terms.append(("Executed, not extrapolated", _extrapolated(privacy, privacy.extrapolated)))
    if privacy.zeroed:
        vectors = "gradients" if privacy.unit == "example" else "updates"
        terms.append(("Not finite", f"{count(privacy.zeroed)} {vectors} overflowed and counted as zeros."))
    return terms


def _statistics(run: RunRecords) -> list[tuple[str, str]]:
    """Say which noised statistics of the examples were released before the first round."""
    read = [narrow(item, Transform).words() for item in run.config.data.transforms if item.reads_pool]
    return [("Statistics", f"Inputs were prepared by {listing(read)}. These releases are in every ε.")] if read else []


def _public_cohort(privacy: PrivacyResult) -> bool:
    return privacy.unit == "client" and privacy.sampler == "none"


RANDOMNESS = {
    "seeded": "Seeded: not private against someone who knows the seed.",
    "secure": "From the operating system. The key was deleted when the run ended, so that nobody can subtract the noise.",
}
"""A sentence on each source of the noise."""


def _noise(privacy: PrivacyResult, words: PlanWords) -> str:
    text = words.noise.format(clip=f"{privacy.clip:g}", noise=f"{privacy.noise_multiplier:.4g}")
    if privacy.clip_end is not None:
        text += " The clipping norm follows a quantile of the updates' norms, which is estimated under the same ε; it ended at "
        text += f"{privacy.clip_end:.3g}."
    return text


def _prices(privacy: PrivacyResult) -> str:
    said = [f"{ACCOUNTANTS[one.accountant]}, {RELATIONS[one.relation]}: {epsilon(one.epsilon)}" for one in privacy.prices]
    first = f"{_sentence(said[0])[:-1]}, the headline. " if said else ""
    rest = f"{_sentence('; '.join(said[1:]))} " if said[1:] else ""
    return f"{first}{rest}Computed from the ledger of the noise that was really added."


def _extrapolated(privacy: PrivacyResult, wide: Extrapolated) -> str:
    return (
        f"The ε of this run is {epsilon(privacy.epsilon)}. It is that of the noise that the run executed, and attacks are "
        f"compared with it. The run stands for one with {count(wide.cohort)} of {count(wide.population)} clients a round. A "
        f"run of that size would have ε = {epsilon(wide.epsilon)}, which protects nobody here."
    )


def _not_from(privacy: PrivacyResult) -> str:
    """Name the parties that are trusted; empty if the promise holds against the server."""
    if "server" in privacy.adversaries:
        return ""
    clients = (
        ""
        if "client" in privacy.adversaries
        else " The roster of secure aggregation tells clients who else is in their cohort, so nothing is promised against them."
    )
    return f" The server is trusted: it adds the noise, and nothing is promised against it.{clients}"


ADVERSARIES = {
    "external": "anyone who is given the final model",
    "recipient": "anyone to whom clients publish their own models",
    "client": "the other clients",
    "server": "the server, even if it reads every message that it receives",
    "malicious_server": "a server that also chooses the messages that it sends",
}
"""A description of each adversary."""


def _spread(privacy: PrivacyResult) -> str:
    spent = sorted(privacy.epsilon_clients)
    if not spent:
        return "No client took part, so no ε was spent."
    median = statistics.median(spent)
    idle = sum(value == 0 for value in spent)
    ends = f"ε ranges from {epsilon(spent[0])} through {epsilon(median)} (median) to {epsilon(spent[-1])}, the headline."
    return ends + (f" {plural(idle, 'client')} never took part." if idle else "")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _limits(privacy: PrivacyResult, words: PlanWords) -> list[tuple[str, str]]:
    limits = [
        ("Tuning", "Settings that were chosen from runs on the same data leak a little too. That leakage is not part of ε.")
    ]
    if privacy.unit == "example":
        limits.append(
            (
                "Several examples of one person",
                "The promise is to each example. A person with many examples in the data is protected less.",
            )
        )
    return [
        *limits,
        ("Public by assumption", words.public),
        *([("The seed", _SEED)] if privacy.randomness == "seeded" else []),
    ]


_SEED = (
    "Anyone who knows the seed can compute who was drawn. For any guess of the data they can also compute the noise and "
    "subtract it, which shows whether the guess is right. Keep config.toml secret from the adversaries. The noise also depends "
    "on the data and the members: a run on other data with the same seed and settings draws other noise."
)
"""The assumption of a run with seeded noise."""


def _always(run: RunRecords) -> list[tuple[str, str]]:
    hiding = (
        "Secure aggregation hides from the server which client sent which update. It does not bound the leakage of their sum."
        if run.result.hides_updates
        else "Secure aggregation was off: the server saw every client's update."
    )
    weights = getattr(run.config.model, "weights", None)
    start = (
        f"The run started from {weights.name}, which counts as public. No ε covers the data that it was trained on."
        if weights is not None
        else None
    )
    return [
        *([("Initial weights", start)] if start else []),
        ("Secure aggregation", hiding),
        *_personal(run),
        (
            "Poisoned input",
            "A client may train on any data that it likes. " + _effect_of_poison(run) + _misbehaving(run),
        ),
        (
            "This page and its folder",
            "Training loss, clipped gradients, the partition and the list of members come from the raw data, for research. "
            "No ε covers their publication.",
        ),
        (
            "Facts about the population",
            "A model is meant to reveal facts about the population that hold whether or not any one person took part.",
        ),
    ]


def _personal(run: RunRecords) -> list[tuple[str, str]]:
    """Say what covers the clients' personal models; empty if the algorithm has none."""
    return [("Personal models", text)] if (text := personal_models(run)) else []


def personal_models(run: RunRecords) -> str:
    """Say what a personal model costs in ε if its client publishes it; empty if the algorithm has none."""
    algorithm, privacy = narrow(run.config.algorithm, Algorithm), run.result.privacy
    if not algorithm.personal:
        return ""
    if privacy is not None and privacy.unit == "example" and algorithm.counted:
        return (
            "Each client also has a model of its own, made of the same noised steps as its updates. A client that publishes it "
            "spends nothing beyond its ε."
        )
    noise = "trained on its data without noise" if privacy is None or privacy.unit == "example" else "made before any noise"
    return (
        f"Each client also has a model of its own, {noise}. It is sent to nobody. No ε covers it: a client that publishes it "
        "has no promise left."
    )


def _effect_of_poison(run: RunRecords) -> str:
    """Say whether the aggregator limits what such a client does to the model."""
    if isinstance(run.config.aggregator, RowRule):
        return f"The rule {run.config.aggregator.kind!r} limits the effect on the model; nothing detects it for certain."
    return "Nothing here detects or limits the effect on the model."


def _misbehaving(run: RunRecords) -> str:
    """Say how many clients departed from the protocol in this simulation; empty if none did."""
    who, behaviour, privacy = run.partition.misbehaving, narrow(run.config.behaviour, Behaviour), run.result.privacy
    if not who:
        return ""
    shared = behaviour.colludes and privacy is not None and privacy.unit == "client"
    return f" In this run {len(who)} of {len(run.partition.clients)} clients did ({behaviour.kind})." + (
        " They agreed on what they sent, so the promise is to the other clients only." if shared else ""
    )
