"""The user's mistakes in one line: words that a command does not take, and errors that end one."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, cast

import typer
from typer.core import TyperGroup

from privfl import own_code
from privfl.cli.console import err
from privfl.errors import PrivflError, UserError


class OneLineGroup(TyperGroup):
    """A group of commands that raises a UserError of one line if a command does not take the words it is given."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        with _told_shortly():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """See the class."""
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


def end_with(error: PrivflError, cause: Exception) -> NoReturn:
    """Tell an error in one line, after the traceback if that was asked for, and leave the program."""
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
