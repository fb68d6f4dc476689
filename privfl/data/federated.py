"""Federated data: the owner of each example, and whether it is a member, that is, trained on (:class:`FederatedData`).

The whole pool is dealt to the clients first. Only then is membership drawn, example by example. Members and hold-out
examples of one client therefore come from one distribution, however skewed the partition is, and an attack cannot tell them
apart without the model.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from privfl.config import DataConfig, PartitionConfig
from privfl.data.named_inputs import Field, packed
from privfl.data.partitions import Partition, assign
from privfl.data.rotations import Groups, turned_images
from privfl.errors import DataError
from privfl.records import ColumnRecord, FileRecord
from privfl.seeding import Seed
from privfl.tables import narrow

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Pixels:
    """Normalisation of images that are stored as bytes: (byte / 255 - mean) / std in each of the C channels."""

    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]


@dataclass(frozen=True)
class Examples:
    """N labelled examples: ``x`` of shape (N, ...), float32, or images as bytes, (N, C, H, W); ``y`` of shape (N, ...).

    Labels are int64, such as classes, or float32, numbers to be learned; the task determines which it takes. If an example has
    several inputs, ``fields`` describes their places in a row of ``x`` (:mod:`privfl.data.named_inputs`).
    """

    x: FloatArray | ByteArray
    y: IntArray | FloatArray
    fields: tuple[Field, ...] = ()

    @classmethod
    def of(cls, inputs: Mapping[str, NDArray[Any]], y: IntArray | FloatArray) -> Examples:
        """Examples with several inputs, each of which a model takes by its name.

        Args:
            inputs: name -> array of shape (N, ...), float32 or int64.
            y: the labels, shape (N, ...).

        Raises:
            DataError: an input is unfit; the message names it.
        """
        x, fields = packed(inputs)
        return cls(x, y, fields)

    def classes(self) -> IntArray | None:
        """The labels if they are classes, int64 of shape (N,), else None."""
        return cast("IntArray", self.y) if self.y.ndim == 1 and self.y.dtype == np.int64 else None

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<{len(self):,} examples of shape {self.x.shape[1:]}, {self.x.dtype}>"


@dataclass(frozen=True)
class LoadedData:
    """A data set as its loader read it, before a partition.

    Args:
        train: the pool, before examples are dealt to clients or held out.
        test: the central test split.
        classes: the name of each class.
        provenance: the origin of the data and the particulars of this copy, in a sentence or two.
        natural_N: for each pool example, the client that the data themselves name; None if they name none.
        natural_names: those clients' names.
        pixels: normalisation of ``x`` if it is bytes (:class:`privfl.data.input_store.InputStore`).
        files: the user's own files from which it was read, for the run's records.
        columns: the rules by which a table's columns became numbers, likewise.
        group_K: the group of each client that the data name, if the data have groups of clients that are alike; else None.
        test_group_T: the group of each test example; None likewise.
        test_origin_T: for each test example, the place of its origin in ``test_origins``, such as its hospital; None if the
            data name none. The headline is also measured on the examples of each.
        test_origins: the origins' names.
        statistics: noise multipliers of the noised statistics of the pool on which ``x`` depends. Each is a Gaussian release to
            which one example contributes a vector of norm 1 at most, in units of the noise.

    Raises:
        DataError: a value is not finite, a label is not one of the classes, or shapes or types disagree.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    provenance: str
    natural_N: IntArray | None = None
    natural_names: tuple[str, ...] = ()
    pixels: Pixels | None = None
    files: tuple[FileRecord, ...] = ()
    columns: tuple[ColumnRecord, ...] = ()
    group_K: IntArray | None = None
    test_group_T: IntArray | None = None
    test_origin_T: IntArray | None = None
    test_origins: tuple[str, ...] = ()
    statistics: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for part, examples in (("training", self.train), ("test", self.test)):
            _check(f"the {part} part", examples, len(self.classes), self.pixels)
        if self.train.x.shape[1:] != self.test.x.shape[1:]:
            raise DataError(f"x is {self.train.x.shape[1:]} in the training part and {self.test.x.shape[1:]} in the test part")
        if self.train.fields != self.test.fields:
            raise DataError(
                "the training and the test part have inputs of other names, shapes or types; give both the same ones"
            )
        if self.natural_N is not None and (
            self.natural_N.shape != self.train.y.shape[:1] or not _within(self.natural_N, len(self.natural_names))
        ):
            raise DataError("natural_N must give each training example the index of one of natural_names")
        if self.test_origin_T is not None and (
            self.test_origin_T.shape != self.test.y.shape[:1] or not _within(self.test_origin_T, len(self.test_origins))
        ):
            raise DataError("test_origin_T must give each test example the index of one of test_origins")

    def first(self, count: int) -> LoadedData:
        """The same with the first ``count`` examples of the pool alone; clients without an example keep their names."""
        train = replace(self.train, x=self.train.x[:count], y=self.train.y[:count])
        return replace(self, train=train, natural_N=None if self.natural_N is None else self.natural_N[:count])

    @property
    def nbytes(self) -> int:
        """The memory that its arrays take, in bytes."""
        return self.train.x.nbytes + self.train.y.nbytes + self.test.x.nbytes + self.test.y.nbytes

    def digest(self) -> str:
        """SHA-256 of all its examples and of the clients that the data name; it shows whether two readings are equal."""
        named = () if self.natural_N is None else (self.natural_N,)
        return _sha256(self.pixels or self.train.fields, self.train.x, self.train.y, self.test.x, self.test.y, *named)


@dataclass(frozen=True)
class FederatedData:
    """The pool of N examples, its owners and its members, and the central test split.

    Args:
        pool: all examples that clients own, members or not.
        test: the central test split.
        classes: the name of each class.
        clients: the name of each of the K clients.
        provenance: see :class:`LoadedData`.
        owner_N: the client that owns each example.
        candidate_N: the examples whose membership is drawn by a fair coin. The others, but for those of ``validation_N``, are
            always members.
        member_N: the examples that are trained on.
        pixels: see :class:`LoadedData`.
        validation_N: the examples on which clients validate the model: neither candidates nor members, in any draw.
            None: there are none.
        files, columns, statistics, test_origin_T, test_origins: see :class:`LoadedData`.
        group_K: the group of each client, if there are groups of clients that are alike; else None.
        test_group_T: the group of each test example; None likewise.
    """

    pool: Examples
    test: Examples
    classes: tuple[str, ...]
    clients: tuple[str, ...]
    provenance: str
    owner_N: IntArray
    candidate_N: BoolArray
    member_N: BoolArray
    pixels: Pixels | None = None
    validation_N: BoolArray | None = None
    files: tuple[FileRecord, ...] = ()
    columns: tuple[ColumnRecord, ...] = ()
    test_origin_T: IntArray | None = None
    test_origins: tuple[str, ...] = ()
    statistics: tuple[float, ...] = ()
    group_K: IntArray | None = None
    test_group_T: IntArray | None = None

    def __repr__(self) -> str:
        members = np.count_nonzero(self.member_N)
        return f"<FederatedData: {members:,} members of {self.pool!r} at {len(self.clients):,} clients>"

    @classmethod
    def build(cls, loaded: LoadedData, config: DataConfig, seed: Seed) -> FederatedData:
        """Deal the pool to the clients, then draw which examples are members.

        Each example is a candidate with probability ``2 * config.holdout``, independently of everything else, and each
        candidate is a member by a fair coin. The expected share that is held out is thus ``config.holdout``, but for the
        exception below. The coins are independent, as in add/remove adjacency: the number of members is not fixed.

        One example of each client, drawn at random, is never a candidate. A client is therefore never left without a
        member, in this draw or any other, and no coin needs to be tossed twice, which would make it unfair.

        Args:
            loaded: the data set.
            config: clients, partition and hold-out.
            seed: seed of the data alone; the same seed gives the same bytes.

        Raises:
            DataError: a client is left with no example.
        """
        names = _client_names(loaded, config)
        partition, stream = narrow(config.partition, Partition), (seed / "partition").numpy()
        owner_N = assign(partition, _class_or_zero(loaded.train, partition), loaded.natural_N, len(names), stream)
        groups = Groups.of(config.rotations, len(names), len(loaded.test)) if config.rotations else None
        given = groups or (loaded if partition.names_clients else None)
        data = cls(
            pool=loaded.train if groups is None else turned(loaded.train, config.rotations, groups.group_K[owner_N]),
            test=loaded.test if groups is None else turned(loaded.test, config.rotations, groups.test_group_T),
            classes=loaded.classes,
            clients=names,
            provenance=loaded.provenance,
            owner_N=owner_N,
            candidate_N=_candidates(owner_N, config.holdout, (seed / "candidates").numpy()),
            member_N=np.ones(len(owner_N), dtype=np.bool_),
            pixels=loaded.pixels,
            files=loaded.files,
            columns=loaded.columns,
            test_origin_T=loaded.test_origin_T,
            test_origins=loaded.test_origins,
            statistics=loaded.statistics,
            group_K=None if given is None else given.group_K,
            test_group_T=None if given is None else given.test_group_T,
        )
        return data.redrawn((seed / "membership").numpy())

    def members_of(self, client: int) -> IntArray:
        """The pool indices on which this client trains, ascending."""
        rows = self._rows_of(client)
        return rows[self.member_N[rows]]

    def validating(self, share: float, generator: np.random.Generator) -> FederatedData:
        """Set a validation part aside: each example that is no candidate, with probability ``share``.

        If all such examples of a client are drawn, none of them is set aside, so that the client has a member in any draw.

        Args:
            share: the probability, in (0, 1).
            generator: the source of the draws.

        Raises:
            DataError: the validation part is empty.
        """
        kept_N = (generator.random(len(self.pool)) < share) & ~self.candidate_N
        fixed = np.bincount(self.owner_N[~self.candidate_N], minlength=len(self.clients))
        taken = np.bincount(self.owner_N[kept_N], minlength=len(self.clients))
        kept_N &= (taken < fixed)[self.owner_N]
        if not kept_N.any():
            raise DataError(
                f"training.early_stopping.validation = {share:g}: keeps none of the {int(fixed.sum())} examples whose "
                "membership is not drawn; raise it, lower data.holdout, or give more data"
            )
        return replace(self, member_N=self.member_N & ~kept_N, validation_N=kept_N)

    def held_out(self) -> BoolArray:
        """Mask of the examples that are used neither for training nor for validation, shape (N,)."""
        return ~self.member_N if self.validation_N is None else ~self.member_N & ~self.validation_N

    def holdout_of(self, client: int) -> IntArray:
        """The pool indices that this client owns and uses neither for training nor for validation, ascending."""
        rows = self._rows_of(client)
        return rows[self.held_out()[rows]]

    def _rows_of(self, client: int) -> IntArray:
        order_N, ends_K = self._by_owner
        return order_N[ends_K[client] - self._sizes[client] : ends_K[client]]

    @functools.cached_property
    def _by_owner(self) -> tuple[IntArray, IntArray]:
        """The pool's indices, client after client, and the end of each client's part.

        It is computed once, so that the work for a cohort does not grow with the pool.
        """
        return np.argsort(self.owner_N, kind="stable"), self._sizes.cumsum()

    def test_clients(self) -> IntArray:
        """A client for each test example, shape (T,): the clients of the example's group in turn.

        If clients have different models, the test split is answered by the models of all of them alike.
        """
        place_T, clients = np.arange(len(self.test), dtype=np.int64), len(self.clients)
        if self.group_K is None or self.test_group_T is None:
            return place_T % clients
        found = np.zeros(len(self.test), dtype=np.int64)
        for group in range(int(self.group_K.max()) + 1):
            mine, members = np.flatnonzero(self.test_group_T == group), np.flatnonzero(self.group_K == group)
            found[mine] = members[np.arange(len(mine)) % len(members)]
        return found

    def redrawn(self, generator: np.random.Generator) -> FederatedData:
        """The same pool and owners with the membership of every candidate drawn again: the data of a shadow model."""
        coin_N = generator.random(len(self.pool)) < 0.5
        others_N = True if self.validation_N is None else ~self.validation_N
        return replace(self, member_N=np.where(self.candidate_N, coin_N, others_N))

    def sizes(self) -> IntArray:
        """The number of examples that each client owns, members or not, shape (K,): its public size.

        It does not depend on the draw of membership.
        """
        return self._sizes

    @functools.cached_property
    def _sizes(self) -> IntArray:
        sizes_K = np.bincount(self.owner_N, minlength=len(self.clients))
        sizes_K.flags.writeable = False
        return sizes_K

    def digest(self) -> str:
        """SHA-256 of the pool, the test split and the owners; it shows whether two runs have the same data."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        return _sha256(self.pixels or self.pool.fields, self.pool.x, self.pool.y, self.test.x, self.test.y, self.owner_N)

    def counts(self) -> NDArray[np.int64]:
        """The number of each client's members in each class of :attr:`counted`, shape (K, len(counted))."""
        table: NDArray[Any] = np.zeros((len(self.clients), len(self.counted)), dtype=np.int64)
        class_N = _class_or_zero(self.pool)
        np.add.at(table, (self.owner_N[self.member_N], class_N[self.member_N]), 1)
        return table

    @property
    def counted(self) -> tuple[str, ...]:
        """The classes' names; if labels are no classes, one name for all examples."""
        return ("examples",) if self.pool.classes() is None else self.classes


def _sha256(meaning: Pixels | tuple[Field, ...], *arrays: NDArray[Any]) -> str:
    """SHA-256 of arrays with their types and shapes, and of the meaning of their values if there is one."""
    sha = hashlib.sha256(repr(meaning).encode() if meaning else b"")
    for array in arrays:
        sha.update(str((array.dtype, array.shape)).encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def turned(examples: Examples, angles: Sequence[int], group_N: IntArray) -> Examples:
    """The examples with each image turned by its group's angle.

    Raises:
        DataError: they are no images, or not square.
    """
    if examples.fields:
        raise DataError("data.rotations: turns images, and these examples have several inputs; leave it out")
    return replace(examples, x=turned_images(examples.x, angles, group_N))


def _class_or_zero(examples: Examples, partition: PartitionConfig | None = None) -> IntArray:
    """The class of each example, shape (N,); zeros if the labels are no classes.

    Raises:
        DataError: the labels are no classes and the partition deals examples by class.
    """
    class_N = examples.classes()
    if class_N is None and partition is not None and partition.by_class:
        raise DataError(
            f"data.partition.kind = {partition.kind!r}: deals examples by class, and these labels, {examples.y.dtype} of shape "
            f"{examples.y.shape}, are no classes; set 'iid', 'quantity' or 'natural'"
        )
    return np.zeros(len(examples), dtype=np.int64) if class_N is None else class_N


def _client_names(loaded: LoadedData, config: DataConfig) -> tuple[str, ...]:
    if config.partition.names_clients:
        return loaded.natural_names
    if config.clients is None:
        raise DataError("data.clients: is missing; give it, unless data.partition.kind is 'natural'")
    return tuple(f"client {number}" for number in range(config.clients))


def _candidates(owner_N: IntArray, holdout: float, generator: np.random.Generator) -> BoolArray:
    """Mask of the candidates: each example with probability 2 * holdout, except the last of each client in a random order."""
    draw_N = generator.random(len(owner_N))
    candidate_N = draw_N < 2 * holdout
    order = np.lexsort((draw_N, owner_N))
    # A client's largest draw is a candidate only if all of its draws are; otherwise this changes nothing.
    last = order[np.flatnonzero(np.diff(owner_N[order], append=-1))]
    candidate_N[last] = False
    return candidate_N


def _check(part: str, examples: Examples, classes: int, pixels: Pixels | None) -> None:
    x, y = examples.x, examples.y
    if isinstance(x, Mapping):
        raise DataError(f"{part} has x of {type(x).__name__}; several inputs are given by Examples.of(x, y)")
    for name, array in (("x", x), ("y", y)):
        if not isinstance(array, np.ndarray):
            raise DataError(f"{part} has {name} of {type(array).__name__}; it must be a NumPy array: np.asarray({name})")
    if x.shape[:1] == y.shape[:1] == (0,):
        raise DataError(f"{part} is empty; there must be at least one example in it: add some")
    wanted = "float32" if pixels is None else "uint8"
    if x.dtype != wanted:
        rule = "bytes go with pixels, numbers without" if x.dtype in (np.float32, np.uint8) else f"x.astype(np.{wanted})"
        raise DataError(f"{part} has x of {x.dtype}; it must be {wanted}: {rule}")
    _check_labels(part, y)
    if x.shape[:1] != y.shape[:1]:
        raise DataError(f"{part} has x of shape {x.shape} and y of shape {y.shape}; there must be one label for each example")
    if pixels is not None:
        _check_pixels(part, x, pixels)
    # min and max of data with a NaN are NaN, and neither allocates an array of the pool's size.
    elif not (np.isfinite(x.min()) and np.isfinite(x.max())):
        raise DataError(f"{part} holds a value that is NaN or infinite; drop or mend those examples")
    class_N = examples.classes()
    if class_N is not None and not classes:
        raise DataError(
            f"{part} has y of int64 and no class has a name; name them, or y.astype(np.float32) if they are numbers"
        )
    if class_N is not None and not _within(class_N, classes):
        raise DataError(f"{part} has labels from {y.min()} to {y.max()}; there are {classes} classes, from 0")


def _check_labels(part: str, y: NDArray[Any]) -> None:
    """Check that labels are int64 or finite float32; the task checks whether they suit it.

    Raises:
        DataError: they are not; the message gives the cast that makes them so, if there is one.
    """
    here = f"{part} has y of {y.dtype}" + (f" and shape {y.shape}" if y.ndim != 1 else "")
    if y.dtype.kind not in "biuf":
        raise DataError(f"{here}; labels must be int64: np.unique(y, return_inverse=True)[1] numbers them")
    whole = y.dtype.kind != "f" or bool((y == np.rint(y)).all())
    if y.ndim == 0 or (y.ndim == 2 and y.shape[1] == 1):
        raise DataError(f"{here}; labels must be of shape (N,): y[:, 0].astype(np.{'int64' if whole else 'float32'})")
    if y.dtype not in (np.int64, np.float32):
        rules = ["int64: y.astype(np.int64)"] if whole else []
        rules += ["float32 if they are numbers to be learned: y.astype(np.float32)"] if y.dtype.kind == "f" else []
        raise DataError(f"{here}; labels must be {', or '.join(rules)}")
    if not bool(np.isfinite(y).all()):
        raise DataError(f"{part} has a label that is NaN or infinite; drop or mend those examples")


def _check_pixels(part: str, x: NDArray[Any], pixels: Pixels) -> None:
    channels = len(pixels.mean_C)
    if x.ndim != 4 or not x.shape[1] == channels == len(pixels.std_C):
        raise DataError(f"{part} has x of shape {x.shape}; {pixels} is for (N, C, H, W), a mean and a deviation a channel")
    if not (all(0 <= mean <= 1 for mean in pixels.mean_C) and all(0 < std < np.inf for std in pixels.std_C)):
        raise DataError(f"{part} has {pixels}; of bytes / 255, means must be between 0 and 1, deviations finite and above 0")


def _within(values_N: IntArray, count: int) -> bool:
    return bool(values_N.min() >= 0 and values_N.max() < count)
