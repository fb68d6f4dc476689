"""Queries of one example: which they are, and a table of answers of which little is in memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attacks.membership.lira import over_queries
from privfl.errors import ConfigError
from privfl.running import queries
from privfl.running.queries import MOST, Answers, QuerySignals, digest, query, require_images


def test_the_queries_of_an_image() -> None:
    image = torch.arange(20.0).view(1, 1, 4, 5)
    assert torch.equal(query(image, 0), image)
    assert torch.equal(query(image, 1), image.flip(3))
    # A pixel to the right; the border is a reflection.
    right = query(image, 2)
    assert torch.equal(right[..., 1:], image[..., :-1])
    assert torch.equal(right[..., 0], image[..., 1])
    assert torch.equal(query(image, 4)[..., :-1], image[..., 1:])
    assert torch.equal(query(image, 6)[..., 1:, :], image[..., :-1, :])
    assert len({tuple(query(image, number).flatten().tolist()) for number in range(MOST)}) == MOST == 18
    assert all(query(image, number).shape == image.shape for number in range(MOST))


def test_only_images_have_several() -> None:
    require_images((1, 28, 28), 18, "x")
    require_images((13,), 1, "x")
    with pytest.raises(
        ConfigError, match=r"^x: queries = 2 asks for mirrored and shifted images, .* \(13,\) are none; set queries"
    ):
        require_images((13,), 2, "x")


def table(
    folder: Path, shadows: int, candidates: int, asked: int
) -> tuple[QuerySignals, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Signals of the target, which comes last, and of shadow models."""
    answers_MQN = np.random.default_rng(0).normal(size=(shadows + 1, asked, candidates)).astype(np.float32)
    found = []
    for place, answers_QN in enumerate(answers_MQN):
        path, vector_D = folder / f"{place}.safetensors", torch.full((1,), float(place))
        save_file({"signals_QN": torch.from_numpy(answers_QN)}, path, metadata={"of": digest(vector_D)})
        kept = Answers.kept(path, vector_D)
        assert kept is not None
        found.append(kept)
    return QuerySignals(found[-1], found[:-1]), answers_MQN


def test_the_table_is_read_query_by_query_and_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signals, answers_MQN = table(tmp_path, 3, 7, 4)
    for number in range(4):
        target_N, shadow_SN = signals.at(number)
        assert np.array_equal(target_N, answers_MQN[3, number])
        assert np.array_equal(shadow_SN, answers_MQN[:3, number])
    monkeypatch.setattr(queries, "_NUMBERS", 20)
    parts = list(signals.parts(2))
    assert [(here.start, here.stop) for here, _, _ in parts] == [(0, 3), (3, 6), (6, 7)]
    assert np.array_equal(np.concatenate([one for _, one, _ in parts], 1), answers_MQN[3, :2])
    assert np.array_equal(np.concatenate([one for _, _, one in parts], 2), answers_MQN[:3, :2])


def test_another_model_s_or_a_damaged_file_is_none(tmp_path: Path) -> None:
    table(tmp_path, 1, 5, 2)
    path = tmp_path / "0.safetensors"
    assert Answers.kept(path, torch.zeros(1)) is not None
    assert Answers.kept(path, torch.ones(1)) is None
    assert Answers.kept(tmp_path / "none.safetensors", torch.zeros(1)) is None
    path.write_bytes(path.read_bytes()[:60])
    assert Answers.kept(path, torch.zeros(1)) is None


def test_an_attack_on_many_queries_has_little_of_the_table_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of 24 shadows × 6,000 candidates × 18 queries is more than it ever holds, but for what one query needs."""
    shadows, candidates = 24, 6_000
    signals, _ = table(tmp_path, shadows, candidates, MOST)
    member_SN = np.random.default_rng(1).random((shadows, candidates)) < 0.5
    monkeypatch.setattr(queries, "_NUMBERS", 2**16)
    tracemalloc.start()
    try:
        scores = over_queries(signals, member_SN, MOST)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(np.isfinite(scores_N).all() for scores_N in scores.values())
    one_query, whole = 8 * shadows * candidates, 8 * shadows * candidates * MOST
    assert peak < whole / 2
    assert peak < 8 * one_query
