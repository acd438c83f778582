"""A journal survives any death: what was flushed is there, what was torn is owed again, nothing wrong is believed."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline.store.journal import Journal, Lock, decode, encode

ROWS = {f"{i:032x}": {"solution": f"line {i}\nand more é {'x' * i}", "n": i} for i in range(3)}


def filled(folder: Path) -> Path:
    journal = Journal(folder)
    for key, value in ROWS.items():
        journal.append(key, value)
    journal.close()
    (path,) = folder.glob("*.log")
    return path


def test_what_was_closed_is_read_by_another(tmp_path: Path) -> None:
    filled(tmp_path)
    again = Journal(tmp_path)
    assert {key: again.read(key) for key in ROWS} == ROWS
    assert again.damaged == 0


def test_every_cut_keeps_the_records_before_it_and_owes_the_torn_one(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    ends = [i + 1 for i, b in enumerate(whole) if b == 10]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(tmp_path)
        kept = sum(end <= cut for end in ends)
        assert list(journal) == list(ROWS)[:kept], f"cut at byte {cut}"
        late = f"{99:032x}"
        journal.append(late, {"after": "the tear"})
        journal.close()
        again = Journal(tmp_path)
        assert again.read(late) == {"after": "the tear"}
        assert all(again.read(key) == ROWS[key] for key in list(ROWS)[:kept])
        for other in tmp_path.glob("*.log"):
            if other != path:
                other.unlink()


def test_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        journal = Journal(tmp_path)
        assert all(journal.read(key) == ROWS[key] for key in journal)
        assert len(set(journal)) < len(ROWS) or journal.damaged
        journal.close()


def test_a_line_that_changes_after_it_was_indexed_is_not_believed(tmp_path: Path) -> None:
    path = filled(tmp_path)
    journal = Journal(tmp_path)
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(KeyError):
        journal.read(next(iter(ROWS)))


@given(
    st.text(max_size=50), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)
)
@settings(max_examples=200)
def test_a_line_gives_back_what_went_in(text: str, value: object) -> None:
    text = text.encode("utf-8", "ignore").decode()
    row = {"text": text, "value": value} if _encodable(value) else {"text": text}
    line = encode("k" * 32, row)
    assert line.count(b"\n") == 1
    assert decode(line) == ("k" * 32, row)


def _encodable(value: object) -> bool:
    try:
        repr(value).encode()
        encode("k", value)
    except UnicodeEncodeError:
        return False
    return True


def test_two_writers_never_share_a_file(tmp_path: Path) -> None:
    one, two = Journal(tmp_path), Journal(tmp_path)
    one.append("a" * 32, 1)
    two.append("b" * 32, 2)
    one.close()
    two.close()
    both = Journal(tmp_path)
    assert {k: both.read(k) for k in both} == {"a" * 32: 1, "b" * 32: 2}


def test_a_lock_is_free_again_when_its_process_dies(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    pid = os.fork()
    if pid == 0:
        held = Lock(path)
        os._exit(0 if held.take() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    mine, other = Lock(path), Lock(path)
    assert mine.take()
    assert not other.take()
    mine.release()
    assert other.take()
