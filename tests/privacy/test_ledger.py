"""The ledger: what it adds up to, what it refuses."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from privfl.errors import PrivacyError, RunFolderError
from privfl.privacy import accounting, privacy_loss
from privfl.privacy.accounting import epsilon
from privfl.privacy.events import Event, LocalTraining, NoisyUpdate
from privfl.privacy.ledger import Account, Entry, Ledger
from privfl.privacy.mechanisms import History, PoissonGaussian
from privfl.storage import append_line

DELTA = 1e-5


def training(rate: float = 0.1, steps: int = 10, noise: float = 1.0) -> LocalTraining:
    return LocalTraining(
        sample_rate=rate, steps=steps, noise_multiplier=noise, max_grad_norm=1.0, expected_batch_size=rate * 100
    )


def test_clients_compose_apart_and_the_largest_counts() -> None:
    ledger = Ledger(DELTA)
    ledger.record(0, {3: training(), 5: training(rate=0.3)})
    ledger.record(1, {3: training()})
    first, second = (
        epsilon(History({PoissonGaussian(0.1, 1.0): 20}), DELTA),
        epsilon(History({PoissonGaussian(0.3, 1.0): 10}), DELTA),
    )
    assert ledger.epsilon() == max(first, second)
    assert ledger.client_epsilons(6) == [0.0, 0.0, 0.0, first, 0.0, second]
    # One accountant shared by all clients would have added them up.
    assert ledger.epsilon() < epsilon(History({PoissonGaussian(0.3, 1.0): 30}), DELTA)


def test_price_of_a_round_beforehand_is_its_price_afterwards() -> None:
    ledger = Ledger(DELTA)
    ledger.record(0, {0: training()})
    events: dict[Account, Event] = {0: training(), 1: training(rate=0.2)}
    before, would_be = ledger.epsilon(), ledger.epsilon_with(events)
    assert ledger.epsilon() == before < would_be
    ledger.record(1, events)
    assert ledger.epsilon() == would_be


def test_read_back_from_its_file_it_is_the_same(tmp_path: Path) -> None:
    ledger, path = Ledger(DELTA), tmp_path / "ledger.jsonl"
    ledger.begin(path)
    rounds: list[dict[Account, Event]] = [{10: training(), 1: training(), 2: training(rate=0.2)}, {}, {1: training()}]
    for number, events in enumerate(rounds):
        ledger.record(number, events)
        append_line(path, Entry.of(number, events))
    assert Ledger.read(path) == ledger
    resumed = Ledger(DELTA)
    resumed.resume(path, 2, lambda number: rounds[number])
    assert (resumed.rounds, resumed.accounts()[1]) == (2, training().releases(1))
    # One line a round; those who did the same are named together, by number.
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
    assert [[charge["accounts"] for charge in line["spent"]] for line in lines] == [[[1, 10], [2]], [], [[1]]]


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    ledger, path = Ledger(DELTA), tmp_path / "ledger.jsonl"
    ledger.begin(path)
    append_line(path, Entry.of(0, {1: training()}))

    def planned(_: int) -> dict[Account, Event]:
        return {1: training()}

    def of_another(_: int) -> dict[Account, Event]:
        return {2: training()}

    for other, rounds, plan, why in (
        (Ledger(1e-6), 1, planned, "is not what 1 rounds of this run spent"),
        (Ledger(DELTA, "replace_one"), 1, planned, "is not what 1 rounds"),
        (Ledger(DELTA), 1, of_another, "is not what 1 rounds"),
        (Ledger(DELTA), 2, planned, "is missing or damaged"),
    ):
        with pytest.raises(RunFolderError, match=why):
            other.resume(path, rounds, plan)
    for content in (b"", b"{}\n", b"\xff\n", path.read_bytes() + b'{"round": 0, "spent": []}\n', path.read_bytes() + b"[]\n"):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match="is missing or damaged"):
            Ledger.read(path)
    with pytest.raises(RunFolderError, match="is missing or damaged"):
        Ledger.read(tmp_path / "none.jsonl")


def test_an_empty_round_is_free_and_a_round_is_entered_once() -> None:
    ledger = Ledger(DELTA)
    assert ledger.epsilon() == 0.0
    ledger.record(0, {0: training()})
    before = ledger.epsilon()
    ledger.record(1, {})
    assert ledger.epsilon() == before
    for number in (0, 1, 3):
        with pytest.raises(PrivacyError, match="entered once"):
            ledger.record(number, {1: training()})
    assert ledger.epsilon() == before


@pytest.mark.parametrize("changed", [training(rate=0.2), training(noise=2.0)])
def test_a_client_that_changes_its_plan_is_refused(changed: LocalTraining) -> None:
    ledger = Ledger(DELTA)
    ledger.record(0, {0: training()})
    with pytest.raises(PrivacyError, match="account 0 changed"):
        ledger.record(1, {0: changed})


def test_units_are_not_mixed() -> None:
    ledger = Ledger(DELTA)
    ledger.record(0, {0: training()})
    with pytest.raises(PrivacyError, match="an event about one client in a ledger about one example"):
        ledger.record(1, {1: NoisyUpdate(noise_multiplier=1.0, max_update_norm=1.0)})
    with pytest.raises(PrivacyError, match="must be the same unit"):
        Ledger(DELTA).record(0, {0: training(), 1: NoisyUpdate(noise_multiplier=1.0, max_update_norm=1.0)})


def test_a_round_costs_no_more_as_rounds_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand clients of a hundred sizes: a round hands over to the accountant one history a size, whoever came and how
    often, and asks it for a few prices.
    """
    handed_over: list[int] = []
    priced: list[History] = []
    dominating, original = accounting.dominating, privacy_loss.epsilon

    def spied_dominating(histories: Iterable[History]) -> list[History]:
        found = list(histories)
        handed_over.append(len(found))
        return dominating(found)

    def counted(history: History, delta: float) -> float:
        priced.append(history)
        return original(history, delta)

    monkeypatch.setattr(accounting, "dominating", spied_dominating)
    monkeypatch.setattr(privacy_loss, "epsilon", counted)
    draw = np.random.default_rng(0)
    each = [training(rate=32 / size, steps=-(-size // 32)) for size in draw.integers(40, 140, 1000).tolist()]
    ledger = Ledger(DELTA)
    for number in range(300):
        cohort = np.flatnonzero(draw.random(1000) < 0.1).tolist()
        events: dict[Account, Event] = {client: each[client] for client in cohort}
        would_be = ledger.epsilon_with(events) if number % 100 == 99 else 0.0
        ledger.record(number, events)
        if number % 100 == 99:
            assert ledger.epsilon() == would_be
    assert max(handed_over) <= len(set(each)) <= 100
    assert len(priced) <= 5 * 3
    # No account was left out.
    everyone = list(ledger.accounts().values())
    assert accounting.largest_epsilon(everyone, DELTA) == ledger.epsilon()
