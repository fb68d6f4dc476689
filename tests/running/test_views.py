"""Each adversary sees what the table in ``privfl.running.views`` says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import SMALL, small
from torch import Tensor

from privfl.adversaries import ADVERSARIES, Adversary
from privfl.config import ExperimentConfig
from privfl.errors import RunFolderError, ViewError
from privfl.federation.aggregators import Aggregate, Aggregator, ClientUpdate, RoundContext
from privfl.running.recording import run
from privfl.running.run_folder import RunFolder
from privfl.running.views import ClientView, ExternalView, ServerView, observe, observe_transcripts, open_view
from privfl.shelves import SHELVES
from privfl.vectors import Layout

LAYOUT = Layout(("weight", "bias"), ((2, 2), (2,)))
MODEL_D = torch.arange(6.0)
ROUNDS = 3


def seen_in_the_clear() -> dict[str, Tensor]:
    return {"updates_KD": torch.tensor([[1.0] * 6, [3.0] * 6]), "weights_K": torch.tensor([1.0, 0.5])}


def seen_under_secure_aggregation() -> dict[str, Tensor]:
    return {"sum_D": torch.full((6,), 2.5, dtype=torch.float64), "weight_sum": torch.tensor(1.5, dtype=torch.float64)}


def server_view(path: Path) -> ServerView:
    view = open_view(RunFolder(path), "server", LAYOUT)
    assert isinstance(view, ServerView)
    return view


def public(view: ExternalView) -> set[str]:
    return {name for name in dir(view) if not name.startswith("_")} - {"layout", "rounds_read"}


def test_what_each_adversary_can_ask_for(tmp_path: Path) -> None:
    server = {
        *("count", "final_model", "model_before", "participants", "rounds"),
        *("sums", "survivors", "transcripts", "updates"),
    }
    expected: dict[Adversary, set[str]] = {
        "external": {"final_model"},
        "recipient": {"final_model", "personal_models"},
        "client": {"final_model", "model_before", "rounds"},
        "server": server,
        "malicious_server": server | {"answers", "cohorts", "hides_updates"},
    }
    for adversary, questions in expected.items():
        assert public(open_view(RunFolder(tmp_path), adversary, LAYOUT)) == questions
    assert set(ADVERSARIES) == set(expected)


@pytest.mark.parametrize("adversary", ["martian", ""])
def test_an_adversary_that_has_no_part_in_a_run(adversary: Adversary, tmp_path: Path) -> None:
    with pytest.raises(
        ViewError, match=r"has no part in a run; allowed: external, recipient, client, server, malicious_server"
    ):
        open_view(RunFolder(tmp_path), adversary, LAYOUT)


def test_a_server_in_the_clear_sees_each_update(tmp_path: Path) -> None:
    observe(RunFolder(tmp_path), 0, MODEL_D, [4, 7], [4, 7], seen_in_the_clear())
    view = server_view(tmp_path)
    assert torch.equal(view.model_before(0), MODEL_D)
    assert view.participants(0) == [4, 7]
    updates_KD, weights_K = view.updates(0)
    assert torch.equal(updates_KD, seen_in_the_clear()["updates_KD"])
    assert torch.equal(weights_K, seen_in_the_clear()["weights_K"])
    sum_D, weight = view.sums(0)
    assert torch.equal(sum_D, torch.full((6,), 1.0 * 1 + 0.5 * 3))
    assert weight == 1.5


def test_a_server_under_secure_aggregation_sees_the_sum_only(tmp_path: Path) -> None:
    observe(RunFolder(tmp_path), 0, MODEL_D, [4, 7, 9], [4, 7], seen_under_secure_aggregation())
    view = server_view(tmp_path)
    assert view.participants(0) == [4, 7, 9]
    assert view.survivors(0) == [4, 7]
    sum_D, weight = view.sums(0)
    assert torch.equal(sum_D, seen_under_secure_aggregation()["sum_D"])
    assert weight == 1.5
    with pytest.raises(
        ViewError, match=r"round 0: under secure aggregation the server sees sums only.*aggregator\.kind = 'mean'"
    ):
        view.updates(0)


def test_a_view_says_which_rounds_there_are_and_which_were_looked_at(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        observe(RunFolder(tmp_path), number, MODEL_D, [4, 7], [4, 7], seen_in_the_clear())
    view = server_view(tmp_path)
    assert view.rounds() == (0, 2, 10)
    assert view.rounds_read() == ()
    view.updates(10)
    view.model_before(2)
    assert view.rounds_read() == (2, 10)


def test_a_skipped_round_shows_the_model_and_nothing_more(tmp_path: Path) -> None:
    observe(RunFolder(tmp_path), 0, MODEL_D, [], [], {})
    view = server_view(tmp_path)
    assert torch.equal(view.model_before(0), MODEL_D)
    assert view.participants(0) == []
    for ask in (view.sums, view.updates):
        with pytest.raises(ViewError, match="round 0: nobody's update arrived; the server saw nothing of it"):
            ask(0)


def test_what_was_not_kept_is_refused(tmp_path: Path) -> None:
    observe(RunFolder(tmp_path), 0, MODEL_D, [1], [1], seen_in_the_clear())
    view = server_view(tmp_path)
    for ask in (view.model_before, view.participants, view.sums, view.updates):
        for number in (1, -1):
            with pytest.raises(ViewError, match=f"kept no view of round {number}; run it with records.views = 'sums'"):
                ask(number)
    with pytest.raises(ViewError, match="has no final model yet; finish the run with --resume"):
        view.final_model()


def test_files_that_are_damaged_or_another_model_s(tmp_path: Path) -> None:
    (tmp_path / "views").mkdir()
    for path in (tmp_path / "views" / "round_00000.safetensors", tmp_path / "model.safetensors"):
        path.write_bytes(b"\x00" * 5)
    view = server_view(tmp_path)
    with pytest.raises(RunFolderError, match=r"round_00000\.safetensors: is damaged"):
        view.model_before(0)
    with pytest.raises(RunFolderError, match=r"model\.safetensors: is damaged"):
        view.final_model()


def test_transcripts_are_kept_attempt_by_attempt_and_replace_what_a_broken_run_left(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    observe_transcripts(folder, 3, [{"masked_KD": torch.ones(2, 6)}, {"masked_KD": torch.zeros(1, 6)}])
    view = server_view(tmp_path)
    assert [len(one["masked_KD"]) for one in view.transcripts(3)] == [2, 1]
    observe_transcripts(folder, 3, [{"masked_KD": torch.ones(3, 6)}])
    view = server_view(tmp_path)
    assert [len(one["masked_KD"]) for one in view.transcripts(3)] == [3]
    with pytest.raises(ViewError, match=r"kept no transcript of round 2; run it with aggregator\.kind = 'secure_sum'"):
        view.transcripts(2)


def test_the_server_sees_what_a_real_one_would_have_been_sent(tmp_path: Path) -> None:
    folder = run(config("secure_sum", records={"views": "all"}), tmp_path / "run")
    view = open_view(folder, "server", Layout(("1.weight", "1.bias"), ((10, 64), (10,))))
    assert isinstance(view, ServerView)
    (sent,) = view.transcripts(0)
    clients = view.participants(0)
    assert sent["clients_K"].tolist() == sent["masked_clients_K"].tolist() == view.survivors(0) == clients
    assert sent["masked_KD"].shape == (3, 10 * 64 + 10 + 1)
    # Of 1,953 uniform words none is expected to be as small as these updates, and ten with a chance below 1e-20.
    assert (sent["masked_KD"].abs() < 2**20).sum() < 10
    assert sorted(zip(sent["box_sender_M"].tolist(), sent["box_receiver_M"].tolist(), strict=True)) == [
        (one, other) for one in clients for other in clients if one != other
    ]
    # Each of three reveals one share of each survivor's seed, and no share of a key.
    assert sent["kind_R"].tolist() == [0] * 9


def test_sums_without_transcripts(tmp_path: Path) -> None:
    folder = run(config("secure_sum"), tmp_path / "run")
    assert (folder.path / "views").exists()
    assert not (folder.path / "transcripts").exists()


# --- real runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def handed_in(monkeypatch: pytest.MonkeyPatch) -> list[list[ClientUpdate]]:
    """Every single update that clients hand in, round by round, as the simulation knows it."""
    kept: list[list[ClientUpdate]] = []
    for kind in ("mean", "secure_sum"):
        item: type[Aggregator] = SHELVES["aggregator"].find(kind)
        real = item.collect

        def spy(self: Aggregator, updates: list[ClientUpdate], context: RoundContext, real: object = real) -> Aggregate:
            kept.append(list(updates))
            return real(self, updates, context)  # type: ignore[operator, no-any-return]

        monkeypatch.setattr(item, "collect", spy)
    return kept


def config(aggregator: str, **changes: object) -> ExperimentConfig:
    server, cohort = {"kind": "fedavg"}, {"kind": "fixed", "size": 3}
    return small(rounds=ROUNDS, aggregator={"kind": aggregator}, server=server, cohort=cohort, **changes)


def holds(path: Path, vector_D: Tensor) -> bool:
    """Whether a tensor in the file has this vector, or a multiple of it, as itself or as one of its rows."""
    for tensor in load_file(path).values():
        if tensor.shape[-1:] == vector_D.shape:
            cosine = torch.nn.functional.cosine_similarity(tensor.double().reshape(-1, len(vector_D)), vector_D.double())
            if bool((cosine.abs() > 0.999).any()):
                return True
    return False


def test_under_secure_aggregation_no_single_update_is_in_any_view(handed_in: list[list[ClientUpdate]], tmp_path: Path) -> None:
    folder = run(config("secure_sum"), tmp_path / "run")
    files = sorted((folder.path / "views").iterdir())
    assert len(files) == len(handed_in) == ROUNDS
    for path, updates in zip(files, handed_in, strict=True):
        assert len(updates) == 3
        for update in updates:
            assert not holds(path, update.delta_D)
    # What it sees instead is the truth about the sum.
    layout = Layout(("1.weight", "1.bias"), ((10, 64), (10,)))
    view = open_view(folder, "server", layout)
    assert isinstance(view, ServerView)
    for number, updates in enumerate(handed_in):
        sum_D, weight = view.sums(number)
        exact_D = torch.stack([update.weight * update.delta_D.double() for update in updates]).sum(0)
        assert weight == pytest.approx(sum(update.weight for update in updates), abs=1e-5)
        assert float((sum_D - exact_D).abs().max()) < 1e-5
        assert view.participants(number) == [update.client for update in updates]


def test_the_search_above_does_find_an_update_in_the_clear(handed_in: list[list[ClientUpdate]], tmp_path: Path) -> None:
    folder = run(config("mean"), tmp_path / "run")
    for path, updates in zip(sorted((folder.path / "views").iterdir()), handed_in, strict=True):
        assert all(holds(path, update.delta_D) for update in updates)


def test_final_only_keeps_the_final_model_only(tmp_path: Path) -> None:
    folder = run(config("mean", records={"views": "final"}), tmp_path / "run")
    assert not (folder.path / "views").exists()
    layout = Layout(("1.weight", "1.bias"), ((10, 64), (10,)))
    view = open_view(folder, "client", layout)
    assert isinstance(view, ClientView)
    assert view.final_model().shape == (650,)
    for number in range(ROUNDS):
        with pytest.raises(ViewError, match="kept no view"):
            view.model_before(number)


def test_a_client_sees_every_global_model(tmp_path: Path) -> None:
    folder = run(config("secure_sum", privacy={**SMALL["privacy"]}), tmp_path / "run")
    layout = Layout(("1.weight", "1.bias"), ((10, 64), (10,)))
    view = open_view(folder, "client", layout)
    assert isinstance(view, ClientView)
    models = [*(view.model_before(number) for number in range(ROUNDS)), view.final_model()]
    # One more than there are rounds, all different.
    assert len({tuple(np.round(model.tolist(), 9)) for model in models}) == ROUNDS + 1
