"""SHELF of data sets. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Dataset`, mostly by way of :class:`FileDataset`. A loader
looks in ``PRIVFL_DATA``, then in the places where system packages put the data, then in the cache; it never downloads:
``privfl data fetch NAME`` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from privfl.config import DataConfig, Fraction
from privfl.data.datasets._sources import Apt, Npm, Pip, Source, Url
from privfl.data.datasets._store import Contents, File, Form, Found, find, folders
from privfl.data.federated import LoadedData
from privfl.errors import DataError, ItemError

__all__ = ["About", "Apt", "Contents", "Dataset", "File", "FileDataset", "Form", "Npm", "OwnFiles", "Pip", "Source", "Url"]


_READ_TWICE = 2**28
"""Bytes of data that are soon read again."""


@dataclass(frozen=True)
class About:
    """What is known of a data set before it is loaded.

    Args:
        title: what it is called and what it holds.
        train: number of examples in the pool; None if only the user's files say.
        test: number of examples in the central test split; None likewise.
        classes: number of classes; None likewise.
        licence: as its publishers state it.
        homepage: where it comes from.
    """

    title: str
    train: int | None
    test: int | None
    classes: int | None
    licence: str
    homepage: str


class Dataset(DataConfig, ABC):
    """The contract of this shelf."""

    about: ClassVar[About]
    """What is known of it before it is loaded."""

    @property
    def name(self) -> str:
        """The last part of ``kind``: the name of its folder."""
        return self.kind.rpartition(".")[2]

    @abstractmethod
    def read(self) -> LoadedData:
        """Read the data; :meth:`load` checks what comes.

        Raises:
            DataError: missing (the message says the one command to type), truncated or of a wrong hash.
        """

    def load(self) -> LoadedData:
        """The data, checked: known content, finite, and as many examples and classes as there should be.

        A data set of somebody's own is read twice, where it is small: one that is shuffled without a seed would be another in
        every process and at every resumption, and no run of it could be repeated.

        Raises:
            DataError: missing (the message says the one command to type), truncated, of a wrong hash, or not finite; or other
                data at each reading.
            ItemError: what :meth:`read` returns is no LoadedData.
        """
        loaded = self.read()
        if not isinstance(loaded, LoadedData):
            found = type(loaded).__name__
            raise ItemError(f"{self.name}: read() returned a {found}; it must return a privfl.data.federated.LoadedData")
        self.check(loaded)
        own = not type(self).__module__.startswith(f"{__name__}.")
        if own and loaded.nbytes <= _READ_TWICE and self.read().digest() != loaded.digest():
            raise DataError(
                f"{self.kind}: reads other data each time, so that no run of it could be repeated, resumed or attacked; "
                "seed its shuffling (random_state=0, or np.random.default_rng(0))"
            )
        return loaded

    def check(self, loaded: LoadedData) -> LoadedData:
        """The same data, if they have as many examples and classes as they should.

        Raises:
            DataError: a count differs.
        """
        found = (len(loaded.train), len(loaded.test), len(loaded.classes))
        expected = (self.about.train, self.about.test, self.about.classes)
        if any(there != wanted for there, wanted in zip(found, expected, strict=True) if wanted is not None):
            raise DataError(
                f"{self.name}: has {found[0]} + {found[1]} examples of {found[2]} classes; "
                f"it must have {expected[0]} + {expected[1]} of {expected[2]}: {self.remedy}"
            )
        return loaded

    def find(self) -> Found | None:
        """Where its files lie; None where they are missing, or where it has none."""
        return None

    @property
    def remedy(self) -> str:
        """What to do when it is missing or damaged."""
        return f"see {self.about.homepage}"


class OwnFiles(Dataset, ABC):
    """Data of the user's own, in files of a common form: no class has to be written for them.

    The test part is either in files of its own, or drawn here.

    Args:
        test_share: the share of the examples that is set aside for the test part, if no files are given for it.
        split_seed: names the draw of the test part. It is no run's seed: all runs on the data have the same test part.
    """

    example: ClassVar[str]
    """The settings that name the files, as a command line has them."""

    test_share: Fraction = 0.2
    split_seed: int = 0

    @property
    def remedy(self) -> str:
        """See :class:`Dataset`."""
        return f"docs/data.md has an example of data.kind = {self.name!r}"


class FileDataset(Dataset, ABC):
    """A data set that is read from files."""

    forms: ClassVar[tuple[Form, ...]]
    """The forms that it is known in, each a complete set of files. The first that is found is read."""

    sources: ClassVar[tuple[Source, ...]] = ()
    """Where ``privfl data fetch`` can get it from, in the order in which they are tried."""

    system: ClassVar[tuple[str, ...]] = ()
    """Folders that a system package puts it into."""

    @abstractmethod
    def parse(self, contents: Contents) -> LoadedData:
        """Turn the contents of all files of one form into arrays.

        Raises:
            DataError: the content is not what the file's name promises.
        """

    def find(self) -> Found | None:
        """Where its files lie; None where they are missing."""
        return find(folders(self.name, self.system), self.forms)

    @property
    def remedy(self) -> str:
        """What to do when it is missing or damaged."""
        own = f"put the files from {self.about.homepage} into $PRIVFL_DATA/{self.name}/"
        return f"type `privfl data fetch {self.kind}`, or {own}" if self.sources else own

    def read(self) -> LoadedData:
        """Find the files, check them and parse them.

        Raises:
            DataError: they are missing, damaged, or not what their names promise.
        """
        try:
            found = self.find()
            if found is not None:
                return self.parse(found.read())
        except DataError as error:
            raise DataError(f"{error}: remove or replace it; {self.remedy}") from None
        looked = ", ".join(str(folder) for folder in folders(self.name, self.system))
        raise DataError(f"{self.name}: is not on this machine (looked in {looked}): {self.remedy}")
