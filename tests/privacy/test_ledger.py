"""The ledger: what it adds up to, what it refuses."""

from collections import namedtuple
from typing import Any

import numpy as np
import pytest

from privfl.errors import PrivacyError
from privfl.privacy import ledger as ledger_file
from privfl.privacy import loss, renyi
from privfl.privacy.accounting import epsilon
from privfl.privacy.events import Event, LocalTraining, NoisyUpdate
from privfl.privacy.ledger import Account, Ledger
from privfl.privacy.mechanisms import History, PoissonGaussian

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
    assert ledger.clients(6) == [0.0, 0.0, 0.0, first, 0.0, second]
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


def test_rebuilt_from_its_entries_it_is_the_same() -> None:
    ledger = Ledger(DELTA)
    ledger.record(0, {0: training(), 1: training()})
    ledger.record(2, {1: training()})
    again = Ledger(DELTA, entries=[type(entry).model_validate(entry.model_dump()) for entry in ledger.entries])
    assert again.entries == ledger.entries
    assert again.clients(2) == ledger.clients(2)


def test_an_empty_round_is_free_and_a_round_is_entered_once() -> None:
    ledger = Ledger(DELTA)
    assert ledger.epsilon() == 0.0
    ledger.record(0, {0: training()})
    ledger.record(1, {})
    with pytest.raises(PrivacyError, match="entered once"):
        ledger.record(0, {1: training()})


@pytest.mark.parametrize("changed", [training(rate=0.2), training(noise=2.0)])
def test_a_client_that_changes_its_plan_is_refused(changed: LocalTraining) -> None:
    ledger = Ledger(DELTA)
    ledger.record(0, {0: training()})
    with pytest.raises(PrivacyError, match="account 0 changed"):
        ledger.record(1, {0: changed})


def test_units_are_not_mixed() -> None:
    ledger = Ledger(DELTA)
    ledger.record(0, {0: training()})
    with pytest.raises(PrivacyError, match="an event about one client among events about one example"):
        ledger.record(1, {1: NoisyUpdate(noise_multiplier=1.0, max_update_norm=1.0)})


class Watched(dict[Account, tuple[Event, int]]):
    """Counts how many accounts are looked through, and says so before it has taken minutes."""

    looked_at, allowed = 0, 0

    def values(self) -> Any:
        for value in super().values():
            self.looked_at += 1
            assert self.looked_at <= self.allowed, "every event looks through all accounts"
            yield value


def test_a_thousand_clients_in_a_thousand_rounds_are_entered_and_priced_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the work that is done: an event looks at its own account, and next to no client's history needs a price."""
    priced: list[History] = []
    original = loss.epsilon

    def counted(history: History, delta: float) -> float:
        priced.append(history)
        return original(history, delta)

    monkeypatch.setattr(loss, "epsilon", counted)
    # A million validated entries would take a gigabyte here.
    monkeypatch.setattr(ledger_file, "Entry", namedtuple("Entry", "round account event"))
    draw = np.random.default_rng(0)
    each = [training(rate=32 / size, steps=-(-size // 32)) for size in draw.integers(40, 400, 1000).tolist()]
    ledger = Ledger(DELTA, _spent=Watched())
    spent = ledger._spent
    assert isinstance(spent, Watched)
    for number in range(1000):
        ledger.record(number, dict(enumerate(each)))
    assert len(ledger.entries) == 10**6
    # Each of what follows goes through the accounts a few times.
    spent.allowed = spent.looked_at + 20_000
    found = ledger.epsilon()
    assert found <= ledger.epsilon_with(dict(enumerate(each)))
    assert len(priced) <= 20
    dearest = max(set(each), key=lambda event: renyi.epsilon(renyi.composed(event.releases(1000), quick=True), DELTA))
    assert found == epsilon(dearest.releases(1000), DELTA)
