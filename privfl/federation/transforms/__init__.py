"""SHELF of transforms, which compress what clients send. An item's name in a configuration is its file's.

``transform = "identity"`` is the default: payloads are sent whole.

A transform acts on a client's joined payload, of length D', between the algorithm and the plan. It is applied in this order:

1. The client adds the *memory*, the compression error of its last uploads, if the transform has one.
2. The client compresses the sum, and keeps the new error.
3. The plan clips the message, and noises it or its sum.
4. The aggregator combines the messages. The server restores the result to length D'.

The plan's clip comes last at the client, so that one client moves a sum by at most the clipping norm, whatever its memory
holds. Under an example-level plan the payload has its noise before step 1, and the rest is post-processing.

A *linear* transform is a linear map with public coefficients. Its messages, vectors of M numbers, are added by any aggregator,
secure ones included, and the plan's noise is on M numbers. The message of any other transform is decoded by itself: the
aggregator is given the decoded vectors of length D', and the noise of a trusted server is on all D' numbers. Such a decoded
vector is a multiple of a scale that is sent with it, so that a client clips it by changing that scale.

An item is one module with one class that derives from :class:`Transform`. Randomness is an argument.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privfl.config import ExperimentConfig, UploadTransformConfig
from privfl.federation.algorithms import Algorithm
from privfl.federation.client_states import refuse_secret_cohorts
from privfl.federation.payload import UPDATE
from privfl.seeding import Seed
from privfl.tables import contradiction, narrow
from privfl.vectors import Layout

State = dict[str, Tensor]

Share = Annotated[float, Field(gt=0, le=1)]
"""A share of the entries of a payload."""


def count_of(share: float, size: int) -> int:
    """The number of entries that a share of ``size`` entries is; at least one."""
    return max(1, min(size, round(share * size)))


@dataclass(frozen=True)
class Shared:
    """Facts of a round that all clients and the server know.

    Args:
        layout: names and shapes of the payload, of length D'.
        state: the transform's state, which is made of released values only.
        stream: public randomness of this round, independent of all data.
    """

    layout: Layout
    state: State
    stream: Seed


class Transform(UploadTransformConfig, ABC):
    """A compressor; the defaults are those of one without state."""

    linear: ClassVar[bool]
    """Whether it is a linear map with public coefficients, so that a sum of messages is the message of the sum."""

    remembers: ClassVar[bool] = False
    """Whether a client adds the compression error of its last uploads to the next one."""

    def check(self, config: ExperimentConfig) -> None:
        """Raise unless the transform works with plan, aggregator, cohort and algorithm.

        Raises:
            PydanticCustomError: names the key, the value, and what is allowed.
        """
        if not self.linear:
            self._check_decoded(config)
        if getattr(getattr(config.privacy, "clipping", None), "kind", "flat") == "per_layer" and config.privacy.clips_messages:
            raise contradiction(
                "privacy.clipping.kind",
                "per_layer",
                f"clips each layer of an update, and a message of transform {self.kind!r} has no layers; set 'flat'",
            )
        if self.remembers:
            refuse_secret_cohorts(config, f"transform {self.kind!r}")
        algorithm, probe = narrow(config.algorithm, Algorithm), Layout(("probe",), ((2,),))
        if algorithm.models > 1:
            raise contradiction(
                "transform.kind",
                self.kind,
                f"algorithm {algorithm.kind!r} has several global models, whose slots cannot be compressed; set "
                "transform = 'identity', or algorithm = 'fedavg'",
            )
        parts = algorithm.parts(probe)
        numbers = [name for name, layout in parts.items() if name != UPDATE and layout.size != probe.size]
        if numbers:
            raise contradiction(
                "transform.kind",
                self.kind,
                f"algorithm {algorithm.kind!r} uploads a number ({numbers[0]}) beside the update, which compression "
                "would change; set transform = 'identity', or algorithm = 'fedavg'",
            )

    def _check_decoded(self, config: ExperimentConfig) -> None:
        if not getattr(config.aggregator, "decodes", True):
            raise contradiction(
                "transform.kind",
                self.kind,
                f"its messages cannot be added up before they are decoded, as aggregator {config.aggregator.kind!r} does; set "
                "transform.kind = 'random_k', 'power_sgd' or 'count_sketch', which are linear, or aggregator.kind = 'mean'",
            )
        if config.privacy.clips_messages and config.privacy.noises_messages:
            raise contradiction(
                "transform.kind",
                self.kind,
                f"the noise that {config.privacy.kind!r} adds at the client to all entries would undo the compression; set "
                "transform.kind = 'random_k', 'power_sgd' or 'count_sketch', whose noise is on the entries that are sent, "
                "or privacy.kind = 'client_central'",
            )

    def init(self, layout: Layout, stream: Seed) -> State:  # noqa: ARG002
        """The public state before the first round.

        Args:
            layout: that of the payload.
            stream: public randomness.
        """
        return {}

    def message(self, layout: Layout) -> Layout:
        """Names and shapes of the vector that the aggregator is given, of length M; D' unless the transform is linear."""
        return layout

    def message_bytes(self, layout: Layout) -> int:
        """The bytes of one message on the wire; a linear one is sent as float32.

        Args:
            layout: that of the payload.
        """
        return 4 * self.message(layout).size

    @abstractmethod
    def compress(self, payload_D: Tensor, shared: Shared, own: Seed) -> Tensor:
        """A client's message, shape (M,); if the transform is not linear, the vector that the server decodes it to.

        Args:
            payload_D: the joined payload, memory included, shape (D',).
            shared: the public facts.
            own: randomness of this client and round.
        """

    def restore(self, message_M: Tensor, shared: Shared) -> Tensor:  # noqa: ARG002
        """The payload that a message, or a mean of messages, stands for, shape (D',); it is linear in the message."""
        return message_M

    def at_server(self, mean_M: Tensor, shared: Shared) -> tuple[Tensor, State]:
        """The mean payload, shape (D',), and the next public state, from the released mean of the messages.

        Args:
            mean_M: the plan's release.
            shared: the public facts of the round that ends.
        """
        return self.restore(mean_M, shared), shared.state

    def sent(self, payload_D: Tensor, error_D: Tensor | None, shared: Shared, own: Seed) -> tuple[Tensor, Tensor | None]:
        """A client's message, and its memory after the upload: e⁺ = v − restore(message) with v = payload + e.

        Args:
            payload_D: the joined payload, shape (D',).
            error_D: the memory e, shape (D',); None: nothing was compressed yet.
            shared: the public facts.
            own: randomness of this client and round.
        """
        if not self.remembers:
            return self.compress(payload_D, shared, own), None
        whole_D = payload_D if error_D is None else payload_D + error_D.to(payload_D)
        message_M = self.compress(whole_D, shared, own)
        return message_M, whole_D - self.restore(message_M, shared)
