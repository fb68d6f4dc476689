"""Flower's SecAgg+ from its own components, for a comparison side by side; needs ``flwr``.

The client is Flower's own functions for its four stages. The server's unmasking is the loop of its workflow
(``secaggplus_workflow.py``, ``unmask_stage``) over the same components, without the workflow's transport.
"""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FlowerSeconds:
    """CPU seconds of the mean client over its whole round, and of the server's unmasking."""

    client: float
    unmasking: float


def installed() -> bool:
    """Whether Flower and what its components need can be imported."""
    try:
        import flwr.client.mod.secure_aggregation.secaggplus_mod  # noqa: F401
    except ImportError:
        return False
    return True


def measure(clients: int, dimension: int, dropped: int, neighbours: int, threshold: int, sampled: int) -> FlowerSeconds:
    """One round over a ring of ``neighbours`` (even) on each client's sides, ``dropped`` lost before they send a vector."""
    # The package gives the module's name to a function of it.
    mod: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    from flwr.common import ndarrays_to_parameters
    from flwr.common.secure_aggregation.secaggplus_constants import Key

    logging.getLogger("flwr").setLevel(logging.ERROR)
    configs: dict[str, Any] = {
        Key.SAMPLE_NUMBER: clients,
        Key.SHARE_NUMBER: neighbours + 1,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 1 << 22,
        Key.MOD_RANGE: 1 << 32,
        Key.MAX_WEIGHT: 1000.0,
    }
    near = {
        client: sorted({(client + step) % clients for step in range(-(neighbours // 2), neighbours // 2 + 1)})
        for client in range(clients)
    }
    clock, seconds = time.process_time, dict.fromkeys(range(sampled), 0.0)
    states, keys, boxes = {}, {}, {}
    for client in range(clients):
        begun = clock()
        states[client] = mod.SecAggPlusState(nid=client)
        found: Any = mod._setup(states[client], configs)
        if client in seconds:
            seconds[client] += clock() - begun
        keys[client] = (found[Key.PUBLIC_KEY_1], found[Key.PUBLIC_KEY_2])
    for client in range(clients):
        asked: Any = {str(peer): keys[peer] for peer in near[client]}
        begun = clock()
        found = mod._share_keys(states[client], asked)
        if client in seconds:
            seconds[client] += clock() - begun
        boxes[client] = dict(zip(found[Key.DESTINATION_LIST], found[Key.CIPHERTEXT_LIST], strict=True))
    update = np.random.default_rng(0).normal(scale=0.01, size=dimension).astype(np.float32)
    survivors = list(range(clients - dropped))
    for client in survivors:
        others = [peer for peer in near[client] if peer != client]
        asked = {Key.SOURCE_LIST: others, Key.CIPHERTEXT_LIST: [boxes[peer][client] for peer in others]}
        if client in seconds:
            begun = clock()
            mod._collect_masked_vectors(states[client], asked, 500, ndarrays_to_parameters([update]))
            seconds[client] += clock() - begun
        else:
            _keep_shares(mod, states[client], asked)
    reveals = []
    for client in survivors:
        asked = {
            Key.ACTIVE_NODE_ID_LIST: [peer for peer in near[client] if peer < len(survivors)],
            Key.DEAD_NODE_ID_LIST: [peer for peer in near[client] if peer >= len(survivors)],
        }
        begun = clock()
        reveals.append(mod._unmask(states[client], asked))
        if client in seconds:
            seconds[client] += clock() - begun
    begun = clock()
    _unmask(reveals, near, keys, len(survivors), threshold, dimension)
    return FlowerSeconds(sum(seconds.values()) / sampled, clock() - begun)


def _keep_shares(mod: Any, state: Any, asked: dict[str, Any]) -> None:
    """What a client that is not measured keeps of the boxes."""
    from flwr.common.secure_aggregation.secaggplus_constants import Key

    for source, box in zip(asked[Key.SOURCE_LIST], asked[Key.CIPHERTEXT_LIST], strict=True):
        plaintext = mod.decrypt(state.ss2_dict[source], box)
        _, _, state.rd_seed_share_dict[source], state.sk1_share_dict[source] = mod.share_keys_plaintext_separate(plaintext)


def _unmask(
    reveals: list[Any],
    near: dict[int, list[int]],
    keys: dict[int, tuple[bytes, bytes]],
    survivors: int,
    threshold: int,
    dimension: int,
) -> None:
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod, parameters_subtraction
    from flwr.common.secure_aggregation.quantization import dequantize
    from flwr.common.secure_aggregation.secaggplus_constants import Key
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

    collected: dict[int, list[bytes]] = {client: [] for client in near}
    for one in reveals:
        for owner, share in zip(one[Key.NODE_ID_LIST], one[Key.SHARE_LIST], strict=True):
            collected[owner].append(share)
    total = [np.zeros(dimension, np.int64)]
    for client, shares in collected.items():
        if len(shares) < threshold:
            raise RuntimeError(f"client {client}: {len(shares)} shares, at least {threshold} are needed")
        secret = combine_shares(shares)
        if client < survivors:
            total = parameters_subtraction(total, pseudo_rand_gen(secret, 1 << 32, [(dimension,)]))
            continue
        for peer in near[client]:
            if peer == client:
                continue
            shared = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(keys[peer][0]))
            mask = pseudo_rand_gen(shared, 1 << 32, [(dimension,)])
            total = parameters_addition(total, mask) if client > peer else parameters_subtraction(total, mask)
    dequantize(parameters_mod(total, 1 << 32), 8.0, 1 << 22)
