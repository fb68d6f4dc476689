"""Scores and predictions of a model that was trained outside of privfl, read from a file and checked.

A file is an ``.npz`` archive, or a Parquet table with a row for each candidate. Its arrays have these names:

=====================  =================  =========================================================================
``member``             (N,)               1 for a candidate that was trained on, 0 for another
``group``              (N,), optional     numbers or words; the figures are also given for each group
``subject``            (N,), optional     numbers or words: whose record it is. All of a subject's records are members, or none.
                                          Subjects are then judged, by the mean of their records' scores
``inputs``             (N, ...), optional the candidates' inputs, for the blind classifier alone; no attack sees them
any other              (N,)               scores: higher means member
``logits``             (N, C)             predictions: the model's outputs before the softmax, with ``labels``
``labels``             (N,)               the class of each candidate, from 0
``confidence``         (N,)               instead of both: log(p / (1 − p)) of the true class' probability p
``shadow_logits``      (S, N, C)          those of S shadow models; or ``shadow_confidence``, (S, N)
``shadow_member``      (S, N)             1 if that shadow model was trained on that candidate
``population_logits``  (P, C), optional   outputs on P fresh examples, with ``population_labels`` and
                                          ``shadow_population_logits``, (S, P, C)
``reference_logits``   (R, C), optional   outputs of one shadow model on R examples of its own, with ``reference_labels`` and
                                          ``reference_member``, 1 if it was trained on that example
=====================  =================  =========================================================================

In a Parquet table a shadow array is a column of lists: S numbers, or S lists of C numbers, in each row. A table cannot hold the
population or the reference.

Suffixes: N candidates, P examples of the population, S shadow models, R examples of the
reference, C classes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from privfl.errors import DataError
from privfl.shelves import nearest

FloatArray = NDArray[np.float64]
LogitArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Arrays = Mapping[str, NDArray[Any]]

_SHADOWED: Final = ("shadow_logits", "shadow_confidence", "shadow_member")
_POPULATION: Final = ("population_logits", "population_labels", "shadow_population_logits")
_REFERENCE: Final = ("reference_logits", "reference_labels", "reference_member")
_PREDICTIONS: Final = (
    "member",
    "group",
    "subject",
    "inputs",
    "logits",
    "labels",
    "confidence",
    *_SHADOWED,
    *_POPULATION,
    *_REFERENCE,
)


@dataclass(frozen=True)
class Subjects:
    """The subjects, such as persons or devices, that candidates belong to.

    Args:
        place_N: the place of each candidate's subject, from 0 to J − 1.
        member_J: whether each subject's records were trained on.
        group_J: the group of each subject; None if there are no groups.
    """

    place_N: IntArray
    member_J: BoolArray
    group_J: NDArray[Any] | None

    @classmethod
    def of(cls, subject_N: NDArray[Any], member_N: BoolArray, group_N: NDArray[Any] | None, where: str) -> Subjects:
        """The subjects by their names.

        Raises:
            DataError: a subject has members and non-members, or records of two groups.
        """
        _, first_J, place_N = np.unique(subject_N, return_index=True, return_inverse=True)
        place_N = place_N.reshape(-1)
        for name, value_N in (("member", member_N), ("group", group_N)):
            if value_N is not None and (mixed_N := value_N != value_N[first_J][place_N]).any():
                raise DataError(
                    f"{where}: subject {str(subject_N[mixed_N][0])!r} has records that differ in {name!r}; a subject must be "
                    "in one whole, or leave 'subject' out"
                )
        return cls(place_N, member_N[first_J], None if group_N is None else group_N[first_J])

    def __len__(self) -> int:
        """J, the number of subjects."""
        return len(self.member_J)

    def means(self, score_N: FloatArray) -> FloatArray:
        """The mean score of each subject's records, of shape (J,)."""
        counts_J = np.bincount(self.place_N, minlength=len(self))
        found: FloatArray = np.bincount(self.place_N, weights=score_N, minlength=len(self)) / counts_J
        return found


@dataclass(frozen=True)
class Scores:
    """Attack scores by name, read from a file.

    Args:
        where: the file's name, or another name of their source.
        member_N: whether each candidate was trained on.
        group_N: the group of each candidate; None if there are no groups.
        inputs_N: the candidates' inputs; None if they are not given.
        subjects: the persons whose records the candidates are; None if candidates are judged one by one.
        by_name: N scores each, higher means member.
    """

    where: str
    member_N: BoolArray
    group_N: NDArray[Any] | None
    inputs_N: NDArray[Any] | None
    subjects: Subjects | None
    by_name: Mapping[str, FloatArray]

    labels_N: ClassVar[None] = None
    """Scores come without labels."""

    @classmethod
    def of(cls, arrays: Arrays, where: str) -> Scores:
        """Check the arrays and build the scores.

        Raises:
            DataError: an array is missing, or has a wrong shape or value.
        """
        member_N, group_N, inputs_N, subjects = _who(arrays, where)
        names = [name for name in arrays if name not in ("member", "group", "inputs", "subject")]
        if not names:
            raise DataError(f"{where}: has no scores; it has {_listed(arrays)}: add an array of N numbers, higher for members")
        shape = {"N": len(member_N)}
        by_name = {name: _numbers(arrays, name, ("N",), shape, where) for name in names}
        return cls(where, member_N, group_N, inputs_N, subjects, by_name)


@dataclass(frozen=True)
class Population:
    """Outputs on fresh examples: (P, C), (P,) and (S, P, C)."""

    logits_PC: LogitArray
    labels_P: IntArray
    shadow_logits_SPC: LogitArray


@dataclass(frozen=True)
class Reference:
    """Outputs of a shadow model on R examples of its own, (R, C), their classes, (R,), and its members among them, (R,)."""

    logits_RC: LogitArray
    labels_R: IntArray
    member_R: BoolArray


@dataclass(frozen=True)
class Predictions:
    """Outputs of a model and of shadow models on the candidates, read from a file.

    Args:
        where: the file's name, or another name of their source.
        member_N: whether each candidate was trained on.
        group_N: the group of each candidate; None if there are no groups.
        inputs_N: the candidates' inputs; None if they are not given.
        subjects: the persons whose records the candidates are; None if candidates are judged one by one.
        outputs_NC: logits; or the log-odds of the true class' probability, of shape (N, 1).
        labels_N: the classes; None if the outputs are log-odds.
        shadow_outputs_SNC: the outputs of S shadow models; S may be 0.
        shadow_member_SN: the candidates that each shadow model was trained on.
        population: outputs on fresh examples; None if there are none.
        reference: outputs of a shadow model on examples of its own; None if there are none.
    """

    where: str
    member_N: BoolArray
    group_N: NDArray[Any] | None
    inputs_N: NDArray[Any] | None
    subjects: Subjects | None
    outputs_NC: LogitArray
    labels_N: IntArray | None
    shadow_outputs_SNC: LogitArray
    shadow_member_SN: BoolArray
    population: Population | None
    reference: Reference | None

    @classmethod
    def of(cls, arrays: Arrays, where: str) -> Predictions:
        """Check the arrays and build the predictions.

        Raises:
            DataError: an array is missing or unknown, or has a wrong shape or value.
        """
        for name in arrays:
            if name not in _PREDICTIONS:
                raise DataError(f"{where}: has an array {name!r}, which no attack reads; {nearest(name, _PREDICTIONS)}")
        member_N, group_N, inputs_N, subjects = _who(arrays, where)
        sizes = {"N": len(member_N)}
        labels_N: IntArray | None = None
        if "confidence" in arrays:
            _without(arrays, ("logits", "labels", "shadow_logits", *_POPULATION, *_REFERENCE), "confidence", where)
            outputs_NC = _outputs(arrays, "confidence", ("N",), sizes, where)[:, None]
            shadow_SNC = _shadow_outputs(arrays, "shadow_confidence", ("S", "N"), sizes, where)
            shadow_SNC = shadow_SNC[..., None] if shadow_SNC.ndim == 2 else shadow_SNC
        else:
            if "logits" not in arrays:
                raise DataError(f"{where}: has neither 'logits' nor 'confidence'; it has {_listed(arrays)}")
            _without(arrays, ("shadow_confidence",), "logits", where)
            outputs_NC = _outputs(arrays, "logits", ("N", "C"), sizes, where)
            labels_N = _labels(arrays, "labels", "N", sizes, where)
            shadow_SNC = _shadow_outputs(arrays, "shadow_logits", ("S", "N", "C"), sizes, where)
        member_SN = np.zeros((0, len(member_N)), dtype=bool)
        if len(shadow_SNC) or "shadow_member" in arrays:
            member_SN = _coins(_shaped(arrays, "shadow_member", ("S", "N"), sizes, where), "shadow_member", where)
        if not len(shadow_SNC):
            shadow_SNC = np.zeros((0, *outputs_NC.shape), dtype=np.float32)
        population = _population(arrays, sizes, where) if any(name in arrays for name in _POPULATION) else None
        reference = _reference(arrays, sizes, where) if any(name in arrays for name in _REFERENCE) else None
        return cls(
            where, member_N, group_N, inputs_N, subjects, outputs_NC, labels_N, shadow_SNC, member_SN, population, reference
        )


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` archive, or the columns of a Parquet table, with the shadow models as the first dimension.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    try:
        content = path.read_bytes()[:4]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give an .npz or Parquet file") from None
    try:
        if content == b"PAR1":
            return _columns(path)
        with np.load(path) as archive:
            return dict(archive)
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: is neither an .npz archive of plain arrays nor a Parquet table ({why}); write one with np.savez"
        ) from None


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    found = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    # In a table a row is a candidate. In an archive the shadow models are the first dimension.
    return {name: np.moveaxis(array, 0, 1) if name in _SHADOWED and array.ndim > 1 else array for name, array in found.items()}


# --- checks -----------------------------------------------------------------------------------------------------------


def _who(arrays: Arrays, where: str) -> tuple[BoolArray, NDArray[Any] | None, NDArray[Any] | None, Subjects | None]:
    member = _shaped(arrays, "member", ("N",), {}, where)
    member_N = _coins(member, "member", where)
    if not len(member_N) or member_N.all() or not member_N.any():
        raise DataError(
            f"{where}: 'member' names {member_N.sum()} members among {len(member_N)} candidates; both kinds are needed"
        )
    group_N, subject_N = (_names(arrays, name, len(member_N), where) for name in ("group", "subject"))
    inputs_N = _inputs(arrays, len(member_N), where) if "inputs" in arrays else None
    subjects = None if subject_N is None else Subjects.of(subject_N, member_N, group_N, where)
    return member_N, group_N, inputs_N, subjects


def _names(arrays: Arrays, name: str, count: int, where: str) -> NDArray[Any] | None:
    """An array of names, one for each candidate; None if there is none."""
    if name not in arrays:
        return None
    found = _shaped(arrays, name, ("N",), {"N": count}, where)
    if found.dtype.kind not in "biufU":
        raise DataError(f"{where}: {name!r} holds {found.dtype}; it must hold numbers or words")
    return found


def _inputs(arrays: Arrays, candidates: int, where: str) -> NDArray[Any]:
    """The inputs, in any number of dimensions."""
    letters = ("N", *(f"D{place}" for place in range(1, np.ndim(arrays["inputs"]))))
    found = _shaped(arrays, "inputs", letters, {"N": candidates}, where)
    if found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise DataError(f"{where}: 'inputs' holds values that are no finite numbers; leave it out, or give numbers")
    return found


def _shaped(arrays: Arrays, name: str, shape: tuple[str, ...], sizes: dict[str, int], where: str) -> NDArray[Any]:
    """The array if its shape agrees with the known sizes. Sizes that it adds are stored in ``sizes``."""
    if name not in arrays:
        raise DataError(f"{where}: has no array {name!r} of shape {_tuple(shape)}; it has {_listed(arrays)}")
    found = np.asarray(arrays[name])
    fits = found.ndim == len(shape) and all(
        sizes.get(letter, size) == size for letter, size in zip(shape, found.shape, strict=True)
    )
    if not fits:
        wanted = _tuple(f"{letter} = {sizes[letter]}" if letter in sizes else letter for letter in shape)
        raise DataError(f"{where}: {name!r} has the shape {found.shape}; it must be {wanted}")
    sizes.update(zip(shape, found.shape, strict=True))
    return found


def _numbers(arrays: Arrays, name: str, shape: tuple[str, ...], sizes: dict[str, int], where: str) -> FloatArray:
    found = _shaped(arrays, name, shape, sizes, where)
    if found.dtype.kind not in "biuf":
        raise DataError(f"{where}: {name!r} holds {found.dtype}; it must hold numbers")
    broken = np.count_nonzero(~np.isfinite(found))
    if broken:
        raise DataError(
            f"{where}: {name!r} has {broken} values that are NaN or infinite, of {found.size}; remove or replace them"
        )
    return found.astype(np.float64)


def _outputs(arrays: Arrays, name: str, shape: tuple[str, ...], sizes: dict[str, int], where: str) -> LogitArray:
    """A model's outputs as float32, the precision of this project's models."""
    limit = np.finfo(np.float32).max
    return np.clip(_numbers(arrays, name, shape, sizes, where), -limit, limit).astype(np.float32)


def _coins(found: NDArray[Any], name: str, where: str) -> BoolArray:
    if found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        other = next((one for one in found.ravel().tolist() if one not in (0, 1)), "")
        raise DataError(f"{where}: {name!r} holds {other!r}; it must hold 1 for a member and 0 for any other")
    return found.astype(bool)


def _labels(arrays: Arrays, name: str, letter: str, sizes: dict[str, int], where: str) -> IntArray:
    found = _shaped(arrays, name, (letter,), sizes, where)
    if found.dtype.kind not in "iu" or found.min(initial=0) < 0 or found.max(initial=0) >= sizes["C"]:
        raise DataError(f"{where}: {name!r} must hold whole numbers from 0 to {sizes['C'] - 1}, the columns of the logits")
    return found.astype(np.int64)


def _shadow_outputs(arrays: Arrays, name: str, shape: tuple[str, ...], sizes: dict[str, int], where: str) -> LogitArray:
    if name in arrays or "shadow_member" in arrays:
        return _outputs(arrays, name, shape, sizes, where)
    return np.zeros((0,) * len(shape), dtype=np.float32)


def _population(arrays: Arrays, sizes: dict[str, int], where: str) -> Population:
    logits_PC = _outputs(arrays, "population_logits", ("P", "C"), sizes, where)
    labels_P = _labels(arrays, "population_labels", "P", sizes, where)
    if not len(labels_P):
        raise DataError(f"{where}: the population is empty; leave its arrays out, or give outputs on fresh examples")
    name = "shadow_population_logits"
    if "S" not in sizes and name not in arrays:
        return Population(logits_PC, labels_P, np.zeros((0, *logits_PC.shape), dtype=np.float32))
    return Population(logits_PC, labels_P, _outputs(arrays, name, ("S", "P", "C"), sizes, where))


def _reference(arrays: Arrays, sizes: dict[str, int], where: str) -> Reference:
    logits_RC = _outputs(arrays, "reference_logits", ("R", "C"), sizes, where)
    labels_R = _labels(arrays, "reference_labels", "R", sizes, where)
    member_R = _coins(_shaped(arrays, "reference_member", ("R",), sizes, where), "reference_member", where)
    if member_R.all() or not member_R.any():
        raise DataError(
            f"{where}: 'reference_member' has {member_R.sum()} members among {len(member_R)} examples; both kinds are needed"
        )
    return Reference(logits_RC, labels_R, member_R)


def _without(arrays: Arrays, names: tuple[str, ...], beside: str, where: str) -> None:
    for name in names:
        if name in arrays:
            raise DataError(
                f"{where}: has both {beside!r} and {name!r}, which are two forms of the same outputs; remove one of them"
            )


def _tuple(letters: Iterable[str]) -> str:
    """(N, C), or (N,) as NumPy writes it."""
    words = tuple(letters)
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def _listed(arrays: Arrays) -> str:
    return ", ".join(sorted(arrays)) or "none"
