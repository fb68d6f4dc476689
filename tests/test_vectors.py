"""A model goes into one vector and comes out of it bit for bit, or not at all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from privfl.errors import ModelError
from privfl.shelves import SHELVES
from privfl.vectors import Layout, are_finite, constants, load_vector, state_of, to_vector


def build(kind: str, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10) -> nn.Module:
    taken = (28,) if kind in ("lstm", "transformer") else shape
    module: nn.Module = SHELVES["model"].find(kind)(kind=kind).build(taken, classes)
    return module


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))


@pytest.mark.parametrize("kind", SHELVES["model"].names())
def test_there_and_back(kind: str) -> None:
    torch.manual_seed(0)
    one, other = build(kind), build(kind)
    vector_D = to_vector(one)
    layout = Layout.of(one)
    assert vector_D.shape == (layout.size,)
    assert vector_D.dtype == torch.float32
    assert not torch.equal(vector_D, to_vector(other))
    load_vector(other, vector_D)
    for (name, mine), (same, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert name == same
        assert torch.equal(mine, theirs)
    assert torch.equal(to_vector(other), vector_D)
    assert torch.equal(layout.flatten(layout.unflatten(vector_D)), vector_D)


def test_the_order_is_that_of_the_parameters(model: nn.Module) -> None:
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    assert torch.equal(to_vector(model), expected)
    assert Layout.of(model) == Layout(("0.weight", "0.bias", "2.weight", "2.bias"), ((2, 3), (2,), (2, 2), (2,)))


def test_memory_layout_does_not_change_the_vector() -> None:
    one = build("cnn")
    vector_D = to_vector(one)
    last = one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.equal(to_vector(last), vector_D)
    load_vector(last, 2 * vector_D)
    assert torch.equal(to_vector(last), 2 * vector_D)


def test_the_vector_is_a_copy_and_loading_needs_no_graph(model: nn.Module) -> None:
    vector_D = to_vector(model)
    assert not vector_D.requires_grad
    vector_D.zero_()
    assert bool((to_vector(model) != 0).any())
    load_vector(model, vector_D)
    vector_D.fill_(1)
    assert not bool(to_vector(model).any())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=5))
def test_any_layout_there_and_back(shapes: list[list[int]]) -> None:
    layout = Layout(tuple(f"p{index}" for index in range(len(shapes))), tuple(map(tuple, shapes)))
    assert layout.size == sum(math.prod(shape) for shape in shapes)
    vector_D = torch.arange(float(layout.size))
    parts = layout.unflatten(vector_D)
    assert [tuple(part.shape) for part in parts.values()] == list(layout.shapes)
    # The order in which a mapping lists its tensors is not trusted.
    assert torch.equal(layout.flatten(dict(reversed(parts.items()))), vector_D)


@pytest.mark.parametrize("shape", [(0,), (13,), (15,), (14, 1), (1, 14), ()])
def test_a_vector_of_another_shape_is_refused_and_changes_nothing(shape: tuple[int, ...], model: nn.Module) -> None:
    before_D = to_vector(model)
    assert before_D.shape == (14,)
    with pytest.raises(ModelError, match="came for a model of 14 parameters"):
        load_vector(model, torch.zeros(shape))
    assert torch.equal(to_vector(model), before_D)


def named(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def test_names_and_shapes_are_checked(model: nn.Module) -> None:
    layout = Layout.of(model)
    missing = named(model)
    del missing["0.bias"]
    with pytest.raises(ModelError, match=r"0\.bias is missing or unknown"):
        layout.flatten(missing)
    with pytest.raises(ModelError, match="extra is missing or unknown"):
        layout.flatten({**named(model), "extra": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"0\.bias, 1\.bias is missing or unknown"):
        layout.flatten({**missing, "1.bias": torch.zeros(2)})
    # Right in number, wrong in shape: a transposed matrix would otherwise slip in.
    with pytest.raises(ModelError, match=r"0\.weight has shape \(3, 2\); the model's is \(2, 3\)"):
        layout.flatten({**named(model), "0.weight": torch.zeros(3, 2)})


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.InstanceNorm1d(2, track_running_stats=True)])
def test_state_outside_the_parameters_is_refused(layer: nn.Module) -> None:
    stateful = nn.Sequential(nn.Linear(2, 2), layer)
    for use in (Layout.of, to_vector, lambda model: load_vector(model, torch.zeros(10))):
        with pytest.raises(ModelError, match=r"1\.running_mean is written by a layer .*replace BatchNorm by GroupNorm"):
            use(stateful)


class Parts(nn.Module):
    """A frozen layer, one that is trained, a second by its weight, and buffers, of which one is in no file."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.first, self.second = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("mean", torch.randn(2))
        self.mean: Tensor
        self.register_buffer("angles", torch.randn(2), persistent=False)


def test_what_is_trained_is_a_vector_and_the_rest_is_constant() -> None:
    module = Parts()
    layout = Layout.of(module)
    assert layout.names == ("first.weight", "first.bias", "second.bias")
    assert layout.size == len(to_vector(module)) == 8
    assert set(constants(module)) == {"frozen.weight", "frozen.bias", "mean", "angles"}
    before = {name: value.clone() for name, value in constants(module).items()}
    load_vector(module, torch.arange(8.0))
    assert torch.equal(to_vector(module), torch.arange(8.0))
    assert all(torch.equal(value, before[name]) for name, value in constants(module).items())


def test_a_state_has_a_vectors_numbers_under_each_name_and_the_constants() -> None:
    """Whatever the module itself holds, and in memory that nothing else writes."""
    module, other = Parts(), Parts()
    state = state_of(module, torch.arange(8.0))
    assert set(state) == set(module.state_dict())
    other.load_state_dict(state)
    assert torch.equal(to_vector(other), torch.arange(8.0))
    assert torch.equal(other.second.weight, torch.arange(4.0).view(2, 2))
    assert torch.equal(other.frozen.weight, module.frozen.weight)
    assert torch.equal(other.mean, module.mean)
    assert not torch.equal(to_vector(module), torch.arange(8.0))
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(state)


def test_a_model_that_trains_nothing_has_no_layout() -> None:
    for module in (nn.Flatten(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(ModelError, match="none of the model's parameters requires a gradient"):
            Layout.of(module)


def test_digests_tell_layouts_apart(model: nn.Module) -> None:
    layout = Layout.of(model)
    same = Layout(layout.names, layout.shapes)
    assert same.digest() == layout.digest()
    assert len(layout.digest()) == 32
    renamed = Layout(("a", *layout.names[1:]), layout.shapes)
    transposed = Layout(layout.names, ((3, 2), *layout.shapes[1:]))
    swapped = Layout(layout.names[::-1], layout.shapes)
    assert len({one.digest() for one in (layout, renamed, transposed, swapped)}) == 4


def test_each_vector_is_told_apart_and_a_sum_that_overflows_is_finite() -> None:
    """Two numbers of 3e38 add up to infinity in float32."""
    fine, large = torch.tensor([1.0, -2.0]), torch.tensor([3e38, 3e38])
    bad = [torch.tensor([1.0, value]) for value in (torch.nan, torch.inf, -torch.inf)]
    assert are_finite([fine, bad[0], large, bad[1], bad[2], fine]) == [True, False, True, False, False, True]
    assert are_finite([torch.tensor([torch.inf, -torch.inf])]) == [False]
    assert are_finite([]) == []
