"""The privacy card: what was promised, to whom, by which means, and what no ε covers."""

from __future__ import annotations

from dataclasses import dataclass

from privfl.records import PrivacyResult
from privfl.report.recorded import Run
from privfl.report.wording import count, epsilon, listing, plural, scientific


@dataclass(frozen=True)
class Card:
    """Terms of the promise, and what lies outside it: (what, in one or two sentences) each."""

    terms: list[tuple[str, str]]
    uncovered: list[tuple[str, str]]


def card(run: Run) -> Card:
    """The card of one run."""
    privacy = run.result.privacy
    if privacy is None:
        return Card(
            [("Protected", "Nothing. The run added no noise, so no bound on what it leaks can be given.")], _always(run)
        )
    return Card(_terms(privacy), [*_limits(run, privacy), *_always(run)])


def _terms(privacy: PrivacyResult) -> list[tuple[str, str]]:
    whole = "its whole data" if privacy.unit == "client" else "not all that one client or one person contributed"
    return [
        ("Protected", f"Whether any one {privacy.unit} was used: {privacy.unit}-level differential privacy, {whole}."),
        ("From whom", _sentence(listing([ADVERSARIES[name] for name in privacy.adversaries]))),
        ("Neighbouring", _sentence(privacy.relation)),
        ("Sampler", f"{privacy.sampler} sampling, the scheme that was both run and accounted."),
        (
            "Clip and noise",
            f"Each {privacy.unit}'s gradient is clipped to L2 norm {privacy.max_grad_norm:g}; Gaussian noise of standard "
            f"deviation {privacy.noise_multiplier:.4g} × {privacy.max_grad_norm:g} is added to each step's sum, by the client "
            "itself.",
        ),
        (
            "Accountant",
            f"Privacy loss distributions (PLD): ε = {epsilon(privacy.epsilon)}. Rényi (RDP), looser, gives "
            f"{epsilon(privacy.epsilon_rdp)}. Priced from the ledger of the noise that was really added.",
        ),
        ("δ", f"{scientific(privacy.delta)}: all ε here are at this δ."),
        ("Over clients", _spread(privacy)),
    ]


ADVERSARIES = {
    "external": "whoever is given the final model",
    "client": "the other clients",
    "server": "the server, even if it looks at everything it is sent",
    "malicious_server": "a server that also chooses what it sends",
}
"""Who each adversary is, in words."""


def _spread(privacy: PrivacyResult) -> str:
    spent = sorted(privacy.epsilon_clients)
    if not spent:
        return "No client took part, so no ε was spent."
    median = spent[len(spent) // 2]
    idle = sum(value == 0 for value in spent)
    ends = f"ε runs from {epsilon(spent[0])} through {epsilon(median)} (median) to {epsilon(spent[-1])}, the headline."
    return ends + (f" {plural(idle, 'client')} never took part." if idle else "")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _limits(run: Run, privacy: PrivacyResult) -> list[tuple[str, str]]:
    largest = max((sum(row) for row in run.partition.counts), default=0)
    limits = [
        ("Tuning", "Settings that were chosen by looking at runs on the same data leak a little too, and are not priced.")
    ]
    if privacy.unit == "example":
        limits.append(
            (
                "Several examples of one person",
                "The promise is to each example. Whoever has many in the data is protected less.",
            )
        )
    if largest and privacy.delta > 1 / largest:
        limits.append(
            (
                "δ above 1/N",
                f"δ = {scientific(privacy.delta)} exceeds 1/{count(largest)}, one over the largest client's size: releasing a "
                "few whole examples would be allowed.",
            )
        )
    return [
        *limits,
        (
            "Public by assumption",
            "How many examples each client has, who takes part in which round, and the settings of the run.",
        ),
        (
            "The seed",
            "Whoever knows it can compute the noise and take it off. Keep config.toml from those the promise is against.",
        ),
    ]


def _always(run: Run) -> list[tuple[str, str]]:
    hiding = (
        "Secure aggregation hides whose update is whose from the server. It bounds nothing about what their sum reveals."
        if run.result.hides_updates
        else "Secure aggregation was off: the server saw every client's update."
    )
    return [
        ("Secure aggregation", hiding),
        (
            "Poisoned input",
            "A client may train on whatever it likes. Nothing here detects or limits what that does to the model.",
        ),
        (
            "This page and its folder",
            "Training loss, clipped gradients, the partition and who was a member are read from the raw data, for research. "
            "Nothing covers their publication.",
        ),
        (
            "Facts about everybody",
            "What is true with or without any one member, and can be learned from the model, is what it is for.",
        ),
    ]
