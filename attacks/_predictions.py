"""Attack a model that was trained elsewhere, by what it said about candidates, or by scores that somebody else computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attacks.membership import Evidence, MembershipAttack
from privfl.auditing.blind import MOST, blind_auc
from privfl.auditing.questions import AttackClaim, Claims, Truth
from privfl.auditing.questions.membership import Membership, MembershipClaim, OutsideFinding
from privfl.errors import ConfigError, DataError
from privfl.learning.tasks.classification import CLASSIFICATION
from privfl.learning.tasks.multilabel import Multilabel
from privfl.records import Interval
from privfl.running.predictions import Population, Predictions, Scores
from privfl.seeding import Seed
from privfl.shelves import SHELVES


def judged(given: Scores | Predictions, names: Sequence[str], seed: int) -> OutsideFinding:
    """The finding of attacks on scores or predictions, with all statistics.

    Args:
        given: scores; or predictions, which are attacked.
        names: attacks on predictions; none: all that the arrays allow.
        seed: draws the half of the candidates that the best attack is chosen on.

    Raises:
        ConfigError: an unknown attack, one that needs more than there is, or attacks named for scores.
        DataError: there are too few candidates.
    """
    if isinstance(given, Scores):
        if names:
            raise ConfigError(f"attack {names[0]!r}: scores are judged as they are; name attacks beside --predictions")
        claims: Mapping[str, MembershipClaim] = {name: MembershipClaim({name: one}) for name, one in given.by_name.items()}
        shadows = 0
    else:
        claims, shadows = _claims(given, names), len(given.shadow_member_SN)
    subjects, member_N, inputs_N, labels_N, group_N = (
        given.subjects,
        given.member_N,
        given.inputs_N,
        given.labels_N,
        given.group_N,
    )
    if subjects is not None:
        # A blind classifier would know a subject by its other records.
        member_N, inputs_N, labels_N, group_N = subjects.member_J, None, None, subjects.group_J
        claims = {
            name: MembershipClaim({variant: subjects.means(score_N) for variant, score_N in claim.scores.items()})
            for name, claim in claims.items()
        }
    all_N = np.ones(len(member_N), dtype=bool)
    nothing = np.zeros((len(all_N), 0)), np.zeros(len(all_N), dtype=np.int64)
    named = {"class": None if labels_N is None else labels_N.astype(np.str_), "group": group_N}
    truth = Truth(
        owner_N=np.zeros(len(all_N), dtype=np.int64),
        candidate_N=all_N,
        member_N=member_N,
        halves_generator=(Seed(seed) / "halves").numpy,
        examples=lambda: nothing,
        population=lambda: nothing,
        groups=lambda: {by: group_N for by, group_N in named.items() if group_N is not None},
    )
    question = Membership()
    try:
        question.require_possible(truth)
    except DataError as error:
        raise DataError(f"{given.where}: {str(error).partition('; raise')[0]}; give more candidates of both kinds") from None
    made = {name: AttackClaim(claim.checked(name, len(all_N))) for name, claim in claims.items()}
    found = question.evaluate(Claims("external", shadows, made), truth, None)
    area = blind_auc(inputs_N, labels_N, member_N)
    blind = (
        None
        if area is None
        else Interval(value=area.value, low=area.low, high=area.high, n=min(len(all_N), MOST), level=area.level)
    )
    records = None if subjects is None else len(given.member_N)
    return OutsideFinding(**dict(found), source=given.where, blind=blind, records=records)


def _claims(given: Predictions, names: Sequence[str]) -> dict[str, MembershipClaim]:
    """Those of the attacks that were named; or of all on the shelf that these predictions allow."""
    evidence = _evidence(given)
    claims = {}
    for name in names or SHELVES["attacks.run"].names():
        try:
            claims[name] = _possible(given, name).claim(evidence)
        except ConfigError as error:
            if names:
                raise ConfigError(f"attack {name!r}: {error}") from None
    return claims


def _possible(given: Predictions, name: str) -> MembershipAttack:
    """The attack of that name.

    Raises:
        ConfigError: there is none, or it needs more than there is.
    """
    item = SHELVES["attacks.run"].find(name)
    if not issubclass(item, MembershipAttack):
        raise ConfigError("looks at rounds of a run or at inputs, and predictions show none; attack the run's folder")
    shadowed = item.takes_reference and given.reference is not None
    if item.least_shadows > len(given.shadow_member_SN) and not shadowed:
        raise ConfigError(
            f"needs shadow_logits and shadow_member of at least {item.least_shadows} shadow models; "
            f"{given.where} has {len(given.shadow_member_SN)}"
        )
    if item.needs_population and given.population is None:
        raise ConfigError(f"needs population_logits and population_labels, outputs on fresh examples; {given.where} has none")
    return item(kind=name)


def _evidence(given: Predictions) -> Evidence:
    """The outputs as attacks read them.

    Without a population RMIA compares with the candidates themselves, each by the shadow models that did not train on it. That
    moves the steps of its scores, not their order.
    """
    # One label that is always present: the output is the log-odds that it is.
    task, labels_N = (
        (CLASSIFICATION, given.labels_N)
        if given.labels_N is not None
        else (Multilabel(kind="multilabel"), np.ones((len(given.member_N), 1), dtype=np.int64))
    )
    population = given.population or Population(given.outputs_NC, labels_N, given.shadow_outputs_SNC)
    return Evidence(
        labels_N=labels_N,
        logits_NC=given.outputs_NC,
        shadow_logits_SNC=given.shadow_outputs_SNC,
        shadow_member_SN=given.shadow_member_SN,
        population_labels_P=population.labels_P,
        population_logits_PC=population.logits_PC,
        population_shadow_logits_SPC=population.shadow_logits_SPC,
        task=task,
        population_member_SP=given.shadow_member_SN if given.population is None else None,
        reference=given.reference,
    )
