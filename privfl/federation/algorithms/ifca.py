"""IFCA: each client trains the global model that has the least loss on its examples (Ghosh et al. 2020)."""

from __future__ import annotations

from typing import ClassVar

from privfl.federation.clusters import Clustered


class Ifca(Clustered):
    """Iterative federated clustering, algorithm 1, model averaging: j_k = argmin_j f_k(x_j); x_j ← mean of y_k over j_k = j.

    The models begin with different random weights. The loss is the mean over a client's training examples. If two models have
    the same loss, it is the first. A client that was never asked is placed by the same rule.

    **Privacy.** The choice depends on the client's examples. A client-level plan covers it, because it is in the clipped vector
    alone. An example-level plan does not, and is refused.
    """

    starts_apart: ClassVar[bool] = True
    by_loss: ClassVar[bool] = True
