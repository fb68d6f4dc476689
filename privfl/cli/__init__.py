"""The command line: parse, call, and say in one line what went wrong.

Exit codes: 0 done, 1 an error that is not the user's, 2 the user's mistake, 130 interrupted (the run can be resumed).
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from typer.core import TyperGroup

from privfl import own_code
from privfl.cli import progress
from privfl.errors import ConfigError, PrivflError, UserError
from privfl.loading import load, load_data
from privfl.running.default_folder import default_folder
from privfl.running.run_folder import RunFolder
from privfl.running.sweeping import Ended
from privfl.storage import write_atomic


class _InOneLine(TyperGroup):
    """Says in one line, as of every other mistake, what is wrong with the words of a command."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _told_shortly():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _told_shortly():
            return super().invoke(ctx)


_UsageError: Final = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
"""Click's, of whichever click typer brings along."""


@contextmanager
def _told_shortly() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        said = " ".join(error.format_message().split()).rstrip(".")
        words, context = ["--help"], error.ctx
        while context is not None and context.parent is not None:
            words.insert(0, str(context.info_name))
            context = context.parent
        raise UserError(f"{said} (`privfl {' '.join(words)}` shows what there is)") from None


app = typer.Typer(
    cls=_InOneLine,
    help="Federated learning with the privacy measured beside the accuracy.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
data_app = typer.Typer(
    help="The data sets: which there are, what a partition of one looks like, how to get one.", no_args_is_help=True
)
app.add_typer(data_app, name="data")

out = Console()
err = Console(stderr=True)

_INTERRUPTED = 130

_way_on = ContextVar("_way_on", default="type the same command again to go on")
"""How to go on with what is interrupted."""

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file, for example one of paper_configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that replace the file's; KEY= takes one away.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `privfl run` made.")]


@app.command(epilog="Example: privfl run paper_configs/quickstart.toml seed=1 training.lr=0.2 --out runs/second")
def run(
    config: Config,
    overrides: Overrides = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="The run folder; runs/NAME unless it is given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
) -> None:
    """Train, attack what came of it, and write the page.

    Under `torchrun --nproc-per-node N -m privfl run ...` N processes share out each cohort; the result is the same.
    """
    settings = load(config, *overrides or ())

    from privfl import processes
    from privfl.running import recording

    with processes.joined() as all_of_them:
        if not all_of_them.first:
            recording.assist(settings, all_of_them)
            return
        path = out_dir or default_folder(settings, resume=resume, overwrite=overwrite)
        same = shlex.join(["run", str(config), *(overrides or ()), "--out", str(path), "--resume"])
        _way_on.set(f"go on with `{_program()} {same}`")
        with progress.training(err, settings, path, all_of_them.size) as observer:
            folder = recording.run(settings, path, resume=resume, overwrite=overwrite, observer=observer, processes=all_of_them)
    stopped = folder.result.stopped
    if stopped is not None:
        err.print(f"stopped: {stopped}", style="yellow", highlight=False)
    if settings.attacks.run and not folder.findings:
        _attack(folder, (), ())
    _report([folder], None)


@app.command(epilog="Example: privfl sweep paper_configs/digits.toml seed=0..4 privacy.target_epsilon=2,8 --jobs 2")
def sweep(
    config: Config,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE[,VALUE...]", help="Settings; of several values each is tried; 0..4 is five of them."),
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Where the runs go; runs/NAME-sweep unless given.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time; on a machine with GPUs, one a GPU is good.")] = 1,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Run as a job array instead: slurm (needs the extra 'slurm').")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the runs that are there.")] = False,
    ask: Annotated[
        list[str] | None, typer.Option("--ask", metavar="NAME=VALUE", help="What the scheduler is asked for: timeout_min=60.")
    ] = None,
) -> None:
    """Run every combination of several settings, each into a folder of its own, and compare them on one page.

    The same command goes on with a sweep that was interrupted; finished runs are not run again.
    """
    from privfl.running import sweeping

    if ask and cluster is None:
        raise ConfigError(f"--ask {ask[0]!r}: is for a scheduler; name it with --cluster slurm, or leave it out to run here")
    chosen = sweeping.variants(config, overrides or ())
    out_path = out_dir or Path("runs") / f"{load(config).name}-sweep"
    err.print(f"{len(chosen)} runs into {out_path}", highlight=False, soft_wrap=True)
    if cluster is not None:
        asked = _parameters(ask or ())
        ended = sweeping.run_on_cluster(config, chosen, out_path, cluster=cluster, parameters=asked, overwrite=overwrite)
        for one in ended:
            _ended(one)
    else:
        ended = sweeping.run_here(config, chosen, out_path, jobs=jobs, gpus=_gpus(), overwrite=overwrite, observer=_ended)
    done = [RunFolder.open(one.folder) for one in ended if one.code == 0]
    if done:
        _report(done, out_path / "comparison.html")
    failed = sum(one.code != 0 for one in ended)
    if failed:
        err.print(f"privfl: {failed} of {len(ended)} runs failed; mend what they say and type the same again", style="red")
        raise typer.Exit(max(one.code for one in ended if one.code != 0))


def _ended(one: Ended) -> None:
    said = "done" if one.code == 0 else f"exit code {one.code}: {one.words}"
    err.print(f"{one.variant.name}: {said}", highlight=False, soft_wrap=True, markup=False)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _parameters(asked: Sequence[str]) -> dict[str, str | int]:
    pairs = [pair.partition("=") for pair in asked]
    for name, equals, value in pairs:
        if not equals or not value:
            raise ConfigError(f"--ask {name!r}: must be NAME=VALUE, for example timeout_min=60")
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


@app.command(epilog="Example: privfl attack runs/quickstart membership/rmia attacks.shadow_models=8")
def attack(
    run_dir: Run,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]|[KEY=VALUE]",
            help="For example membership/lira, or a dotted path; or attacks.shadow_models=8, which keeps those that are there.",
        ),
    ] = None,
) -> None:
    """Attack a finished run, with the attacks of its configuration or with those named, and write the page again."""
    from privfl.report import attacks_tables

    folder = RunFolder.open(run_dir)
    _attack(folder, [word for word in words or () if "=" not in word], [word for word in words or () if "=" in word])
    for table in attacks_tables(folder):
        out.print(table)
    _report([folder], None)


@app.command(epilog="Example: privfl report runs/quickstart runs/no-privacy --out comparison.html")
def report(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that `privfl run` made.")],
    out_file: Annotated[Path | None, typer.Option("--out", help="The page's file.")] = None,
) -> None:
    """Write the page of a run, or the comparison of several."""
    _report([RunFolder.open(path) for path in run_dirs], out_file)


@app.command(epilog="Example: privfl export runs/quickstart quickstart.onnx")
def export(
    run_dir: Run,
    out_file: Annotated[Path, typer.Argument(metavar="FILE", help="Its suffix is the format: .onnx, .pt2 or .safetensors.")],
) -> None:
    """Write the trained model of a run as a file that other programs read."""
    from privfl.running import trained_model

    written = trained_model.export(RunFolder.open(run_dir), out_file)
    out.print(f"model: {written} ({written.stat().st_size:,} bytes)", soft_wrap=True, highlight=False)


@app.command(epilog="Example: privfl account paper_configs/quickstart.toml privacy.target_epsilon=2")
def account(
    what: Annotated[Path, typer.Argument(metavar="CONFIG|RUN", help="A TOML file, or the folder of a run.")],
    rest: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]|[RUN]", help="Settings that replace the file's, or more runs.")
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also draw ε over the rounds.")] = False,
    curve_file: Annotated[Path | None, typer.Option("--out", help="Where the curve is written too, as SVG.")] = None,
) -> None:
    """What ε a configuration will cost, by each accountant, without training; or what several runs cost together."""
    from privfl.report import spending
    from privfl.running import pricing

    if what.is_dir():
        if curve or curve_file:
            raise ConfigError(f"--curve and --out draw what a configuration will cost; give {what / 'config.toml'}, or neither")
        _account_runs([what, *map(Path, rest or ())])
        return
    with err.status("reading the data, pricing the plan"):
        priced = pricing.account(load(what, *rest or ()))
        spent = pricing.over_rounds(priced.experiment) if curve or curve_file else []
    table = Table(title="What the run will cost", title_justify="left", show_header=False)
    for name, value in priced.rows():
        table.add_row(name, value)
    out.print(table)
    if curve:
        out.print(spending.curve_text(spent), highlight=False)
    if curve_file is not None:
        write_atomic(curve_file, spending.drawing(spent).standing_alone().encode())
        out.print(f"curve: {curve_file}", soft_wrap=True, highlight=False)


def _account_runs(paths: list[Path]) -> None:
    from privfl.privacy.words import RELATIONS
    from privfl.running import composing, pricing

    rows = composing.compose([RunFolder.open(path) for path in paths])
    table = Table("run", "ε by itself", "ε with those above", title="What these runs cost together", title_justify="left")
    for row in rows:
        table.add_row(row.name, pricing.shown(row.alone), pricing.shown(row.together))
    out.print(table)
    out.print(f"per {rows[0].unit}, {RELATIONS[rows[0].relation]}, δ = {rows[0].delta:g}", highlight=False)


@app.command(epilog="Example: privfl doctor")
def doctor() -> None:
    """What privfl finds on this machine: Python, PyTorch, device, data sets, versions."""
    import torch

    from privfl.data.datasets import _fetch
    from privfl.running import recording

    cuda = torch.cuda.is_available()
    found = recording.environment(torch.device("cuda" if cuda else "cpu"))
    table = Table(title="privfl doctor", title_justify="left", show_header=False)
    table.add_row("Python", f"{found.python} ({sys.executable})")
    table.add_row("machine", f"{platform.platform()}, {os.cpu_count()} cores")
    table.add_row("device", f"cuda: {found.device}" if cuda else "cpu (PyTorch finds no GPU)")
    table.add_row("privfl", found.privfl)
    for name, version in found.packages.items():
        table.add_row(name, version)
    for entry in _fetch.inventory():
        table.add_row(f"data: {entry.name}", "present" if entry.present else f"missing; privfl data fetch {entry.name}")
    table.add_row("free disk here", f"{shutil.disk_usage('.').free / 1e9:.1f} GB")
    out.print(table)


@data_app.command("list", epilog="Example: privfl data list")
def data_list() -> None:
    """Every data set, whether it is here, and where it can be had."""
    from privfl.data.datasets import _fetch

    table = Table("name", "here", "what it is", "licence", "where from")
    for entry in _fetch.inventory():
        here = "yes" if entry.present else "no"
        table.add_row(
            entry.name, here, entry.about.title, entry.about.licence, next(iter(entry.sources), "comes with a library")
        )
    out.print(table)


@data_app.command(
    "show", epilog="Example: privfl data show fashion_mnist clients=20 partition.kind=dirichlet partition.alpha=0.1 seed=1"
)
def data_show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")], overrides: Overrides = None
) -> None:
    """Draw who has how much of which class, in a run of the same seed (0 unless seed=N is given)."""
    from privfl.data.datasets import Dataset
    from privfl.data.federated import FederatedData
    from privfl.report.terminal import partition_table
    from privfl.seeding import Seed
    from privfl.tables import narrow

    settings = load_data(name, overrides or ())
    loaded = narrow(settings.data, Dataset).load()
    data = FederatedData.build(loaded, settings.data, Seed(settings.seed) / "data")
    out.print(data.provenance, style="dim")
    out.print(partition_table(data.counts(), data.counted, data.clients))


@data_app.command("fetch", epilog="Example: privfl data fetch fashion_mnist")
def data_fetch(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")]) -> None:
    """Get a data set into the cache, from the first of its sources that gives it; checked against known hashes."""
    from privfl.data.datasets import _fetch

    _fetch.dataset(name)  # A wrong name is said before a bar is drawn.
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=err) as bar:
        fetched = _fetch.fetch(name, progress.FetchBar(bar))
    place = fetched.place or "a library of this environment"
    out.print(
        f"{name}: is here already, in {place}" if fetched.source is None else f"{name}: got from {fetched.source} into {place}"
    )


def _attack(folder: RunFolder, names: Sequence[str], settings: Sequence[str]) -> None:
    from privfl.running.attacking import attack

    with progress.shadow_models(err) as observer:
        attack(folder, names, settings=settings, observer=observer)


def _report(folders: list[RunFolder], out_file: Path | None) -> None:
    from privfl.report import summary_table, write_report

    target = out_file or (folders[0].path / "report.html" if len(folders) == 1 else Path("comparison.html"))
    page = write_report(folders, target)
    for folder in folders:
        out.print(summary_table(folder))
    out.print(f"page: {page.resolve()}", soft_wrap=True, highlight=False)


def _program() -> str:
    """The words that start this program, quoted for a shell: its name alone if that leads to it."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return shlex.join([sys.executable, "-m", "privfl"])
    found = shutil.which(started.name)
    return shlex.quote(started.name if found and Path(found).resolve() == started.resolve() else str(started))


def main() -> NoReturn:
    """The console script."""
    _look_here()
    try:
        app()
    except PrivflError as error:
        _end(error, error)
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Another Ctrl-C has nothing left to stop.
        # Not by way of rich: what it was printing would be printed again.
        sys.stderr.write(f"privfl: interrupted; what is finished is kept: {_way_on.get()}\n")
        sys.exit(_INTERRUPTED)
    except Exception as error:
        own = own_code.told(error)
        if own is None:
            raise
        _end(own, error)
    raise AssertionError("typer ends every command by leaving the program")


def _look_here() -> None:
    """Find modules of the user's own in the current folder, as ``python -m privfl`` does."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def _end(error: PrivflError, cause: Exception) -> NoReturn:
    """Say in one line what went wrong, after the traceback where that was asked for."""
    if own_code.debugging():
        traceback.print_exception(cause)
    where = own_code.place(error.__cause__) if error is cause and error.__cause__ is not None else None
    err.print(
        f"privfl: {error}{f' (in {where})' if where else ''}",
        style="red" if isinstance(error, UserError) else "bold red",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    sys.exit(error.exit_code)
