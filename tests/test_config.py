"""A configuration says what it means, or one line says what is wrong with it."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_runs import SMALL, small

from privfl.data.partitions.iid import Iid
from privfl.data.partitions.natural import Natural
from privfl.errors import ConfigError
from privfl.loading import dump, load, load_data, loads
from privfl.privacy.cohorts.all import All
from privfl.privacy.plans.example import Example
from privfl.shelves import SHELVES

PAPERS = sorted((Path(__file__).parents[1] / "paper_configs").glob("[!_]*.toml"))
OWN = "or the dotted path of a module of your own"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "small.toml", SMALL)


def write(path: Path, table: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(table))
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, *overrides)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_nothing_need_be_held_out_where_nothing_is_attacked(file: Path) -> None:
    assert load(file, "data.holdout=0").data.holdout == 0
    said = refused(file, "data.holdout=0", 'attacks.run=["membership/loss"]')
    assert "attacks.run = ['membership/loss']: cannot be run with data.holdout = 0" in said
    assert "raise it, or set attacks.run=[]" in said
    assert load(file, "data.holdout=0", 'attacks.run=["membership/loss"]', "attacks.run=[]").attacks.run == ()


# --- mistakes in an override -----------------------------------------------------------------------------------------
# Each is (the override, the key, the value as shown, what is said of it).

MISTAKES = [
    # a key that does not exist: the nearest one that does
    ("rouns=3", "rouns", "3", "did you mean 'rounds'?"),
    ("training.momentun=0.5", "training.momentun", "0.5", "did you mean 'momentum'? allowed: batch_size"),
    ("data.clinets=3", "data.clinets", "3", "did you mean 'clients'? allowed: clients, holdout, kind, partition"),
    ("data.partition.alpa=3", "data.partition.alpa", "3", "did you mean 'alpha'?"),
    ("privacy.noise=3", "privacy.noise", "3", "is unknown"),
    ("server.beta3=0.1", "server.beta3", "0.1", "did you mean 'beta2'? allowed: beta1, beta2, kind, lr, tau"),
    ("attacks.shadow_model=4", "attacks.shadow_model", "4", "did you mean 'shadow_models'?"),
    ("extends=other.toml", "extends", "'other.toml'", "is unknown"),
    # a wrong type
    ("rounds=true", "rounds", "True", "must be a valid integer"),
    ("rounds=2.0", "rounds", "2.0", "must be a valid integer"),
    ('rounds="3"', "rounds", "'3'", "must be a valid integer"),
    ("training.lr=fast", "training.lr", "'fast'", "must be a valid number"),
    ("training.lr.x=3", "training.lr", "{'x': 3}", "must be a valid number"),
    ("training=3", "training", "3", "must be a table"),
    ("cohort=3", "cohort", "3", "must be a table"),
    ("data=[]", "data", "[]", "must be a table"),
    ("data.kind=3", "data.kind", "3", "must be a valid string"),
    ("attacks.run=membership/loss", "attacks.run", "'membership/loss'", "must be a list"),
    ("device=gpu", "device", "'gpu'", "must be 'auto', 'cpu' or 'cuda'"),
    ('name="a b"', "name", "'a b'", "must match"),
    ("name=..", "name", "'..'", "must match"),
    # out of range
    ("rounds=0", "rounds", "0", "must be greater than 0"),
    ("training.lr=-1", "training.lr", "-1", "must be greater than 0"),
    ("training.momentum=1", "training.momentum", "1", "must be less than 1"),
    ("privacy.delta=1", "privacy.delta", "1", "must be less than 1"),
    ("training.lr=1e39", "training.lr", "1e+39", "must be between 1e-30 and 1e38"),
    ("privacy.max_grad_norm=1e-40", "privacy.max_grad_norm", "1e-40", "must be between 1e-30 and 1e38"),
    ("privacy.max_grad_norm=0", "privacy.max_grad_norm", "0", "must be greater than 0"),
    ("privacy.noise_multiplier=nan", "privacy.noise_multiplier", "nan", "must be a finite number"),
    ("privacy.noise_multiplier=inf", "privacy.noise_multiplier", "inf", "must be a finite number"),
    ("data.holdout=0.6", "data.holdout", "0.6", "must be less than or equal to 0.5"),
    ("data.partition.alpha=0", "data.partition.alpha", "0", "must be greater than 0"),
    ("server.beta2=1", "server.beta2", "1", "must be less than 1"),
    ("aggregator.clip=-8", "aggregator.clip", "-8", "must be greater than 0"),
    ("attacks.shadow_models=-1", "attacks.shadow_models", "-1", "must be greater than or equal to 0"),
    ("evaluation.every=0", "evaluation.every", "0", "must be greater than 0"),
    # an unknown kind, data set, attack or engine
    (
        "data.kind=digtis",
        "data.kind",
        "'digtis'",
        "did you mean 'digits'? allowed: adult, arrays, cifar10, ",
    ),
    ("data=digtis", "data.kind", "'digtis'", "did you mean 'digits'?"),
    ("model.kind=cn", "model.kind", "'cn'", "did you mean 'cnn'? allowed: cnn, "),
    ("data.kind=_arrays", "data.kind", "'_arrays'", "allowed: adult"),
    ("cohort.kind=poison", "cohort.kind", "'poison'", "did you mean 'poisson'? allowed: all, fixed, poisson, separated"),
    (
        "data.partition.kind=dirichlt",
        "data.partition.kind",
        "'dirichlt'",
        "did you mean 'dirichlet'? allowed: ",
    ),
    ("privacy.kind=client", "privacy.kind", "'client'", "did you mean 'client_local' or 'client_central'"),
    ("training.engine=opacuss", "training.engine", "'opacuss'", f"did you mean 'opacus'? allowed: fused, opacus, {OWN}"),
    ('attacks.run=["membership/los"]', "attacks.run.0.kind", "'membership/los'", "did you mean 'membership/loss'"),
    ('attacks.run=["membership/_gradients"]', "attacks.run.0.kind", "'membership/_gradients'", "membership/gradient_cosine"),
    # inside an item, inside a list
    (
        'attacks.run=["membership/loss", {kind="membership/rmia", gamas=[1]}]',
        "attacks.run.1.gamas",
        "[1]",
        "did you mean 'gammas'?",
    ),
    ('attacks.run=["membership/loss", "membership/rmi"]', "attacks.run.1.kind", "'membership/rmi'", "'membership/rmia'"),
    ('attacks.run=["membership/loss", {}]', "attacks.run.1.kind", None, "is missing"),
    ('attacks.run=["membership/loss", {kin="x"}]', "attacks.run.1.kin", "'x'", "did you mean 'kind'?"),
    ("attacks.run=[3]", "attacks.run.0", "3", "must be a table"),
    ('attacks.run=["membership/loss", "membership/loss"]', "attacks.run.1", "'membership/loss'", "is listed twice"),
    ('model={kind="mlp", hidden=[32, "a"]}', "model.hidden.1", "'a'", "must be a valid integer"),
    ('model={kind="mlp", hidden=[32, 0]}', "model.hidden.1", "0", "must be greater than 0"),
    ('model={kind="mlp", hidden=32}', "model.hidden", "32", "must be a list"),
    # settings that contradict each other
    ('attacks={run=["membership/lira"], shadow_models=0}', "attacks.shadow_models", "0", "'membership/lira' needs at least 1"),
    ('attacks={run=["membership/rmia"], shadow_models=0}', "attacks.shadow_models", "0", "'membership/rmia' needs at least 1"),
    ("data.holdout=-0.1", "data.holdout", "-0.1", "must be greater than or equal to 0"),
    ("cohort.size=11", "cohort.size", "11", "must be at most data.clients = 10"),
    ("privacy.target_epsilon=8", "privacy.noise_multiplier", "1.0", "exactly one of noise_multiplier and target_epsilon"),
    ("training.local_steps=3", "training.local_epochs", "1", "exactly one of local_epochs and local_steps"),
    (
        "data={partition={kind='natural'}, clients=4}",
        "data.clients",
        "4",
        "is set by the data if data.partition.kind is 'natural'",
    ),
    # a missing key
    ("privacy.delta=", "privacy.delta", None, "is missing"),
    ("data.clients=", "data.clients", None, "must be given unless data.partition.kind is 'natural'"),
    # a module of one's own that is none
    (
        "model.kind=my_lab.net",
        "model.kind",
        "'my_lab.net'",
        "cannot be imported (ModuleNotFoundError: No module named 'my_lab')",
    ),
    ("model.kind=.net", "model.kind", "'.net'", "or the dotted path"),
    ("model.kind=os.path", "model.kind", "'os.path'", "that derives from privfl.learning.models.Model; it has 0"),
]
FROM_THE_FILE = {"privacy.target_epsilon=8", "training.local_steps=3"}
TAKEN_AWAY = {"privacy.delta=", "data.clients="}


@pytest.mark.parametrize(("override", "key", "value", "said"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_names_where_key_value_and_what_is_allowed(
    override: str, key: str, value: str | None, said: str, file: Path
) -> None:
    text = refused(file, override)
    # Where a setting is wrong because of the file, or gone from it, the line names the file.
    where = str(file) if override in FROM_THE_FILE | TAKEN_AWAY else f"override {override!r}"
    shown = "" if value is None else f" = {value}"
    assert text.startswith(f"{where}: {key}{shown}: "), text
    assert said in text.removeprefix(f"{where}: {key}{shown}: "), text


@pytest.mark.parametrize("override", ["rounds", "=3", ".rounds=3", "data..clients=3", "rounds.=3", " =3", ""])
def test_an_override_that_is_none(override: str, file: Path) -> None:
    assert refused(file, override) == f"override {override!r}: must have the form key=value, for example training.lr=0.1"


def test_the_line_names_the_override_that_is_at_fault_and_no_other(file: Path) -> None:
    text = refused(file, "rounds=3", "training.lr=0", "seed=4")
    assert text == "override 'training.lr=0': training.lr = 0: must be greater than 0"
    text = refused(file, "privacy.kind=none", "privacy.kind=example", "privacy.delta=0.1")
    assert text == "override 'privacy.kind=example': privacy.max_grad_norm: is missing"


def test_a_long_value_is_cut(file: Path) -> None:
    assert len(refused(file, f"seed='{'x' * 500}'").replace("x" * 500, "")) < 120


# --- mistakes in a file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": -3}, "rounds = -3: must be greater than 0"),
        ({"trainig": {}}, "trainig = {}: is unknown; did you mean 'training'?"),
        ({"data": {"kind": "digits"}}, "data.clients: must be given unless"),
        ({"data": {"clients": 10}}, "data.kind: is missing"),
        ({"cohort": {"size": 3}}, "cohort.kind: is missing"),
        ({"privacy": {"kind": "example", "delta": 0.1, "max_grad_norm": 1.0}}, "privacy.noise_multiplier: give exactly one of"),
        (
            {"privacy": {**SMALL["privacy"], "target_epsilon": 3.0}},
            "privacy.noise_multiplier = 1.0: give exactly one of noise_multiplier and target_epsilon",
        ),
        ({"privacy": {**SMALL["privacy"], "kind": "client"}}, "privacy.kind = 'client': did you mean 'client_local'"),
        ({"server": {"kind": "fedadam"}}, "server.lr: is missing"),
        ({"server": "fedadam"}, "server.lr: is missing"),
        ({"extends": 3}, "extends = 3: must be the name of a TOML file"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "wrong.toml", {**SMALL, **change})
    assert refused(path).startswith(f"{path}: {said}")


@pytest.mark.parametrize("key", ["name", "rounds", "data", "model", "cohort", "training", "privacy", "aggregator", "server"])
def test_what_must_be_there(key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "short.toml", {name: value for name, value in SMALL.items() if name != key})
    allowed = f"; give one of {', '.join(SHELVES[key].names())}" if key in SHELVES else ""
    assert refused(path) == f"{path}: {key}: is missing{allowed}"
    # The file is at fault, not whoever set something else last.
    if key != "name":
        assert refused(path, "name=other") == f"{path}: {key}: is missing{allowed}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert (
        refused(tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: no such file; paper_configs/ of a clone holds examples"
    )
    assert refused(tmp_path).startswith(f"{tmp_path}: cannot be read (")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert refused(tmp_path / "binary.toml").startswith(f"{tmp_path / 'binary.toml'}: cannot be read (")
    (tmp_path / "broken.toml").write_text("name = 'x'\nrounds = = 3\n")
    assert refused(tmp_path / "broken.toml").startswith(f"{tmp_path / 'broken.toml'}: is not valid TOML: ")
    assert "line 2" in refused(tmp_path / "broken.toml")


# --- extends ----------------------------------------------------------------------------------------------------------


def test_a_file_extends_another_that_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "base.toml", SMALL)
    write(tmp_path / "below" / "middle.toml", {"extends": "../base.toml", "rounds": 7, "seed": 1})
    top = write(tmp_path / "below" / "top.toml", {"extends": "middle.toml", "seed": 2, "training": {"lr": 0.1}})
    config = load(top)
    assert (config.rounds, config.seed, config.training.lr, config.training.batch_size) == (7, 2, 0.1, 16)


def test_mistakes_in_a_chain_name_the_file_they_are_in(tmp_path: Path) -> None:
    base = write(tmp_path / "base.toml", {**SMALL, "rounds": -1})
    top = write(tmp_path / "top.toml", {"extends": "base.toml", "seed": 2})
    assert refused(top).startswith(f"{base}: rounds = -1: ")
    write(base, {key: value for key, value in SMALL.items() if key != "rounds"})
    assert refused(top) == f"{top}: rounds: is missing"


def test_extending_what_is_not_there_or_oneself(tmp_path: Path) -> None:
    lost = write(tmp_path / "lost.toml", {**SMALL, "extends": "nowhere.toml"})
    assert (
        refused(lost)
        == f"{lost}: extends = '{tmp_path / 'nowhere.toml'}': no such file; give the path from this file to the other"
    )
    alone = write(tmp_path / "alone.toml", {**SMALL, "extends": "alone.toml"})
    assert refused(alone).startswith(f"{alone}: extends = '{alone}': extends itself")
    one = write(tmp_path / "one.toml", {**SMALL, "extends": "two.toml"})
    two = write(tmp_path / "two.toml", {"extends": "one.toml"})
    assert refused(one).startswith(f"{two}: extends = '{one}': extends itself through {one} -> {two}")


# --- overrides and layers ---------------------------------------------------------------------------------------------


def test_values_of_overrides(file: Path) -> None:
    config = load(file, "rounds=9", "name=other-name", "training.lr=1e-3", 'model={kind="mlp", hidden=[8, 4]}', "seed = -5")
    assert (config.rounds, config.name, config.training.lr, config.seed) == (9, "other-name", 1e-3, -5)
    assert config.model.model_dump() == {"kind": "mlp", "hidden": (8, 4), "activation": "relu"}


def test_another_kind_drops_the_old_kind_s_settings_and_keeps_the_shared_ones(file: Path) -> None:
    config = load(file, "privacy.kind=none", "server.kind=fedavgm", "cohort.kind=fixed", "data.kind=adult")
    assert config.privacy.model_dump() == {"kind": "none"}
    assert config.server.model_dump() == {"kind": "fedavgm", "lr": 0.1, "momentum": 0.9}
    assert config.cohort.model_dump() == {"kind": "fixed", "size": 5}
    assert (config.data.kind, config.data.clients) == ("adult", 10)
    assert config.data.partition == small().data.partition
    # And the dropped ones do not come back.
    assert "privacy.delta: is missing" in refused(file, "privacy.kind=none", "privacy.kind=example")


def test_a_list_of_overrides_is_refused_in_one_line(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"override \['rounds=2'\]: must be text; give each as an argument of its own"):
        load(file, ["rounds=2"])  # type: ignore[arg-type]


def test_a_dictionary_takes_overrides_too() -> None:
    assert loads(SMALL, "rounds=9", "privacy=none", "aggregator=mean").rounds == 9
    with pytest.raises(ConfigError, match="override 'rounds=none': rounds = 'none'"):
        loads(SMALL, "rounds=none")


def test_text_in_a_table_s_place_is_its_kind(file: Path) -> None:
    config = load(file, "privacy=none", "data=adult", "cohort=all", "data.partition=iid")
    assert config.privacy.kind == "none"
    assert (config.data.kind, config.data.clients, config.data.partition) == ("adult", 10, Iid(kind="iid"))
    assert config.cohort == All(kind="all")


def test_an_override_without_a_value_takes_a_setting_away(file: Path) -> None:
    config = load(file, "privacy.noise_multiplier=", "privacy.target_epsilon=3", "server.tau=0.1", "server.tau=")
    assert isinstance(config.privacy, Example)
    assert (config.privacy.noise_multiplier, config.privacy.target_epsilon) == (None, 3.0)
    assert config.server.model_dump()["tau"] == 1e-3
    # The data say how many clients there are: a file that is extended may have said something else.
    natural = load(file, "data.partition.kind=natural").data
    assert (natural.clients, natural.partition) == (None, Natural(kind="natural"))
    assert load(file, "attacks.run=", "records.views=") == load(file)


def test_the_data_table_alone() -> None:
    assert load_data("digits").data.clients == 10
    assert load_data("digits", ["clients=3", "partition.kind=shards"]).data.clients == 3
    assert load_data("heart_disease", ["partition.kind='natural'"]).data.clients is None
    assert load_data("heart_disease", ["partition = natural"]).data.partition == Natural(kind="natural")
    assert (load_data("digits").seed, load_data("digits", ["seed=3"]).seed) == (0, 3)
    with pytest.raises(ConfigError, match=r"^override 'clients=0': data\.clients = 0: must be greater than 0$"):
        load_data("digits", ["clients=0"])
    with pytest.raises(ConfigError, match=r"^privfl data show: data\.kind = 'digtis': did you mean 'digits'\?"):
        load_data("digtis")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for name, text in {"base.toml": dump(small()), "marked.toml": 'extends = "base.toml"\nseed = 3\n'}.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(tmp_path / "marked.toml") == small(seed=3)


@pytest.mark.parametrize("cohort", ["all", "poisson"])
def test_a_single_client_hides_among_nobody_and_the_way_out_is_one(cohort: str) -> None:
    alone: dict[str, Any] = {"data": {"kind": "digits", "clients": 1}, "cohort": {"kind": cohort}}
    if cohort == "poisson":
        alone["cohort"]["size"] = 1
    with pytest.raises(ConfigError, match=r"'secure_sum': needs cohorts of at least 3 clients, and the largest has 1; set"):
        small(**alone)
    assert small(**alone, aggregator={"kind": "mean"}).data.clients == 1
    assert small(**(alone | {"data": {"kind": "digits", "clients": 3}})).aggregator.kind == "secure_sum"
    # Where there are clients enough, the other way out is one.
    with pytest.raises(ConfigError, match=r"the largest has 2; raise cohort\.size$"):
        small(cohort={"kind": "fixed", "size": 2})
    assert small(cohort={"kind": "fixed", "size": 3}).cohort.kind == "fixed"


# --- a module of the user's own ---------------------------------------------------------------------------------------

NET = """
from torch import nn
from privfl.learning.models import Model

class Net(Model):
    "A net."
    width: int = 4
    def build(self, input_shape, classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
"""


@pytest.fixture
def my_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "my_lab"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "my_lab"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    return package


def test_an_item_of_one_s_own(my_lab: Path, file: Path, tmp_path: Path) -> None:
    (my_lab / "net.py").write_text(NET)
    config = load(file, "model.kind=my_lab.net", "model.width=8")
    assert config.model.model_dump() == {"kind": "my_lab.net", "width": 8}
    (tmp_path / "again.toml").write_text(dump(config))
    assert load(tmp_path / "again.toml") == config
    assert (
        "model.widht = 8: is unknown; did you mean 'width'? allowed: kind, lora, torch_seed, trainable, weights, "
        in refused(file, "model.kind=my_lab.net", "model.widht=8")
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1 / 0", "odd.py, line 1: ZeroDivisionError: division by zero)"),
        ("def", "odd.py, line 1: SyntaxError: "),
        ("import nonesuch", "odd.py, line 1: ModuleNotFoundError: No module named 'nonesuch')"),
        ("x = 1", "nothing of it left abstract, that derives from privfl.learning.models.Model; it has 0"),
        (NET + "class Second(Net): pass", "privfl.learning.models.Model; it has 2"),
        ("from privfl.learning.models.mlp import Mlp", "privfl.learning.models.Model; it has 0"),
        ("from privfl.learning.models import Model\nclass Net(Model): pass", "privfl.learning.models.Model; it has 0"),
    ],
)
def test_a_module_of_one_s_own_that_is_no_item(content: str, said: str, my_lab: Path, file: Path) -> None:
    (my_lab / "odd.py").write_text(content)
    text = refused(file, "model.kind=my_lab.odd")
    assert text.startswith("override 'model.kind=my_lab.odd': model.kind = 'my_lab.odd': ")
    assert said in text


# --- the whole --------------------------------------------------------------------------------------------------------

FLOATS = st.floats(min_value=1e-9, max_value=1e9)
TABLES = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9][a-z0-9._-]*", fullmatch=True),
        "seed": st.integers(-(2**80), 2**80),
        "rounds": st.integers(1, 10**6),
        "data": st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["digits", "adult"]),
                "clients": st.integers(5, 1000),
                "holdout": st.floats(0.01, 0.5),
                "partition": st.one_of(
                    st.just({"kind": "iid"}),
                    st.fixed_dictionaries({"kind": st.sampled_from(["dirichlet", "quantity"]), "alpha": FLOATS}),
                ),
            }
        ),
        "model": st.one_of(
            st.just("logistic"),
            st.fixed_dictionaries({"kind": st.just("mlp"), "hidden": st.lists(st.integers(1, 99), max_size=3)}),
        ),
        "cohort": st.one_of(
            st.just({"kind": "all"}), st.fixed_dictionaries({"kind": st.just("fixed"), "size": st.integers(3, 5)})
        ),
        "training": st.fixed_dictionaries({"local_epochs": st.integers(1, 9), "batch_size": st.integers(1, 99), "lr": FLOATS}),
        "privacy": st.one_of(
            st.just({"kind": "none"}),
            st.fixed_dictionaries(
                {
                    "kind": st.just("example"),
                    "target_epsilon": FLOATS,
                    "delta": st.floats(1e-12, 0.5),
                    "max_grad_norm": FLOATS,
                }
            ),
        ),
        "server": st.fixed_dictionaries({"kind": st.sampled_from(["fedadam", "fedyogi"]), "lr": FLOATS}),
        "attacks": st.fixed_dictionaries({"run": st.permutations(["membership/loss", {"kind": "membership/rmia"}])}),
    }
)


@settings(deadline=None, max_examples=50)
@given(TABLES)
def test_what_is_dumped_loads_equal(tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]) -> None:
    config = loads({**SMALL, **table})
    path = tmp_path_factory.mktemp("dumped") / "config.toml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config
    assert dump(load(path)) == dump(config)


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_no_override_ever_ends_in_a_traceback(text: str) -> None:
    for override in (text, f"{text}=1", f"rounds={text}", f"data.kind={text}", f"privacy={text}", f"data.{text}=2"):
        with contextlib.suppress(ConfigError):
            load(PAPERS[0], override)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_paper_config_loads_and_says_its_name(path: Path) -> None:
    assert load(path).name == path.stem


def test_a_configuration_cannot_be_changed() -> None:
    config = small()
    with pytest.raises(ValidationError, match="frozen"):
        config.rounds = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.privacy.kind = "none"  # type: ignore[misc]


def test_shelves_name_their_items_and_nothing_else() -> None:
    assert SHELVES["server"].names() == ["fedadagrad", "fedadam", "fedavg", "fedavgm", "fedyogi"]
    assert {"cnn", "logistic", "mlp", "resnet8"} < set(SHELVES["model"].names())
    assert all("/" in name for name in SHELVES["attacks.run"].names())


def test_a_table_without_a_kind_has_settings_of_the_default() -> None:
    """If there is a default: `task.label_smoothing=0.1` alone is of classification."""
    assert loads({**SMALL, "task": {"label_smoothing": 0.1}}).task.model_dump()["kind"] == "classification"
    with pytest.raises(ConfigError, match=r"task\.delta = 2\.0: is unknown; allowed: kind, label_smoothing, weights"):
        loads({**SMALL, "task": {"delta": 2.0}})
    with pytest.raises(ConfigError, match=r"model\.kind: is missing"):
        loads({**SMALL, "model": {"hidden": [4]}})
