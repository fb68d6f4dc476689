"""Attack a run folder: prepare what the adversaries bring, let each attack make its claim, and only then open the truth.

::

    attacks/shadows/                   see attacks._shadows
    attacks/membership/lira.npz        what one attack claimed, and who was a member
    attacks/summary.json               the findings, one for each question and adversary
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from attacks import Attack, _shadows
from attacks._coins import Coins
from attacks._malicious import MaliciousServerAttack
from attacks._queries import answered
from attacks._rounds import SharedMeasures
from attacks.membership._updates import OnUpdates
from privfl.adversaries import ADVERSARIES, Adversary
from privfl.auditing import PrivacyCurve
from privfl.auditing.bound import NoiseFamily
from privfl.auditing.questions import AttackClaim, Claims, Finding, Question, Truth
from privfl.config import ExperimentConfig
from privfl.data.datasets import Dataset
from privfl.data.federated import LoadedData
from privfl.errors import ConfigError, DataError, ItemError, RunFolderError, ViewError
from privfl.federation.canaries import Canaries
from privfl.learning.models._build import constants
from privfl.loading import load
from privfl.running.asking import Federation
from privfl.running.assembling import assemble
from privfl.running.attacking import ShadowObserver
from privfl.running.determinism import deterministic
from privfl.running.experiment import Experiment
from privfl.running.knowledge import (
    Candidates,
    Knowledge,
    KnownDirections,
    LabelledExamples,
    Network,
    Prospect,
    Protocol,
    Shadows,
)
from privfl.running.pricing import noise_family
from privfl.running.run_folder import RunFolder
from privfl.running.views import MaliciousServerView, open_view
from privfl.seeding import Seed
from privfl.shelves import SHELVES
from privfl.storage import npz, read_npz, write_atomic
from privfl.tables import Item, narrow


@dataclass(frozen=True)
class _Group:
    """The attacks of one adversary on one question, which are judged together."""

    question: str
    adversary: Adversary


def run_attacks(
    folder: RunFolder, names: Sequence[str] = (), observer: ShadowObserver | None = None, settings: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """Run attacks on a finished run.

    Args:
        folder: the run.
        names: which; none given means those of the run's configuration.
        observer: called before the first shadow model and after each.
        settings: ``attacks.key=value``; from now on those of the run. Shadow models that are there stay.

    Returns:
        the findings, one for each question and adversary.

    Raises:
        ConfigError: an unknown attack, one that cannot be run on this run, or a setting of something else than attacks.
        RunFolderError: the data here are not those of the run.
        ViewError: the attack's adversary was not part of the run, or the run has not finished.
    """
    with folder.locked():
        config = with_settings(folder, settings)
        chosen = _chosen(config, _all_names(folder, config, names))
        with deterministic():
            knowledge = _prepared(folder, config, chosen, observer)
            claims = [(attack, _claim(folder, config, attack, knowledge)) for attack in chosen]
            truth = _opened_truth(folder, config)
            return _judged(folder, config, claims, truth, _noise(folder, config))


def require_possible(experiment: Experiment, chosen: Iterable[object] | None = None) -> None:
    """Refuse a run that its attacks will not be able to attack; asked before its first round.

    Args:
        experiment: the run.
        chosen: the attacks; None: those of its configuration.

    Raises:
        ConfigError, ViewError: names the setting, and says what to change.
    """
    coins, config = Coins.of(experiment), experiment.config
    truth = _truth(config, *(getattr(experiment.data, name) for name in _WHO))
    for attack in [narrow(item, Attack) for item in (config.attacks.run if chosen is None else chosen)]:
        if (models := experiment.algorithm.models) > 1:
            raise ConfigError(
                f"attack {attack.kind!r}: reads one global model, and algorithm {config.algorithm.kind!r} has {models}; attack "
                "a run with algorithm.clusters = 1"
            )
        try:
            _question(attack.question).require_possible(truth)
        except DataError as error:
            raise ConfigError(f"attacks.run: no attack can be run on {error}, or set attacks.run=[]") from None
        attack.require_possible(
            Prospect(
                hides_updates=experiment.aggregator.hides_updates,
                keeps_rounds=config.records.views != "final",
                shadow_member_SN=coins.shadows(config.attacks.shadow_models),
                clients=len(experiment.data.clients),
                cohorts=experiment.cohorts,
                protocol=_protocol(experiment),
                network=_network(experiment),
                canaries=config.canaries,
                input_shape=tuple(experiment.x[:1].shape[1:]),
                personal=experiment.algorithm.personal,
            )
        )


# --- which attacks ----------------------------------------------------------------------------------------------------


def with_settings(folder: RunFolder, settings: Sequence[str]) -> ExperimentConfig:
    """The run's configuration with other attacks.

    Raises:
        ConfigError: a setting is of something else, or is wrong.
    """
    for setting in settings:
        if not setting.startswith("attacks."):
            raise ConfigError(
                f"override {setting!r}: the run was trained without it; only attacks.* may change, all else is another run"
            )
    return load(folder.path / "config.toml", *settings)


def _all_names(folder: RunFolder, config: ExperimentConfig, names: Sequence[str]) -> Sequence[str]:
    """Those that were asked for; and those that were run with another number of shadow models, to be judged beside them."""
    asked = list(names) or [item.kind for item in config.attacks.run]
    if not asked:
        return asked
    try:
        others = [one for one in folder.findings if one.shadow_models != config.attacks.shadow_models]
        again = [name for finding in others for name in finding.rounds_by_attack()]
    except RunFolderError:
        # Nobody knows how they were made.
        again = list(_kept(folder))
    return list(dict.fromkeys([*asked, *again]))


def _chosen(config: ExperimentConfig, names: Sequence[str]) -> list[Attack]:
    configured = {item.kind: item for item in config.attacks.run}
    items: list[Item] = []
    for name in names:
        try:
            items.append(configured.get(name) or SHELVES["attacks.run"].find(name)(kind=name))
        except ConfigError as error:
            raise ConfigError(f"attack {name!r}: {error}") from None
    if not items:
        raise ConfigError(f"attacks.run is empty; name attacks to run: {', '.join(SHELVES['attacks.run'].names())}")
    return [narrow(item, Attack) for item in items]


def _question(kind: str) -> Question:
    """The question of that name, or of that dotted path.

    Raises:
        ConfigError: there is none.
    """
    try:
        return cast("Question", SHELVES["question"].find(kind)(kind=kind))
    except ConfigError as error:
        raise ConfigError(f"question {kind!r}: {error}") from None


# --- what the adversaries bring ---------------------------------------------------------------------------------------


def _prepared(
    folder: RunFolder, config: ExperimentConfig, chosen: Sequence[Attack], observer: ShadowObserver | None
) -> Knowledge:
    """The knowledge that attacks are given. The experiment, which holds the truth, does not outlive this."""
    experiment = assemble(config)
    _require_same_data(folder, experiment)
    require_possible(experiment, chosen)
    try:
        # Asked before any shadow model is trained: an unfinished run has none. A view does not know its folder.
        final_D = open_view(folder, "external", experiment.layout).final_model()
    except ViewError as error:
        raise ViewError(f"{folder.path}: {error}") from None
    folder.change_attacks(config)
    coins, data = Coins.of(experiment), experiment.data
    queries = max((one.wanted_queries for one in chosen), default=1)
    member_SN, outputs = _shadows.trained(folder, experiment, coins, observer, models=queries > 1)
    rows_N = torch.from_numpy(coins.rows_N).to(experiment.x.device)
    network = _network(experiment)
    candidates = Candidates(experiment.x[rows_N], data.pool.y[coins.rows_N], data.owner_N[coins.rows_N])
    every = any(isinstance(one, OnUpdates) and one.compares for one in chosen)
    shadows = _shadows.models(folder, len(outputs))
    return Knowledge(
        network=network,
        candidates=candidates,
        population=LabelledExamples(experiment.test_x, data.test.y),
        shadows=Shadows.of(member_SN, outputs, len(data.test), experiment.outputs),
        protocol=_protocol(experiment),
        measures=SharedMeasures(network, candidates, every=every),
        directions=_directions(experiment),
        queries=answered(folder, network, candidates, final_D, shadows, queries) if queries > 1 else None,
    )


def _network(experiment: Experiment) -> Network:
    return Network(experiment.model, experiment.layout, experiment.task, experiment.outputs)


def _directions(experiment: Experiment) -> KnownDirections | None:
    """The directions of the candidates, if these are canaries that are directions."""
    canaries = experiment.canaries
    if canaries is None or canaries.directions is None:
        return None
    # Updates go against gradients.
    sign = 1.0 if canaries.item.whole_clients else -1.0
    return KnownDirections(canaries.directions, experiment.initial_D, sign)


def _whole_clients(config: ExperimentConfig) -> bool:
    """Whether the candidates are canaries that are clients."""
    return config.canaries is not None and narrow(config.canaries, Canaries).whole_clients


def _noise(folder: RunFolder, config: ExperimentConfig) -> NoiseFamily | None:
    """The mechanism of a run with canaries; None if it has none, or promises nothing."""
    if config.canaries is None or not config.privacy.promises:
        return None
    experiment = assemble(config)
    # A canary client hands in its direction or a zero; any other candidate makes another of its client's update.
    relation = experiment.plan.relation if _whole_clients(config) else experiment.plan.attack_relation
    return noise_family(experiment, folder.result.rounds, relation)


def _protocol(experiment: Experiment) -> Protocol:
    """The terms of local training, which are public, as the sizes of clients are."""
    config, largest = experiment.config, int(experiment.data.sizes().max())
    return Protocol(config.training, config.rounds, largest, experiment.terms.steps)


def _require_same_data(folder: RunFolder, experiment: Experiment) -> None:
    """The truth about membership is what the run wrote down; whatever is assembled again must agree with it."""
    folder.require_same_data(experiment.data.digest())
    folder.require_same_constants(constants(experiment.model))
    written = read_npz(folder.path / "membership.npz")
    if any(not np.array_equal(written[name], getattr(experiment.data, name)) for name in ("candidate_N", "member_N")):
        raise RunFolderError(f"{folder.path}: membership.npz is not what this run drew; run its config.toml anew")


# --- claims, and the truth --------------------------------------------------------------------------------------------


def _claim(folder: RunFolder, config: ExperimentConfig, attack: Attack, knowledge: Knowledge) -> AttackClaim:
    view, question = open_view(folder, attack.adversary, knowledge.network.layout), _question(attack.question)
    if question.hides_owners:
        knowledge = knowledge.without_owners()
    knowledge, asked = attack.blinded(knowledge), 0
    if isinstance(attack, MaliciousServerAttack):
        assert isinstance(view, MaliciousServerView)
        view = _answered(folder, config, attack, view, knowledge)
        asked = len(view.answers)
    claim, wanted = attack.run(view, knowledge), question.claim
    if not isinstance(claim, wanted):
        raise ItemError(
            f"attack {attack.kind!r}: run() returned a {type(claim).__name__}; the question {attack.question!r} is answered by "
            f"a {wanted.__module__}.{wanted.__name__}"
        )
    return AttackClaim(claim.checked(attack.kind, len(knowledge.candidates)), view.rounds_read(), asked)


def _answered(
    folder: RunFolder,
    config: ExperimentConfig,
    attack: MaliciousServerAttack,
    view: MaliciousServerView,
    knowledge: Knowledge,
) -> MaliciousServerView:
    """The view with the answers to all rounds that the attack asks for. No experiment is there while the attack is at work."""

    def federation() -> Federation:
        return Federation.after(folder, assemble(config), attack.kind, attack.rounds)

    begun = federation()
    view = replace(view, cohorts=begun.cohorts, hides_updates=begun.experiment.aggregator.hides_updates)
    del begun
    while orders := attack.ask(view, knowledge):
        if len(view.answers) + len(orders) > attack.rounds:
            raise ItemError(
                f"attack {attack.kind!r}: asked for {len(view.answers) + len(orders)} rounds; it may ask for {attack.rounds}: "
                "raise its setting rounds"
            )
        view = replace(view, answers=view.answers + federation().answers(orders, len(view.answers)))
    return view


_WHO = ("owner_N", "candidate_N", "member_N")


def _opened_truth(folder: RunFolder, config: ExperimentConfig) -> Truth:
    """The truth about the candidates, as the run wrote it down."""
    written = read_npz(folder.path / "membership.npz")
    return _truth(config, *(written[name] for name in _WHO))


def _truth(
    config: ExperimentConfig, owner_N: NDArray[np.int64], candidate_N: NDArray[np.bool_], member_N: NDArray[np.bool_]
) -> Truth:
    loaded, halves = cache(narrow(config.data, Dataset).load), Seed(config.seed) / "halves"

    def examples() -> tuple[NDArray[Any], NDArray[Any]]:
        pool = loaded().train
        return pool.x, pool.y

    def population() -> tuple[NDArray[Any], NDArray[Any]]:
        test = loaded().test
        return test.x, test.y

    def groups() -> dict[str, NDArray[Any]]:
        return _groups(config, loaded(), owner_N)

    if config.canaries is not None:
        # The candidates are canaries, which no data set holds.
        return Truth(owner_N, candidate_N, member_N, halves.numpy, examples, population)
    return Truth(
        owner_N, candidate_N, member_N, halves.numpy, examples, population, groups=groups, exposed=config.attacks.exposed
    )


def _groups(config: ExperimentConfig, data: LoadedData, owner_N: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The names of each example's client, class and group, as far as there are some."""
    natural_N = None if data.natural_N is None else np.array(data.natural_names)[data.natural_N]
    if config.data.partition.names_clients:
        found = {"client": np.array(data.natural_names)[owner_N]}
    else:
        found = {"client": np.array([f"client {owner}" for owner in range(owner_N.max(initial=-1) + 1)])[owner_N]}
        if natural_N is not None:
            found["group"] = natural_N
    labels_N = data.train.classes()
    return found if labels_N is None else {"class": np.array(data.classes)[labels_N], **found}


def _judged(
    folder: RunFolder,
    config: ExperimentConfig,
    claims: Sequence[tuple[Attack, AttackClaim]],
    truth: Truth,
    noise: NoiseFamily | None,
) -> tuple[Finding, ...]:
    """Judge all claims, the earlier ones too, and write everything down."""
    groups: dict[_Group, dict[str, AttackClaim]] = {}
    for attack, made in claims:
        groups.setdefault(_Group(attack.question, attack.adversary), {})[attack.kind] = made
    for group, before in _found_before(folder, {attack.kind for attack, _ in claims}, truth):
        groups.setdefault(group, {}).update(before)
    findings = [
        _question(group.question).evaluate(
            Claims(group.adversary, config.attacks.shadow_models, made), truth, _promised(folder, group.adversary, noise)
        )
        for group, made in sorted(groups.items(), key=lambda item: (item[0].question, ADVERSARIES.index(item[0].adversary)))
    ]
    for attack, made in claims:
        arrays = {"member": truth.candidate_members, **made.claim.arrays(attack.kind)}
        write_atomic(folder.path / "attacks" / f"{attack.kind}.npz", npz(arrays))
    folder.write_findings(findings)
    return tuple(findings)


def _kept(folder: RunFolder) -> dict[str, dict[str, NDArray[Any]]]:
    """The arrays of all claims that were written down, by attack."""
    place = folder.path / "attacks"
    files = {path.relative_to(place).as_posix().removesuffix(".npz"): path for path in sorted(place.rglob("*.npz"))}
    return {attack: read_npz(path) for attack, path in files.items() if path.parent.name != "shadows"}


def _found_before(folder: RunFolder, but: set[str], truth: Truth) -> Iterable[tuple[_Group, dict[str, AttackClaim]]]:
    """The claims of attacks that were run earlier. The best attack is always chosen among all: whoever ran them one by one and
    kept the best would choose on the very candidates that are measured.
    """
    kept = _kept(folder)
    try:
        findings = folder.findings
    except RunFolderError:
        return
    for finding in findings:
        made, asked = {}, finding.asked_by()
        for attack, rounds in finding.rounds_by_attack().items():
            arrays = kept.get(attack)
            if attack in but or arrays is None or not np.array_equal(arrays.pop("member"), truth.candidate_members):
                continue
            made[attack] = AttackClaim(
                _question(finding.question).claim.from_arrays(attack, arrays), rounds, asked.get(attack, 0)
            )
        if made:
            yield _Group(finding.question, finding.adversary), made


def _promised(folder: RunFolder, adversary: Adversary, noise: NoiseFamily | None = None) -> PrivacyCurve | None:
    """The privacy curve that the run promises against that adversary for one example in or out; None: it promises nothing."""
    privacy = folder.result.privacy
    if privacy is None or adversary not in privacy.adversaries:
        return None
    if noise is not None and (curve := noise.curve(noise.promised)) is not None and _whole_clients(folder.config):
        epsilons, deltas = curve
        return PrivacyCurve(tuple(epsilons), tuple(deltas), privacy.epsilon, privacy.delta, noise)
    return PrivacyCurve(tuple(privacy.curve_epsilon), tuple(privacy.curve_delta), privacy.attack_epsilon, privacy.delta, noise)
