"""An artifact is absent or whole; whatever was changed is found and never used."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline.errors import StoreError
from ssd_pipeline.store import artifact
from ssd_pipeline.store.identity import canonical, digest_of, tree_digest
from ssd_pipeline.store.local import Artifact, Store

SCHEMA = pa.schema([("text", pa.string()), ("score", pa.float64())])
KEY = "ab" * 32
ADDRESS = f"double-{KEY[:16]}"


def rows(count: int, score: float = 0.5) -> list[dict]:
    return [{"text": f"row {i}", "score": score} for i in range(count)]


def made(store: Store, data: list[dict] | None = None, **more: object) -> Artifact:
    staging = store.staging(ADDRESS)
    table = artifact.write_table(staging / "data", "rows", SCHEMA, data or rows(5), frozenset({"score"}))
    files = artifact.describe_files(staging / "data")
    record = {"format": 1, "address": ADDRESS, "key": KEY, "fingerprint": "cd" * 32, "files": files, **table, **more}
    return store.commit(staging, record)


def test_a_committed_artifact_is_found_and_nothing_else_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made(store)
    found = store.find(ADDRESS, KEY)
    assert isinstance(found, Artifact)
    assert list(artifact.read_rows(found.directory)) == rows(5)
    assert list((tmp_path / "staging").iterdir()) == []
    assert store.same_identity("cd" * 32) == [ADDRESS]


def test_many_rows_keep_their_order_over_row_groups(tmp_path: Path) -> None:
    found = made(Store(tmp_path), rows(5000))
    assert list(artifact.read_rows(found.directory, columns=["text"])) == [{"text": f"row {i}"} for i in range(5000)]


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    table = artifact.write_table(tmp_path, "rows", SCHEMA, [], frozenset())
    assert table["rows"] == 0
    (tmp_path / "data").mkdir()
    (tmp_path / "rows-00000.parquet").rename(tmp_path / "data" / "rows-00000.parquet")
    assert list(artifact.read_rows(tmp_path)) == []
    assert artifact.read_schema(tmp_path) == SCHEMA


def test_the_shown_digest_leaves_measured_columns_out(tmp_path: Path) -> None:
    one, two = made(Store(tmp_path / "1")), made(Store(tmp_path / "2"), rows(5, score=0.75))
    assert one.record["digest"] == two.record["digest"]
    assert one.record["content"] != two.record["content"]


def test_two_who_commit_the_same_leave_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = made(store, who="first"), made(store, who="second")
    assert first.directory == second.directory
    assert second.record["who"] == "first"
    assert list((tmp_path / "staging").iterdir()) == []


def damage(directory: Path, how: str) -> None:
    data = directory / "data"
    file = data / "rows-00000.parquet"
    record = json.loads((directory / "record.json").read_text())
    match how:
        case "no record":
            (directory / "record.json").unlink()
        case "no data":
            file.unlink()
            data.rmdir()
        case "missing file":
            file.unlink()
        case "extra file":
            (data / "rows-00001.parquet").write_bytes(file.read_bytes())
        case "cut":
            file.write_bytes(file.read_bytes()[:-1])
        case "empty":
            file.write_bytes(b"")
        case "link":
            file.rename(directory.parent / "elsewhere")
            file.symlink_to(directory.parent / "elsewhere")
        case "not json":
            (directory / "record.json").write_text("{")
        case "nan":
            (directory / "record.json").write_text('{"format": 1, "x": NaN}')
        case "duplicate keys":
            (directory / "record.json").write_text('{"format": 1, "format": 1}')
        case "a list":
            (directory / "record.json").write_text("[1]")
        case "deep":
            (directory / "record.json").write_text("[" * 100_000)
        case "newer":
            (directory / "record.json").write_text(json.dumps({**record, "format": 99}))
        case "other address":
            (directory / "record.json").write_text(json.dumps({**record, "address": "double-0"}))
        case "other key":
            (directory / "record.json").write_text(json.dumps({**record, "key": "0" * 64}))
        case "record is a directory":
            (directory / "record.json").unlink()
            (directory / "record.json").mkdir()


DAMAGES = (
    *("no record", "no data", "missing file", "extra file", "cut", "empty", "link", "not json", "nan"),
    *("duplicate keys", "a list", "deep", "newer", "other address", "other key", "record is a directory"),
)


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_not_whole_is_no_hit_and_is_replaced(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    damage(made(store).directory, how)
    reason = store.find(ADDRESS, KEY)
    assert isinstance(reason, str), how
    assert reason
    made(store)
    assert isinstance(store.find(ADDRESS, KEY), Artifact)
    store.sweep()
    assert list((tmp_path / "staging").iterdir()) == []


def test_every_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    found = made(Store(tmp_path), rows(300))
    (file,) = (found.directory / "data").glob("*.parquet")
    whole = file.read_bytes()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        with pytest.raises(StoreError, match="was altered"):
            artifact.verify(found.directory, found.record)
    file.write_bytes(whole)
    artifact.verify(found.directory, found.record)


def test_a_row_with_a_strange_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="other columns than its schema: more"):
        artifact.write_table(tmp_path, "rows", SCHEMA, [{"text": "", "score": 1.0, "more": 1}], frozenset())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=6), st.randoms())
@settings(max_examples=300)
def test_the_order_of_keys_is_no_identity(value: dict, draw: random.Random) -> None:
    try:
        expected = digest_of(value)
    except UnicodeEncodeError:
        return
    shuffled = list(value.items())
    draw.shuffle(shuffled)
    assert digest_of(dict(shuffled)) == expected
    assert json.loads(canonical(value)) == json.loads(json.dumps(value)) or any(_whole(value))


def _whole(value: object) -> list[bool]:
    return [True for part in str(value).split() if "e" in part or ".0" in part]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), lambda: 0, b"x"])
def test_what_is_not_plain_data_has_no_digest(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        digest_of({"x": value})


def test_one_number_has_one_digest() -> None:
    assert digest_of([1.0, 0.1]) == digest_of([1, 0.1])
    assert digest_of([1]) != digest_of([True])
    assert digest_of(["1"]) != digest_of([1])


def test_a_folder_counts_by_content_and_names_not_by_place_or_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x.json").write_text("1")
        (tmp_path / name / "y").write_text("2")
    (tmp_path / "b" / "README.md").write_text("for people")
    (tmp_path / "b" / ".cache").write_text("hidden")
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    (tmp_path / "b" / "y").rename(tmp_path / "b" / "z")
    assert tree_digest(tmp_path / "a") != tree_digest(tmp_path / "b")
