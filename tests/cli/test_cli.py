"""The command line: what it prints, what it exits with, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from command_line import Call, calling, one_line
from small_runs import small

from privfl import cli
from privfl.cli import interruption
from privfl.loading import dump, load, load_data
from privfl.running import sweeping
from privfl.running.recording import run as train
from privfl.running.run_folder import FORMAT, RunFolder

ROOT = Path(__file__).parents[2]
PLAIN: dict[str, Any] = {"privacy": {"kind": "none"}, "aggregator": {"kind": "mean"}, "server": {"kind": "fedavg"}}


@pytest.fixture
def privfl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return calling(monkeypatch, capsys)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(dump(small(rounds=3, attacks={"run": ["membership/loss"], "shadow_models": 0}, **PLAIN)))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(small(rounds=2, attacks={"shadow_models": 0}, **PLAIN), tmp_path_factory.mktemp("runs") / "finished")


def start(*args: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "privfl", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- help and usage ---------------------------------------------------------------------------------------------------


def commands(app: typer.Typer, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every command and its epilog."""
    found = {
        (*prefix, command.name or command.callback.__name__): command.epilog or ""  # type: ignore[union-attr]
        for command in app.registered_commands
    }
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found |= commands(group.typer_instance, (*prefix, str(group.name)))
    return found


COMMANDS = commands(cli.app)


def test_the_commands_are_those_of_the_documentation() -> None:
    names = {
        "run",
        "init",
        "sweep",
        "frontier",
        "attack",
        "audit",
        "report",
        "track",
        "reproduce",
        "export",
        "account",
        "doctor",
    }
    names |= {"data list", "data info", "data show", "data fetch"}
    assert {" ".join(words) for words in COMMANDS} == names


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_an_example(words: tuple[str, ...], privfl: Call) -> None:
    code, out, err = privfl(*words, "--help")
    assert (code, err) == (0, "")
    example = COMMANDS[words].removeprefix("Example: ")
    assert " ".join(f"Example: {example}".split()) in " ".join(out.split())
    assert example.startswith(f"privfl {' '.join(words)}")


@pytest.mark.parametrize("words", [("run",), ("account",), ("data", "show")], ids=" ".join)
def test_the_examples_are_true(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    typed = shlex.split(COMMANDS[words].partition(" --out")[0])[2 + len(words) :]
    given, *overrides = [word for word in typed if not word.startswith("--")]
    loaded = load_data(given, overrides) if words[0] == "data" else load(given, *overrides)
    assert overrides
    assert loaded != (load_data(given) if words[0] == "data" else load(given))


def test_without_arguments_there_is_help(privfl: Call) -> None:
    code, out, err = privfl()
    assert code == 2
    assert "doctor" in out + err


# --- mistakes; more of them are in test_mistakes.py --------------------------------------------------------------------


def test_a_folder_of_another_version(finished: RunFolder, tmp_path: Path, privfl: Call) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.toml", "environment.json"):
        content = (finished.path / name).read_text().replace(f'"format": {FORMAT}', '"format": 99')
        (other / name).write_text(content)
    for args in (["attack", other], ["report", other], ["run", other / "config.toml", "--resume", "--out", other]):
        code, _, err = privfl(*args)
        assert code == 2
        assert f"has format 99; this privfl reads format {FORMAT}: run its config.toml again" in one_line(err)


def test_a_change_of_configuration_is_named_on_resume(finished: RunFolder, privfl: Call) -> None:
    code, _, err = privfl("run", finished.path / "config.toml", "training.batch_size=8", "--resume", "--out", finished.path)
    assert code == 2
    assert "was begun with training.batch_size = 16, not 8; resume with the settings in its config.toml" in one_line(err)


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_run_attack_report_twice(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privfl: Call) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("small", "small-2"):
        code, out, err = privfl("run", config)
        assert code == 0, err
        # What a person can follow where there is no terminal: a line a round.
        lines = err.splitlines()
        assert lines[0] == f"small: 3 rounds of digits into runs/{folder}"
        assert [line.split("  ")[0] for line in lines[1:4]] == ["round 1/3", "round 2/3", "round 3/3"]
        assert all("accuracy" in line for line in lines[1:4])
        page = tmp_path / "runs" / folder / "report.html"
        assert out.splitlines()[-1] == f"page: {page}"
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
        code, out, err = privfl("attack", f"runs/{folder}", "membership/loss", "attacks.shadow_models=0")
        assert code == 0, err
        code, out, err = privfl("report", f"runs/{folder}", "--papers")
        assert (code, err) == (0, "")
        assert (page.parent / "figures" / "roc.pdf").is_file()
        assert (page.parent / "tables" / "clients.tex").is_file()
    one, other = (RunFolder.open(tmp_path / "runs" / folder) for folder in ("small", "small-2"))
    assert one.result == other.result
    assert one.findings == other.findings != ()
    code, out, err = privfl("report", one.path, other.path)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"page: {tmp_path / 'comparison.html'}"
    # A finished run is not trained again; what --resume finds without --out is the last.
    code, _, err = privfl("run", config, "--resume")
    assert (code, err) == (0, "small: 3 rounds of digits into runs/small-2\n")


def test_epsilon_is_shown_and_a_budget_that_ends_a_run_is_said(config: Path, tmp_path: Path, privfl: Call) -> None:
    privacy = ["privacy.kind=example", "privacy.noise_multiplier=1", "privacy.delta=1e-4", "privacy.max_grad_norm=1"]
    args = [config, *privacy, "privacy.max_epsilon=4", "rounds=30", "attacks.run=[]", "--out", tmp_path / "run"]
    code, _, err = privfl("run", *args)
    assert code == 0
    *rounds, last = err.splitlines()[1:]
    assert all("ε " in line for line in rounds)
    assert last.startswith("stopped: round ")
    assert "above the budget of 4" in last


def test_commands_that_look_around(privfl: Call) -> None:
    for args, wanted in {
        ("doctor",): ["Python", "torch", "device", "data: digits", "present", "free disk"],
        ("data", "list"): ["digits", "fashion_mnist", "heart_disease", "licence"],
        ("data", "show", "digits", "clients=4", "partition.kind=shards"): ["4 clients", "examples per client"],
        ("data", "fetch", "digits"): ["digits: is here already"],
        ("data", "info", "digits"): [
            "handwritten digits",
            "1,438",
            "CC BY 4.0",
            "comes with a library",
            "fixed fifth",
            "data.holdout: 0.2",
        ],
        ("data", "info", "table"): ["your own", "privfl data show table file=FILE.csv", "data.label: must be given"],
    }.items():
        code, out, _ = privfl(*args)
        assert code == 0
        assert all(word in out for word in wanted), out


def test_one_data_set_is_described(privfl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVFL_DATA", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda app: str(tmp_path / "cache" / app))
    code, out, _ = privfl("data", "info", "digits", "--json")
    here = json.loads(out)
    assert code == 0
    assert (here["training_examples"], here["test_examples"], here["shape"]) == (1438, 359, [1, 8, 8])
    assert here["class_names"] == [str(digit) for digit in range(10)]
    assert here["settings"] == {"clients": None, "partition": "iid", "transforms": [], "rotations": [], "holdout": 0.2}
    assert "scikit-learn" in here["provenance"]
    code, out, _ = privfl("data", "info", "location30", "--json")
    missing = json.loads(out)
    assert code == 0
    assert not missing["here"]
    assert missing["fetch"] == "privfl data fetch location30"
    assert (missing["training_examples"], missing["classes"], missing["settings"]["train_size"]) == (4007, 30, None)
    assert "provenance" not in missing
    (tmp_path / "location30").mkdir()
    (tmp_path / "location30" / "bangkok").write_text("1,2\n")
    code, _, err = privfl("data", "info", "location30")
    assert code == 2
    assert "location30" in one_line(err)


def headings(out: str) -> list[str]:
    """The first word of each line, and the whole line of the page's place; figures in seconds differ between runs."""
    return [line if line.startswith("page: ") else " ".join(line.split()[:1]) for line in out.splitlines()]


def test_quiet_commands_print_the_end_and_errors_alone(config: Path, tmp_path: Path, privfl: Call) -> None:
    doubtful = ["training.batch_size=4000"]
    code, loud_out, loud_err = privfl("run", config, *doubtful, "--out", tmp_path / "noisy")
    assert code == 0
    assert "rounds of digits" in loud_err
    assert re.search(r"^warning: training\.batch_size = 4000: is more than any client has", loud_err, re.MULTILINE)
    code, out, err = privfl("run", config, *doubtful, "--out", tmp_path / "quiet", "--quiet")
    assert (code, err) == (0, "")
    assert headings(out.replace("/quiet/", "/noisy/")) == headings(loud_out)
    code, out, err = privfl("attack", tmp_path / "quiet", "membership/loss", "--quiet")
    assert (code, err) == (0, "")
    assert "page: " in out
    code, out, err = privfl("run", config, "--out", tmp_path / "quiet", "--quiet")
    assert (code, out) == (2, "")
    assert one_line(err)
    assert len(err.splitlines()) == 1
    code, _, err = privfl("attack", tmp_path / "quiet", "membership/loss", "attacks.shadow_models=1")
    assert code == 0
    assert err  # Not quiet for good.


def test_a_quiet_sweep_names_its_failures(config: Path, tmp_path: Path, privfl: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_one(config: Path, variant: sweeping.Variant, out: Path, environment: Any, overwrite: bool) -> sweeping.EndedRun:
        if "seed=1" in variant.overrides:
            return sweeping.EndedRun(variant, out / variant.name, 2, "no luck")
        train(load(config, *variant.overrides, "rounds=1"), out / variant.name)
        return sweeping.EndedRun(variant, out / variant.name, 0, "")

    monkeypatch.setattr(sweeping, "run_one", run_one)
    for command in ("sweep", "frontier"):
        said = {}
        for quiet in ([], ["--quiet"]):
            args = [config, "seed=0..1", "--out", tmp_path / f"{command}{len(quiet)}", *quiet]
            code, out, said[len(quiet)] = privfl(command, *args)
            assert code == 2
            assert "page: " in out
        assert "2 runs into" in said[0]
        assert "seed=0: done" in said[0]
        failed, last = said[1].splitlines()
        assert "seed=1: exit code 2: no luck" in failed
        assert last.startswith("privfl: 1 of 2 runs failed")


def test_data_are_dealt_as_in_a_run_of_the_same_seed(finished: RunFolder, privfl: Call) -> None:
    def sizes(*seed: str) -> list[int]:
        code, out, _ = privfl("data", "show", "digits", "clients=10", "partition.kind=dirichlet", "partition.alpha=1.0", *seed)
        assert code == 0
        spread = next(line for line in out.splitlines() if line.startswith("examples per client"))
        return [int(word) for word in re.findall(r"[\d,]+", spread)]

    dealt = [sum(counts) for counts in finished.partition.counts]
    assert sizes() == sizes("seed=0") == [min(dealt), round(float(np.median(dealt))), max(dealt)]
    assert sizes("seed=1") != sizes()


def test_account_prices_a_run_without_training(tmp_path: Path, privfl: Call) -> None:
    (tmp_path / "priced.toml").write_text(dump(small()))
    code, out, _ = privfl("account", tmp_path / "priced.toml")
    assert code == 0
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.splitlines() if line.startswith("│")}
    trained = train(small(), tmp_path / "run").result.privacy
    assert trained is not None
    # What was foretold is what the ledger says afterwards.
    assert rows["ε by PLD, add or remove one"].split()[0] == f"{trained.epsilon:.3f}"
    assert rows["ε by RDP, add or remove one"].split()[0] == f"{trained.prices[1].epsilon:.3f}"


# --- a disk that is full, an interrupt, a worker that dies ------------------------------------------------------------


def test_a_full_disk_leaves_a_folder_that_resume_finishes(tmp_path: Path) -> None:
    """Files may not grow beyond 16 kB in the child: the round that would exceed it ends the run in one line."""
    settings = small(rounds=80, records={"views": "final"}, **PLAIN)
    path, out = tmp_path / "small.toml", tmp_path / "run"
    path.write_text(dump(settings))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))

    with start("run", path, "--out", out, preexec_fn=limit) as child:
        _, err = child.communicate()
    assert child.returncode == 1, err
    last = err.splitlines()[-1]
    assert last.startswith(f"privfl: {out}/")
    assert ": could not be written (File too large); free some space, then go on with --resume" in last
    assert "Traceback" not in err
    done = sum(line.startswith("round ") for line in err.splitlines())
    assert 0 < done < 80
    resumed = train(settings, out, resume=True)
    assert resumed.result == train(settings, tmp_path / "other").result


def test_an_interrupt_ends_with_130_and_the_command_that_goes_on(tmp_path: Path, privfl: Call) -> None:
    settings = small(rounds=60, **PLAIN)
    path, out = tmp_path / "small.toml", tmp_path / "run"
    path.write_text(dump(settings))
    seen: list[str] = []
    with start("run", path, "--out", out) as child:
        assert child.stderr is not None
        for line in child.stderr:
            seen.append(line)
            if line.startswith("round 2/"):
                # Perhaps twice: rich prints the line again that it was interrupted in.
                child.send_signal(signal.SIGINT)
    assert child.returncode == 130
    before, command, after = seen[-1].split("`")
    assert (before, after) == ("privfl: interrupted; what is finished is kept: go on with ", "\n")
    assert "Traceback" not in "".join(seen)
    assert 2 <= len(RunFolder.open(out).rounds()) < 60
    python, dash, module, *words = shlex.split(command)
    assert (python, dash, module) == (sys.executable, "-m", "privfl")
    assert privfl(*words)[0] == 0
    assert RunFolder.open(out).result == train(settings, tmp_path / "other").result


@pytest.mark.parametrize(
    ("started", "words"), [("/a b/__main__.py", ["/a b/python", "-m", "privfl"]), ("/a b/privfl", ["/a b/privfl"])]
)
def test_the_command_that_goes_on_can_be_typed_in_a_folder_with_a_space(
    started: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr(sys, "executable", "/a b/python")
    monkeypatch.setenv("PATH", "")
    assert shlex.split(interruption.program()) == words


@pytest.mark.parametrize("ended", [KeyboardInterrupt(), SystemExit(130)], ids=repr)
def test_an_impatient_second_interrupt_changes_nothing(ended: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stderr(io.StringIO):
        def write(self, text: str) -> int:
            os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    def app() -> None:
        raise ended

    before = signal.getsignal(signal.SIGINT)
    printed = Stderr()
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "stderr", printed)
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
            cli.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(caught.value, SystemExit)
    assert caught.value.code == 130
    assert printed.getvalue().startswith("privfl: interrupted; ")


def attacked(tmp_path: Path, shadows: int = 2, **changes: Any) -> Path:
    """A finished run whose attack trains shadow models in worker processes."""
    attacks = {"run": ["membership/lira"], "shadow_models": shadows}
    return train(small(rounds=2, attacks=attacks, **{**PLAIN, **changes}), tmp_path / "with a space" / "run").path


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_an_interrupt_of_an_attack_is_silent_in_its_workers(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of the group."""
    seen: list[str] = []
    with start("attack", attacked(tmp_path), start_new_session=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            seen.append(line)
            if line.startswith("shadow models: 0 of 2"):
                time.sleep(1.0)  # the workers are importing now
                for worker in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split():
                    os.kill(int(worker), signal.SIGINT)
                time.sleep(0.5)  # long enough for them to say something, if they would
                os.killpg(child.pid, signal.SIGINT)
    assert child.returncode == 130
    assert [line.split(":")[0] for line in seen] == ["shadow models", "privfl"]


IN_A_WORKER = """
    import multiprocessing, os
    from torch import nn
    from privfl.learning.models import Model

    class Net(Model):
        "A model that some processes cannot build."
        how: str

        def build(self, input_shape, classes):
            if multiprocessing.parent_process() is not None:
                {"die": lambda: os._exit(9)}[self.how]()
            return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("raise", 2, "build() failed (KeyError: 'raise')"),
        ("die", 1, "a process that trained a shadow model died (exit code 9); attack again to go on"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_one_line_too(
    how: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privfl: Call
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / f"net_{how}.py").write_text(textwrap.dedent(IN_A_WORKER))
    (lab / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lab", raising=False)
    folder = attacked(tmp_path, model={"kind": f"lab.net_{how}", "how": how})
    ended, _, err = privfl("attack", folder)
    assert err.splitlines()[0] == "shadow models: 0 of 2"
    assert [line for line in err.splitlines() if line != "shadow models: 0 of 2"] == [one_line(err.splitlines()[-1])]
    assert said in err
    assert ended == code


@pytest.fixture
def unguarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the place of the script that was started, without a guard; gives what it makes when it is imported."""
    made, script = tmp_path / "made", tmp_path / "script.py"
    script.write_text(f"open({str(made)!r}, 'w').close()\n")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    return made


def test_shadow_models_are_followed_and_kept(tmp_path: Path, unguarded: Path, privfl: Call) -> None:
    folder = attacked(tmp_path)
    code, _, err = privfl("attack", folder)
    assert (code, err.splitlines()) == (0, [f"shadow models: {done} of 2" for done in range(3)])
    # No worker imports the script that was started, which would attack again.
    assert not unguarded.exists()
    first = RunFolder.open(folder).findings
    # The second time nothing is trained again, and the result is the same.
    code, _, err = privfl("attack", folder)
    assert (code, err.splitlines()) == (0, ["shadow models: 2 of 2"])
    assert RunFolder.open(folder).findings == first


# --- figures for programs ---------------------------------------------------------------------------------------------


def test_json_in_place_of_tables(privfl: Call, config: Path, finished: RunFolder) -> None:
    noisy = ['privacy={kind="example",noise_multiplier=1.0,delta=1e-4,max_grad_norm=1.0}', "aggregator=secure_sum"]
    code, out, _ = privfl("account", config, *noisy, "--json")
    assert code == 0
    price = json.loads(out)
    assert price["epsilon"] == max(price["epsilon_clients"]) > 0
    assert price["prices"][0]["epsilon"] == price["epsilon"]
    code, out, _ = privfl("doctor", "--json")
    assert code == 0
    assert json.loads(out)["privfl"]
    page = finished.path / "report.html"
    code, out, _ = privfl("report", finished.path, "--json")
    assert code == 0
    (run,) = json.loads(out)
    assert run["result"]["rounds"] == 2
    assert run["findings"] == []
    assert not page.exists()
