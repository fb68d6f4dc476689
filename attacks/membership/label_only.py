"""Label-only attacks: the answers to changed inputs, and the distance to the boundary (Choquette-Choo et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from attacks import Attack
from attacks.membership import FloatArray, classes_of
from privfl.adversaries import Adversary
from privfl.auditing.questions.membership import MembershipClaim
from privfl.errors import ConfigError
from privfl.running.knowledge import Knowledge, Prospect
from privfl.running.queries import MOST, query
from privfl.running.views import View

IntArray = NDArray[np.int64]


class LabelOnly(Attack):
    """Does the model keep the right answer if the example is changed? It is asked for nothing but its decisions.

    No shadow models: their decisions on changed inputs are not recorded, so that the paper's classifier on them is replaced by
    the number of right answers. The distance needs no classifier.

    Variants:
        ``augmentation``: the share of right answers to the example, its mirror image and both shifted by a pixel, 18 in all
            (section 3.2); only for images.
        ``distance``: the Euclidean distance to the nearest input that was found with another answer, 0 if the answer is wrong
            (section 3.3). It is found as HopSkipJump finds it (Chen et al. 2020, algorithm 2), in the units of the model's
            inputs: a line from the example to the nearest fresh example with another answer is halved until it meets the
            boundary; random steps around that point say in which direction the other answer lies.

    Args:
        iterations: the number of steps along the boundary.
        directions: the number of random steps in each.
    """

    adversary: ClassVar[Adversary] = "external"

    question: ClassVar[str] = "membership"

    threat: ClassVar[str] = "An adversary that the final model tells only its decisions wants to know who was trained on."

    needs: ClassVar[str] = "the final model's decisions, fresh data; a task with classes"

    cost: ClassVar[str] = "some hundred passes forward over the candidates"

    iterations: Annotated[int, Field(ge=0)] = 5

    directions: Annotated[int, Field(ge=2)] = 40

    def require_possible(self, prospect: Prospect) -> None:
        """See :class:`attacks.Attack`: the task has classes, and inputs are numbers."""
        network = prospect.network
        classes_of(self, network.task, np.zeros((1, *network.outputs), np.float32))
        if any(isinstance(layer, nn.Embedding) for layer in network.module.modules()):
            raise ConfigError(
                f"attacks.run: {self.kind!r} moves inputs a little, and those of this model are tokens; take it out"
            )
        super().require_possible(prospect)

    def run(self, view: View, knowledge: Knowledge) -> MembershipClaim:
        """See :class:`attacks.Attack`."""
        network, final_D, candidates = knowledge.network, view.final_model(), knowledge.candidates

        def decide(x: Tensor) -> IntArray:
            log_nC = classes_of(self, network.task, network.logits(final_D, x))
            return np.asarray(log_nC.argmax(1))

        fresh_x = knowledge.population.x[:]
        boundary = Boundary(decide, fresh_x, self.iterations, self.directions)
        augmented, distances = list[FloatArray](), list[FloatArray]()
        for start in range(0, len(candidates), _AT_ONCE):
            x = candidates.x[start : start + _AT_ONCE]
            labels_n = candidates.y_N[start : start + _AT_ONCE].reshape(-1)
            if x.ndim == 4 and min(x.shape[2:]) > 1:
                augmented.append(np.mean([decide(query(x, number)) == labels_n for number in range(MOST)], axis=0))
            distances.append(boundary.distances(x, labels_n))
        found = {"augmentation": np.concatenate(augmented)} if augmented else {}
        return MembershipClaim({**found, "distance": np.concatenate(distances)})


class Boundary:
    """The boundary of a model's decisions, searched by decisions alone.

    Args:
        decide: the class of each of some inputs.
        fresh_x: P inputs, among which the search for another answer begins.
        iterations: the number of steps along the boundary.
        directions: the number of random steps in each.
    """

    def __init__(self, decide: Callable[[Tensor], IntArray], fresh_x: Tensor, iterations: int, directions: int) -> None:
        self._decide, self._fresh_x, self._iterations, self._directions = decide, fresh_x, iterations, directions
        self._fresh_P = decide(fresh_x)
        self._generator = torch.Generator().manual_seed(0)

    def distances(self, x: Tensor, labels_n: NDArray[Any]) -> FloatArray:
        """An upper bound on the distance of each input to the nearest one with another answer, of shape (n,).

        It is 0 if the answer is not the label. If no fresh example has another answer, it is the distance to the farthest.
        """
        distance_n = np.zeros(len(x))
        right_n = self._decide(x) == labels_n
        if not right_n.any():
            return distance_n
        chosen = torch.from_numpy(np.flatnonzero(right_n)).to(x.device)
        inputs, answers_m = x[chosen], labels_n[right_n]
        away_mP = torch.cdist(inputs.flatten(1), self._fresh_x.flatten(1))
        other_mP = torch.from_numpy(self._fresh_P != answers_m[:, None]).to(x.device)
        known_m = other_mP.any(1)
        nearest_m = torch.where(other_mP, away_mP, torch.inf).argmin(1)
        points = self._onto(inputs, self._fresh_x[nearest_m], answers_m)
        best_m = _norms(points - inputs)
        for number in range(1, self._iterations + 1):
            points = self._step(inputs, points, answers_m, number)
            best_m = torch.minimum(best_m, _norms(points - inputs))
        distance_n[right_n] = torch.where(known_m, best_m, away_mP.max(1).values).double().cpu().numpy()
        return distance_n

    def _other(self, x: Tensor, answers_m: NDArray[Any]) -> Tensor:
        """Whether another answer than these is given, of shape (m,)."""
        return torch.from_numpy(self._decide(x) != answers_m).to(x.device)

    def _onto(self, inputs: Tensor, others: Tensor, answers_m: NDArray[Any]) -> Tensor:
        """The points with another answer that are nearest to the boundary, on the lines from inputs to others."""
        low_m, high_m = torch.zeros(len(inputs), device=inputs.device), torch.ones(len(inputs), device=inputs.device)
        for _ in range(_HALVINGS):
            middle_m = (low_m + high_m) / 2
            other_m = self._other(inputs + _scaled(middle_m, others - inputs), answers_m)
            low_m, high_m = torch.where(other_m, low_m, middle_m), torch.where(other_m, middle_m, high_m)
        return inputs + _scaled(high_m, others - inputs)

    def _step(self, inputs: Tensor, points: Tensor, answers_m: NDArray[Any], number: int) -> Tensor:
        """From points at the boundary into the other side, as far as the answer stays another, and back onto the boundary."""
        distance_m = _norms(points - inputs)
        directions = self._normals(points, answers_m, _PROBE * distance_m)
        length_m = distance_m / number**0.5
        found = points.clone()
        open_m = torch.ones(len(points), dtype=torch.bool, device=points.device)
        for _ in range(_HALVINGS):
            moved = points + _scaled(length_m, directions)
            reached_m = open_m & self._other(moved, answers_m)
            found[reached_m], open_m = moved[reached_m], open_m & ~reached_m
            length_m = length_m / 2
        return self._onto(inputs, found, answers_m)

    def _normals(self, points: Tensor, answers_m: NDArray[Any], radius_m: Tensor) -> Tensor:
        """The direction to the other side at each point, of length 1, by random steps (equation 16)."""
        total, plain, sign_m = torch.zeros_like(points), torch.zeros_like(points), torch.zeros_like(radius_m)
        for _ in range(self._directions):
            step = torch.randn(points.shape, generator=self._generator).to(points)
            step = _scaled(1 / _norms(step), step)
            answer_m = 2.0 * self._other(points + _scaled(radius_m, step), answers_m) - 1
            total += _scaled(answer_m, step)
            plain += step
            sign_m += answer_m / self._directions
        # The mean of all answers is taken off, which leaves nothing if all are alike.
        mixed_m = (sign_m.abs() < 1 - _TINY).to(points)
        centred = total - _scaled(mixed_m * sign_m, plain)
        return _scaled(1 / _norms(centred).clamp(min=_TINY), centred)


def _norms(x: Tensor) -> Tensor:
    """Euclidean norms, of shape (m,)."""
    norms_m: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms_m


def _scaled(factor_m: Tensor, x: Tensor) -> Tensor:
    """Each example times its factor."""
    return factor_m.view(-1, *[1] * (x.ndim - 1)) * x


_AT_ONCE: Final = 1000

_HALVINGS: Final = 12

_TINY: Final = 1e-6

_PROBE: Final = 0.05
"""Length of a random step, as a share of the distance."""
