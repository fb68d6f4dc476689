"""Mistakes that a stranger makes: each is answered by one line, which names what is wrong, and by exit code 2."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, calling
from small_runs import small

from privfl.loading import dump
from privfl.running.recording import run as train

PLAIN: dict[str, Any] = {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "server": {"kind": "fedavg"}}
LOSS = {"run": ["membership/loss"], "shadow_models": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configurations, runs, and what looks like them."""
    here = tmp_path_factory.mktemp("mistakes")
    done = train(small(rounds=1, attacks={"shadow_models": 0}, **PLAIN), here / "done").path
    train(small(rounds=1, attacks={"shadow_models": 0}), here / "private")
    for name, without in {"begun": "result.json", "unlisted": "membership.npz", "bare": "model.safetensors"}.items():
        shutil.copytree(done, here / name)
        (here / name / without).unlink()
    for name, (file, content) in {"damaged": ("result.json", "{}"), "mixed": ("config.toml", "rounds = 'x'")}.items():
        shutil.copytree(done, here / name)
        (here / name / file).write_text(content)
    (here / "empty").mkdir()
    texts = {
        "c.toml": dump(small(rounds=3, attacks=LOSS, **PLAIN)),
        "p.toml": dump(small(rounds=2, attacks=LOSS)),
        "text.toml": "rounds: 3\n",
        "nothing.toml": "",
        "list.toml": 'name = "x"\nrounds = 3\ndata = ["digits"]\n',
        "astray.toml": 'extends = "nowhere.toml"\n',
        "number.toml": "extends = 3\n",
        "circle.toml": 'extends = "circle.toml"\n',
        "twice.toml": "rounds = 3\nrounds = 4\n",
        "full/x.txt": "x",
    }
    for name, text in texts.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    (here / "wide.toml").write_text("rounds = 3\n", encoding="utf-16")
    return here


# What is typed, and a part of what is said.
MISTAKES = {
    # A model that cannot be written.
    "export done model.pkl": "model.pkl: has no suffix of an export format; use .onnx,",
    "export begun model.pt2": "begun: has no trained model: the run has not finished; continue it with --resume",
    "export bare model.safetensors": "bare: has no trained model: the run has not finished; continue it with --resume",
    "export empty model.pt2": "empty: is not a run folder (no config.toml in it)",
    # Words that are no command.
    "run": "Missing argument 'CONFIG' (`privfl run --help` shows what there is)",
    "runs c.toml": "No such command 'runs'. Did you mean 'run'?",
    "run c.toml --ot x": "No such option: --ot",
    "run c.toml --out": "requires an argument",
    "data sho digits": "No such command 'sho'",
    "data fetch": "Missing argument 'NAME'",
    "doctor now": "unexpected extra argument",
    "sweep p.toml --jobs 0": "Invalid value for '--jobs'",
    "report": "Missing argument 'RUN'",
    # Files that are no configuration.
    "run nowhere.toml": "nowhere.toml: no such file; paper_configs/ of a clone holds examples",
    "run done": "done: cannot be read ([Errno 21] Is a directory: 'done'); give a TOML file",
    "run text.toml": "text.toml: is not valid TOML: Expected '=' after a key",
    "run nothing.toml": "nothing.toml: name: is missing",
    "run list.toml": "list.toml: data = ['digits']: must be a table",
    "run wide.toml": "wide.toml: cannot be read ('utf-8' codec can't decode byte 0xff in position 0",
    "run astray.toml": "astray.toml: extends = 'nowhere.toml': no such file",
    "run number.toml": "number.toml: extends = 3: must be the name of a TOML file",
    "run circle.toml": "circle.toml: extends = 'circle.toml': extends itself",
    "run twice.toml": "twice.toml: is not valid TOML: Cannot overwrite a value",
    # Keys and values.
    "run c.toml foo": "override 'foo': must have the form key=value",
    "run c.toml =3": "override '=3': must have the form key=value",
    "run c.toml p.toml": "override 'p.toml': must have the form key=value",
    "run c.toml roundz=3": "roundz = 3: is unknown; did you mean 'rounds'?",
    "run c.toml rounds=three": "rounds = 'three': must be a valid integer",
    "run c.toml rounds.x=3": "rounds = {'x': 3}: must be a valid integer",
    "run c.toml seed=0.5": "seed = 0.5: must be a valid integer",
    "run c.toml name=../x": "name = '../x': must match",
    "run c.toml data=": "c.toml: data: is missing",
    "run c.toml training.lr=0": "override 'training.lr=0': training.lr = 0: must be greater than 0",
    "run c.toml training.lr=nan": "training.lr = nan: must be a finite number",
    "run c.toml training.momentum=1": "training.momentum = 1: must be less than 1",
    "run c.toml device=tpu": "device = 'tpu': must be 'auto', 'cpu' or 'cuda'",
    "run c.toml records.views=none": "records.views = 'none': must be 'all', 'sums' or 'final'",
    "run c.toml model.kind=mlp model.hidden=5": "model.hidden = 5: must be a list",
    "run c.toml server.beta1=0.9": "server.beta1 = 0.9: is unknown; allowed: kind, lr",
    "run c.toml attacks.run=membership/loss": "attacks.run = 'membership/loss': must be a list",
    "run c.toml attacks.run=[loss]": "must be a list, with its words in quotes that the shell keeps: 'attacks.run=[\"...\"]'",
    # Names of nothing.
    "run c.toml data.kind=digtis": "did you mean 'digits'?",
    "run c.toml model=transformr": "model.kind = 'transformr': did you mean 'transformer'? allowed: cnn, ",
    "run c.toml server=adam": "server.kind = 'adam': did you mean 'fedadam'?",
    "run c.toml cohort=some": "cohort.kind = 'some': allowed: all, fixed, poisson, separated, or the dotted path",
    "run c.toml privacy=dp": "privacy.kind = 'dp': allowed: client_central, client_distributed",
    "run c.toml training.engine=jax": "training.engine = 'jax': allowed: fused, opacus",
    "run c.toml data=my_lab.none": "cannot be imported (ModuleNotFoundError: No module named 'my_lab'); allowed is a module in",
    "run c.toml data=my_lab/none.py": "is a file; name the module by dots, 'my_lab.none', from ",
    "run c.toml data=..": "data.kind = '..': allowed: adult",
    "run c.toml data=privfl.config": "nothing of it left abstract, that derives from privfl.data.datasets",
    # Contradictions.
    "run c.toml cohort.size=11": "cohort.size = 11: must be at most data.clients = 10",
    "run c.toml data.clients=": "data.clients: must be given unless data.partition.kind is 'natural'",
    "run c.toml data.clients=1 cohort=all aggregator=secure_sum": "needs cohorts of at least 3 clients, and the largest has 1",
    "run c.toml training.local_steps=3": "give exactly one of local_epochs and local_steps (`KEY=` on the command line removes",
    "run p.toml privacy.target_epsilon=8": "give exactly one of noise_multiplier and target_epsilon (`KEY=` on the command",
    "run p.toml privacy.max_update_norm=1": "privacy.max_update_norm = 1: is unknown; did you mean 'max_grad_norm'?",
    "run p.toml privacy.kind=client_dpftrl privacy.max_update_norm=1": "'client_dpftrl' needs a minimum separation",
    "run p.toml aggregator.max_corrupt=0.9": "max_corrupt + max_dropout = 1: must be below 1; lower one of them",
    "account p.toml privacy.delta=0.5": "privacy.delta = 0.5: must be below 1/N = 1/1438, one over all examples; lower it",
    # Audits.
    "audit c.toml --kind cuckoo": "canaries.kind = 'cuckoo': allowed: blank, canife, client, ",
    "audit c.toml --canaries 5": "Invalid value for '--canaries': Input should be greater than or equal to 10",
    "audit c.toml --canaries 2000": "canaries.count = 2000: must be at most 1428, of 1438 examples; lower it, or",
    "audit c.toml --kind gradient": "privacy.kind is 'none'; set canaries.kind = 'mislabelled'",
    "audit p.toml --kind client": "protects single examples; set canaries.kind = 'gradient'",
    "audit p.toml --canaries 10 --out done": "holds a run; continue it with --resume, replace it with --overwrite, or",
    "attack done auditing/one_run": "scores canaries, and the run has none; train one that has by `privfl audit",
    "account c.toml": "privacy.kind = 'none': nothing is promised",
    "run c.toml model=cnn --out new": "model.kind = 'cnn' takes images",
    "run c.toml data.clients=5000 --out new": "is left with no example",
    "run c.toml training.lr=1e38 --out new": "training diverged; lower training.lr",
    "run c.toml training.lr=9e37 rounds=4 --out new": "training diverged; lower training.lr",
    # Folders.
    "run c.toml --out done": "holds a run; continue it with --resume, replace it with --overwrite, or",
    "run c.toml --out new --resume --overwrite": "--resume and --overwrite: contradict each other",
    "attack done training.lr=1": "override 'training.lr=1': the run was trained without it; only attacks.*",
    "run c.toml --out full": "is neither empty nor a run folder; choose another folder with --out",
    "run c.toml --out c.toml": "c.toml: cannot be written (File exists); choose another place with --out",
    "run c.toml --out c.toml/below": "cannot be written (Not a directory)",
    "run c.toml --resume --out done": "was begun with attacks.run = (), not (",
    "report c.toml": "is not a run folder (no config.toml in it); give a folder that `privfl run` made",
    "report done nowhere": "nowhere: is not a run folder",
    "report begun": "begun: has no result.json: the run has not come that far; continue it with --resume",
    "report damaged": "damaged/result.json: is damaged (Field required); run its config.toml again",
    "report mixed": "mixed/config.toml: name: is missing",
    "report done --out empty": "empty: cannot be written (Is a directory); choose another place with --out",
    "attack empty": "empty: is not a run folder (no config.toml in it); give a folder that `privfl run` made",
    "attack done": "attacks.run is empty; name attacks to run: auditing/noise, auditing/noise_rounds, ",
    "attack done lira": "attack 'lira': did you mean 'membership/lira'",
    "attack done membership/lira": "attacks.shadow_models = 0: 'membership/lira' needs at least 1; raise it",
    "attack done privfl.learning.models.cnn": "that derives from attacks.Attack; it has 0",
    "attack begun membership/loss": "begun: has no result.json",
    "attack unlisted membership/loss": "unlisted/membership.npz: is missing or damaged",
    "attack bare membership/loss": "bare: the run has no final model yet; finish the run with --resume",
    "account empty": "empty: is not a run folder",
    "account done": "done: promises nothing",
    "account private private": "private: is named twice; name each run once",
    "account private done": "done: promises nothing",
    "account private --curve": "--curve and --out draw what a configuration will cost; give private/config.toml",
    # Sweeps and data.
    "sweep p.toml seed=0..1 rounds=0,1": "override 'rounds=0': rounds = 0: must be greater than 0",
    "run p.toml seed=0..3": "override 'seed=0..3': seed = '0..3': must be one integer; `privfl sweep` takes a range",
    "sweep p.toml seed=3..1": "3..1: is an empty range; write the smaller number first, 1..3",
    **{
        f"sweep p.toml seed={typed}": f"override 'seed={typed}': '{typed}' is not how a range is written; write seed=0..3 alone"
        for typed in ("0-3", "0...3", "0:3", "0…3", "[0..3]")
    },
    "frontier p.toml rounds=1-2": "override 'rounds=1-2': '1-2' is not how a range is written; write rounds=1..2 alone",
    "sweep p.toml seed=0..1,3": "'0..1' is not how a range is written; write seed=0..1 alone, or every value with",
    "sweep p.toml seed=1,2 seed=3": "seed is given twice; name all its values at once",
    "sweep p.toml seed=0..1 --ask timeout_min=3": "is for a scheduler; name it with --cluster slurm",
    "sweep p.toml seed=0..1 --out c.toml": "c.toml: cannot be written (File exists)",
    "data show nowhere": "data.kind = 'nowhere': allowed: adult",
    "data show digits clients=0": "override 'clients=0': data.clients = 0: must be greater than 0",
    "data show digits seed=x": "seed = 'x': must be a valid integer",
    "data show digits foo=3": "data.foo = 3: is unknown; allowed: clients, holdout, kind, partition",
    "data show digits partition=natural": "this data set names no clients; allowed: iid, dirichlet, shards, quantity",
    "data fetch nowhere": "data set 'nowhere': allowed: adult",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    typed: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    privfl: Call = calling(monkeypatch, capsys)
    try:
        code, out, err = privfl(*shlex.split(typed))
    finally:
        shutil.rmtree(place / "new", ignore_errors=True)
    # What was begun before the mistake was found may have been said.
    lines = [
        line for line in err.splitlines() if not re.match(r"(small(-audit)?: )?\d+ (runs|rounds of digits) into |round ", line)
    ]
    assert (code, out, len(lines)) == (2, "", 1), out + err
    assert lines[0].startswith("privfl: ")
    assert MISTAKES[typed] in lines[0]
