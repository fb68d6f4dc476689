"""Certificate of a round: a number of neighbours k and a threshold t that are enough, and the probabilities that they fail.

n of the N clients of a cohort are in the roster. At most c = max(1, ⌈γn⌉) of them are corrupt, and at most l = ⌊δn⌋ are lost.
The choice of both does not depend on the graph, except that an active server may choose who is lost. Three things may fail:

shares        c corrupt clients hold t shares of some client's secrets
disconnected  the honest survivors fall into parts that do not mask with each other, and the server learns the sum of each part
recovery      fewer than t holders of some client's shares survive, and the round is lost

**Semi-honest server, sparse.** The graph is circulant over a random order of the clients (Bell et al. 2020, "Secure
Single-Server Aggregation with (Poly)Logarithmic Overhead", section 3). It is disconnected only if two runs of k/2 neighbours on
the ring are all corrupt or lost; there are n (n − k − 1) / 2 pairs of runs. A server that lies once could tell one half of a
client's neighbours that it is lost and the other half that it is not. It would have t shares of both of the client's secrets if
2t were at most the number of holders, k + 1. Therefore 2t > k + 1 always.

**Active server, sparse.** Every client draws k others as holders of its shares, and exchanges masks with those that it drew and
those that drew it. The server may choose who is lost. But nobody answers about a client if fewer than t of its holders signed
for the survivors. So a part of s honest clients is cut off from the rest only if each of them drew at least t holders among the
s − 1 others of the part and the corrupt. The union bound over all parts of up to half of the h = n − c honest clients is

    Σ_s C(h, s) · P[Hypergeometric(n − 1, s − 1 + c, k) ≥ t]^s        over s with s − 1 + c ≥ t: nobody draws t of fewer

**Complete.** Every client holds a share of everyone's secrets, and nothing depends on chance: t > n/2 > c shares are safe, and
n − l ≥ t holders are left. Against an active server t > (n + c)/2, so that two different requests cannot both get enough
answers (Bonawitz et al. 2017, theorem 6.5, with c = n/3).

**One sum of a round.** Against an active server the quorum is above (N + C)/2 as well, with C = max(1, ⌈γN⌉). Whatever the
rosters of two attempts at one round are, their signers then have an honest client in common, and that client signs once.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp, rel_entr

from privfl.errors import ConfigError, ThresholdError

# Number of clients below which a complete graph costs little and loses fewer rounds.
_SMALL: Final = 64

LEAST_SECURITY_BITS: Final = 40
"""The smallest security that a policy may ask for: a failure probability of 2^-40."""

Logs = NDArray[np.float64]

GraphKind = Literal["complete", "sparse"]
ServerModel = Literal["semi_honest", "active"]


@dataclass(frozen=True)
class Policy:
    """Security policy of a round: the adversary and the losses that it must withstand.

    Each client has its own copy and takes none of it from the server.

    Args:
        graph: the communication graph; ``auto`` takes ``sparse`` if it halves the work.
        adversary: ``semi_honest``, a server that keeps to the protocol, or ``active``, one that may lie.
        roster_share: the smallest share of the cohort that a roster must have, above one half. A server that could divide a
            cohort into several rosters would have a sum of each.
        max_corrupt: γ, the largest share of clients that collude with the server; the number is rounded up and at least one.
        max_dropout: δ, the largest share of the roster that may be lost during the round.
        security_bits: σ, at least 40; the secrets are lost with a probability of at most 2^-σ.
        recovery_bits: η; the round is lost with a probability of at most 2^-η, unless ``threshold`` is given.
        neighbours: k; None: it is computed.
        threshold: t; None: it is computed. Given numbers are refused as well if they do not keep the secrets with a probability
            of at least 1 − 2^-σ.

    Raises:
        ConfigError: a value is out of range, or values contradict each other.
    """

    graph: Literal["auto", "complete", "sparse"] = "auto"
    adversary: ServerModel = "active"
    roster_share: float = 2 / 3
    max_corrupt: float = 0.1
    max_dropout: float = 0.1
    security_bits: int = 40
    recovery_bits: int = 30
    neighbours: int | None = None
    threshold: int | None = None

    def __post_init__(self) -> None:
        self._check_shares()
        if not LEAST_SECURITY_BITS <= self.security_bits <= 128:
            raise ConfigError(
                f"security_bits = {self.security_bits}: must be in [{LEAST_SECURITY_BITS}, 128]; with fewer the secrets of a "
                "round would be lost too often"
            )
        if not 1 <= self.recovery_bits <= 128:
            raise ConfigError(f"recovery_bits = {self.recovery_bits}: must be in [1, 128]")
        if self.threshold is not None and self.threshold < 2:
            raise ConfigError(f"threshold = {self.threshold}: must be at least 2, or one client alone could reveal another")
        if self.neighbours is not None and (self.neighbours < 2 or self.graph == "complete"):
            raise ConfigError(f"neighbours = {self.neighbours}: must be at least 2, and is for graph = 'sparse' only")
        if self.neighbours is not None and self.threshold is not None and 2 * self.threshold <= self.neighbours + 1:
            least = (self.neighbours + 1) // 2 + 1
            raise ConfigError(
                f"threshold = {self.threshold} with neighbours = {self.neighbours}: must be at least {least}, "
                "or a server that lies once has enough shares of both secrets of a client"
            )

    def _check_shares(self) -> None:
        if not 0.5 < self.roster_share <= 1:
            raise ConfigError(
                f"roster_share = {self.roster_share:g}: must be in (0.5, 1], or a cohort could be cut into several rosters"
            )
        if not (0 <= self.max_corrupt < 1 and 0 <= self.max_dropout < 0.5):
            raise ConfigError(
                f"max_corrupt = {self.max_corrupt}, max_dropout = {self.max_dropout}: must be in [0, 1) and in [0, 0.5), since "
                "a majority of the holders of a secret must be left"
            )
        if self.max_corrupt + self.max_dropout >= 1:
            raise ConfigError(
                f"max_corrupt + max_dropout = {self.max_corrupt + self.max_dropout:g}: must be below 1; lower one of them"
            )
        if self.adversary == "active" and (1 + self.max_corrupt) / 2 + self.max_dropout >= 1:
            raise ConfigError(
                f"max_corrupt = {self.max_corrupt:g} and max_dropout = {self.max_dropout:g} against an active server: "
                "(1 + max_corrupt)/2 + max_dropout must be below 1, or the survivors are no majority; lower one of them"
            )

    def corrupt(self, clients: int) -> int:
        """c: the number of clients, of so many, that may collude with the server; at least one."""
        # 0.07 · 100 must count as 7, although its floating-point product is larger.
        return max(1, math.ceil(self.max_corrupt * clients - 1e-9))

    def lost(self, clients: int) -> int:
        """l: the number of clients, of a roster of so many, that may be lost during the round."""
        return math.floor(self.max_dropout * clients + 1e-9)

    def least_roster(self, cohort: int) -> int:
        """The smallest number of clients in a roster, for a cohort of that size."""
        return math.ceil(self.roster_share * cohort - 1e-9)

    def quorum(self, clients: int) -> int:
        """The number of clients, of so many, that must sign so that any two such sets have an honest client in common."""
        return (clients + self.corrupt(clients)) // 2 + 1


@dataclass(frozen=True)
class Certificate:
    """Certificate of one round: its numbers, and the binary logarithms of the probabilities with which they fail.

    ``survivors`` is the smallest number of clients whose sum may be revealed, so that at least two of them are honest.
    ``quorum`` is the number of clients that must have signed for the same set of survivors (0: nobody signs). It is at least
    ``survivors``, since a server may list any client as a survivor, and only a signature shows that the client is there. A
    probability of 0 has the logarithm −∞.
    """

    clients: int
    graph: GraphKind
    adversary: ServerModel
    neighbours: int
    threshold: int
    survivors: int
    quorum: int
    log2_shares: float
    log2_disconnected: float
    log2_recovery: float

    @property
    def log2_insecure(self) -> float:
        """Binary logarithm of the probability that the server learns secrets or the sum of a part (union bound)."""
        return _log2_sum([self.log2_shares, self.log2_disconnected])

    @property
    def holders(self) -> int:
        """The number of clients that hold a share of a client's secrets, itself included."""
        return self.neighbours + 1

    @property
    def drawn(self) -> bool:
        """Whether each client draws the holders of its shares itself."""
        return self.graph == "sparse" and self.adversary == "active"

    @property
    def whole(self) -> bool:
        """Whether clients are sent the whole roster; if not, they are sent their neighbours only."""
        return self.graph == "complete" or self.adversary == "active"


def certify(policy: Policy, clients: int, minimum_clients: int = 3, cohort: int | None = None) -> Certificate:
    """The certificate for a roster of that many clients, with the given numbers or those that the search finds.

    Args:
        policy: the adversary and the losses that the round must withstand.
        clients: n, the size of the roster.
        minimum_clients: no sum over fewer clients may be revealed, whatever the policy allows.
        cohort: N, the size of the cohort; None: n.

    Raises:
        ThresholdError: no numbers satisfy the policy with so few clients.
    """
    found = _certified(policy, clients, minimum_clients, clients if cohort is None else cohort)
    if isinstance(found, str):
        raise ThresholdError(found)
    return found


@functools.lru_cache(maxsize=1024)
def _certified(policy: Policy, clients: int, minimum_clients: int, cohort: int) -> Certificate | str:
    """A certificate, or the reason why there is none; both take a search, so both are cached."""
    corrupt = policy.corrupt(clients)
    least = max(corrupt + 2, minimum_clients)
    try:
        if clients < least:
            raise ThresholdError(
                f"{clients} clients of which {corrupt} may be corrupt: must be at least {least}, at least two of them honest, "
                "or their sum reveals one vector; lower max_corrupt or wait for more clients"
            )
        if policy.adversary == "active":
            least = max(least, policy.quorum(clients), policy.quorum(cohort))
        if clients < least:
            raise ThresholdError(
                f"{clients} of a cohort of {cohort} clients: {least} must sign for a sum, so that no other of this round has "
                "as many; wait for more clients"
            )
        return _chosen(policy, clients, least)
    except ThresholdError as error:
        return error.reason


def _chosen(policy: Policy, clients: int, least: int) -> Certificate:
    if policy.graph == "complete":
        return _complete(policy, clients, least)
    if policy.graph == "sparse" or policy.neighbours is not None:
        return _sparse(policy, clients, least, clients - 2)
    if clients < _SMALL:
        return _complete(policy, clients, least)
    # Against an active server a client masks with those that it drew and those that drew it, which makes twice the edges.
    edges = 2 if policy.adversary == "active" else 1
    try:
        return _sparse(policy, clients, least, (clients - 1) // (2 * edges))
    except ThresholdError:
        return _complete(policy, clients, least)


def _complete(policy: Policy, clients: int, least: int) -> Certificate:
    floor = max(2, policy.corrupt(clients) + 1, clients // 2 + 1)
    if policy.adversary == "active":
        floor = max(floor, policy.quorum(clients))
    threshold = policy.threshold or floor
    if not floor <= threshold <= clients:
        raise ThresholdError(
            f"a threshold of {threshold} for {clients} clients: must be from {floor} to {clients}; "
            "change threshold or max_corrupt, or wait for more clients"
        )
    survivors = max(threshold, least)
    return Certificate(
        clients=clients,
        graph="complete",
        adversary=policy.adversary,
        neighbours=clients - 1,
        threshold=threshold,
        survivors=survivors,
        quorum=survivors if policy.adversary == "active" else 0,
        log2_shares=-math.inf,
        log2_disconnected=-math.inf,
        log2_recovery=-math.inf if clients - policy.lost(clients) >= survivors else 0.0,
    )


def _sparse(policy: Policy, clients: int, least: int, most: int) -> Certificate:
    """Certificate of a sparse graph, with the given k, or with an even k of at most ``most`` such that k − 2 is not enough.

    k is doubled from 2 until it is enough or would exceed ``most``, which is tried last. The interval between the last k that
    was not enough and the first that was is then halved. More neighbours are better except for the steps of t. So this is the
    smallest k or close to it, found fast enough for rosters of 100,000.

    Raises:
        ThresholdError: the given k is not allowed, or no k is enough.
    """
    given, even = policy.neighbours, policy.adversary == "semi_honest"
    if given is not None and (given >= clients or (even and given % 2)):
        raise ThresholdError(
            f"neighbours = {given} for {clients} clients: must be below {clients}"
            + (" and even" if even else "")
            + "; change it, or wait for more clients"
        )
    most -= most % 2
    degree, short = given or min(2, most), 0
    found = _sparse_with(policy, clients, least, degree) if degree else None
    while found is not None and not _enough(policy, found) and given is None and degree < most:
        short, degree = degree, min(2 * degree, most)
        found = _sparse_with(policy, clients, least, degree)
    if found is None or not _enough(policy, found):
        raise ThresholdError(_too_sparse(policy, clients, found))
    while given is None and degree - short > 2:
        middle = 2 * ((short + degree) // 4)
        tried = _sparse_with(policy, clients, least, middle)
        if _enough(policy, tried):
            degree, found = middle, tried
        else:
            short = middle
    return found


def _too_sparse(policy: Policy, clients: int, found: Certificate | None) -> str:
    reached = "" if found is None else f" (k = {found.neighbours}, t = {found.threshold}: 2^{found.log2_insecure:.1f} insecure"
    reached += "" if found is None else f", 2^{found.log2_recovery:.1f} lost)"
    return (
        f"a sparse graph over {clients} clients does not withstand max_corrupt = {policy.max_corrupt:g} and "
        f"max_dropout = {policy.max_dropout:g} with 2^-{policy.security_bits} and 2^-{policy.recovery_bits}{reached}; "
        "use graph = 'auto', other numbers, or wait for more clients"
    )


def _enough(policy: Policy, found: Certificate) -> bool:
    # Each of the two ways to lose the secrets is allowed half of 2^-σ. A given threshold may lose more rounds, which the
    # certificate states, but not secrets.
    insecure = max(found.log2_shares, found.log2_disconnected)
    recovered = policy.threshold is not None or found.log2_recovery <= -policy.recovery_bits
    safe = found.holders < 2 * found.threshold <= 2 * found.neighbours
    return safe and insecure <= -(policy.security_bits + 1) and recovered


def _sparse_with(policy: Policy, clients: int, least: int, degree: int) -> Certificate:
    """Certificate of a sparse graph with k = ``degree``, which may be insufficient.

    Unless the policy gives it, the threshold against a semi-honest server is the smallest majority of the holders that keeps
    the shares safe, which is the cheapest. Against an active server it is the largest that lets the round survive;
    :func:`_enough` refuses it unless it is a majority of the holders.
    """
    corrupt, lost = policy.corrupt(clients), policy.lost(clients)
    active = policy.adversary == "active"
    if policy.threshold is not None:
        threshold = policy.threshold
    elif active:
        threshold = max(1, _largest_recoverable(policy.recovery_bits, clients, lost, degree))
    else:
        threshold = max(degree // 2 + 1, _most_corrupt(policy.security_bits + 1, clients, corrupt, degree) + 1)
    survivors = max(clients - lost, least)
    return Certificate(
        clients=clients,
        graph="sparse",
        adversary=policy.adversary,
        neighbours=degree,
        threshold=threshold,
        survivors=survivors,
        quorum=survivors if active else 0,
        log2_shares=_log2_exposed(clients, corrupt, degree, threshold),
        log2_disconnected=_log2_drawn_apart(clients, corrupt, degree, threshold)
        if active
        else _log2_ring_apart(clients, corrupt + lost, degree),
        log2_recovery=_log2_lost(clients, lost, degree, threshold) if clients - lost >= survivors else 0.0,
    )


def _most_corrupt(bits: int, clients: int, corrupt: int, degree: int) -> int:
    """The smallest i such that some client has more than i corrupt neighbours with a probability of at most 2^-bits."""
    allowed = -bits * math.log(2) - math.log(clients)
    return int(np.argmax(_log_above(clients - 1, corrupt, degree) <= allowed))


def _largest_recoverable(bits: int, clients: int, lost: int, degree: int) -> int:
    """The largest t such that some client has fewer than t neighbours left with a probability of at most 2^-bits."""
    allowed = -bits * math.log(2) - math.log(clients)
    return int(np.count_nonzero(_log_up_to(clients - 1, clients - 1 - lost, degree)[:-1] <= allowed))


def _log2_exposed(clients: int, corrupt: int, degree: int, threshold: int) -> float:
    """log2 of the bound P[some client has at least t corrupt neighbours] ≤ n · P[Hypergeometric ≥ t]."""
    return _log2(float(_log_above(clients - 1, corrupt, degree)[min(threshold - 1, degree)]) + math.log(clients))


def _log2_lost(clients: int, lost: int, degree: int, threshold: int) -> float:
    """log2 of the bound P[some client has fewer than t neighbours left] ≤ n · P[Hypergeometric < t]."""
    left = float(_log_up_to(clients - 1, clients - 1 - lost, degree)[min(threshold - 1, degree)])
    return min(0.0, _log2(left + math.log(clients)))


def _log2_ring_apart(clients: int, bad: int, degree: int) -> float:
    """log2 of the bound P[two disjoint runs of k/2 on the ring are all bad] ≤ n (n − k − 1)/2 · C(bad, k) / C(n, k).

    A client is bad if it is corrupt or lost.
    """
    if degree > bad:
        return -math.inf
    pairs = clients * max(clients - degree - 1, 1) / 2
    return _log2(math.log(pairs) + _log_choose(bad, degree) - _log_choose(clients, degree))


def _log2_drawn_apart(clients: int, corrupt: int, degree: int, threshold: int) -> float:
    """log2 of the union bound over parts of s honest clients, which is in the docstring of this file.

    P[Hypergeometric ≥ t] ≤ exp(−k KL(t/k ‖ p)) if t/k > p, with p the share of marked clients (Hoeffding 1963, sections 2
    and 6).
    """
    honest = clients - corrupt
    sizes = np.arange(1, honest // 2 + 1)
    if len(sizes) == 0 or threshold > degree:
        return -math.inf
    choices = gammaln(honest + 1) - gammaln(sizes + 1) - gammaln(honest - sizes + 1)
    marked = sizes - 1 + corrupt
    share, hit = threshold / degree, marked / (clients - 1)
    divergence = np.where(share > hit, rel_entr(share, hit) + rel_entr(1 - share, 1 - hit), 0.0)
    # Nobody can draw t holders from fewer than t marked clients.
    terms = np.where(marked < threshold, -np.inf, choices - sizes * degree * divergence)
    return min(0.0, _log2(float(logsumexp(terms))))


def _log_up_to(total: int, marked: int, drawn: int) -> Logs:
    """Natural logarithm of P[Hypergeometric(total, marked, drawn) ≤ i] for i = 0 … drawn."""
    below: Logs = np.logaddexp.accumulate(_log_masses(total, marked, drawn))
    return np.minimum(below, 0.0)


def _log_above(total: int, marked: int, drawn: int) -> Logs:
    """Natural logarithm of P[Hypergeometric(total, marked, drawn) > i] for i = 0 … drawn, summed from the tail's far end."""
    above: Logs = np.append(np.logaddexp.accumulate(_log_masses(total, marked, drawn)[:0:-1])[::-1], -math.inf)
    return np.minimum(above, 0.0)


def _log_masses(total: int, marked: int, drawn: int) -> Logs:
    """Natural logarithm of C(marked, i) C(total − marked, drawn − i) / C(total, drawn) for i = 0 … drawn.

    All are computed at once, since SciPy's own tails take a time of the order of drawn².
    """
    hits = np.arange(drawn + 1)
    misses = drawn - hits
    possible = (hits <= marked) & (misses <= total - marked)
    masses = np.full(drawn + 1, -math.inf)
    hits, misses = hits[possible], misses[possible]
    masses[possible] = (
        gammaln(marked + 1)
        - gammaln(hits + 1)
        - gammaln(marked - hits + 1)
        + gammaln(total - marked + 1)
        - gammaln(misses + 1)
        - gammaln(total - marked - misses + 1)
        - _log_choose(total, drawn)
    )
    return masses


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _log2(natural: float) -> float:
    return natural / math.log(2)


def _log2_sum(logarithms: list[float]) -> float:
    largest = max(logarithms)
    if math.isinf(largest):
        return largest
    return largest + math.log2(sum(2.0 ** (one - largest) for one in logarithms))
