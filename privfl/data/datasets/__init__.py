"""SHELF of data sets. The file's name is its name in a configuration.

An item is one module with one class that derives from :class:`Dataset`, in most cases through :class:`FileDataset`. A loader
looks in ``PRIVFL_DATA``, then in the folders of system packages, then in the cache. A loader never downloads:
``privfl data fetch NAME`` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt

from privfl.config import DataConfig, Fraction
from privfl.data.datasets._sources import Apt, Npm, Pip, Source, Url
from privfl.data.datasets._store import Contents, File, Form, Found, find, folders
from privfl.data.federated import LoadedData
from privfl.errors import DataError, ItemError

__all__ = [
    "About",
    "Apt",
    "Contents",
    "Dataset",
    "File",
    "FileDataset",
    "Form",
    "MadeUp",
    "Npm",
    "OwnFiles",
    "Pip",
    "Source",
    "Url",
]


_READ_TWICE = 2**28
"""Size in bytes up to which a user's own data set is read a second time, to check that it is the same."""


@dataclass(frozen=True)
class About:
    """A data set's description, which is known before it is loaded.

    Args:
        title: its content in a few words.
        train: number of examples in the pool; None if it depends on the user's files.
        test: number of examples in the central test split; None likewise.
        classes: number of classes; None likewise.
        licence: the licence as its publishers state it.
        homepage: URL of its publishers.
    """

    title: str
    train: int | None
    test: int | None
    classes: int | None
    licence: str
    homepage: str


class Dataset(DataConfig, ABC):
    """A data set; the contract of this shelf."""

    about: ClassVar[About]
    """Its description, which is known before it is loaded."""

    @property
    def name(self) -> str:
        """The name of its folder: the last part of ``kind``."""
        return self.kind.rpartition(".")[2]

    @abstractmethod
    def read(self) -> LoadedData:
        """Read the data; :meth:`load` checks the result.

        Raises:
            DataError: the data are missing (the message names the one command to type), truncated or of a wrong hash.
        """

    def load(self) -> LoadedData:
        """Read the data and check them: known content, finite values, and the stated numbers of examples and classes.

        A data set of the user's own is read twice if it is small, and both readings must agree. If it were shuffled without a
        seed, every process and every resumption would get other data, and no run could be repeated.

        Raises:
            DataError: the data are missing (the message names the one command to type), truncated, of a wrong hash, not finite,
                or different at the second reading.
            ItemError: :meth:`read` does not return a LoadedData.
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
                "give its shuffling a fixed seed (random_state=0, or np.random.default_rng(0))"
            )
        return loaded

    def check(self, loaded: LoadedData) -> LoadedData:
        """Return the data unchanged if they have the stated numbers of examples and classes.

        Raises:
            DataError: a count differs from :attr:`about`.
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
        """The folder of its files; None if they are missing, or if the data set has no files."""
        return None

    @property
    def remedy(self) -> str:
        """Advice to the user if the data are missing or damaged; it ends an error message."""
        return f"see {self.about.homepage}"


class OwnFiles(Dataset, ABC):
    """A data set in the user's own files of a common form; the user writes no class for it.

    The test part is either in files of its own, or drawn here.

    Args:
        test_share: share of the examples that is drawn for the test part if no files are given for it.
        split_seed: seed of that draw. It is independent of a run's seed: all runs on the data have the same test part.
    """

    example: ClassVar[str]
    """The settings that name the files, as they are typed on a command line."""

    test_share: Fraction = 0.2
    split_seed: int = 0

    @property
    def remedy(self) -> str:
        """See :class:`Dataset`."""
        return f"docs/data.md has an example of data.kind = {self.name!r}"


class MadeUp(Dataset, ABC):
    """A data set that is drawn by a rule; its settings decide how many examples there are.

    Args:
        draw_seed: seed of the draw. It is independent of a run's seed: all runs with the same settings have the same data.
    """

    draw_seed: int = 0


class FileDataset(Dataset, ABC):
    """A data set that is read from files.

    Args:
        train_size: number of training examples, the first ones of the files; None: all. Few examples are memorised sooner.
    """

    train_size: PositiveInt | None = None

    forms: ClassVar[tuple[Form, ...]]
    """The forms in which it is published, each a complete set of files. The first one found is read."""

    sources: ClassVar[tuple[Source, ...]] = ()
    """The sources of ``privfl data fetch``, in the order in which they are tried."""

    system: ClassVar[tuple[str, ...]] = ()
    """Folders in which a system package installs it."""

    @abstractmethod
    def parse(self, contents: Contents) -> LoadedData:
        """Turn the contents of all files of one form into arrays.

        Raises:
            DataError: a file's content does not have the expected format.
        """

    def find(self) -> Found | None:
        """The folder of its files; None if they are missing."""
        return find(folders(self.name, self.system), self.forms)

    def load(self) -> LoadedData:
        """See :class:`Dataset`; the examples after ``train_size`` are left out once the whole data set is checked.

        Raises:
            DataError: as :class:`Dataset`, or the data set has fewer examples.
        """
        loaded = super().load()
        if self.train_size is None:
            return loaded
        if self.train_size > len(loaded.train):
            raise DataError(
                f"data.train_size = {self.train_size}: {self.name} has {len(loaded.train)} training examples; "
                "set no more than that, or leave it out"
            )
        return loaded.first(self.train_size)

    @property
    def remedy(self) -> str:
        """Advice to the user if the data are missing or damaged; it ends an error message."""
        own = f"put the files from {self.about.homepage} into $PRIVFL_DATA/{self.name}/"
        return f"type `privfl data fetch {self.kind}`, or {own}" if self.sources else own

    def read(self) -> LoadedData:
        """Find the files, check them and parse them.

        Raises:
            DataError: they are missing or damaged, or do not have the expected format.
        """
        try:
            found = self.find()
            if found is not None:
                return self.parse(found.read())
        except DataError as error:
            raise DataError(f"{error}: remove or replace it; {self.remedy}") from None
        looked = ", ".join(str(folder) for folder in folders(self.name, self.system))
        raise DataError(f"{self.name}: is not on this machine (looked in {looked}): {self.remedy}")
