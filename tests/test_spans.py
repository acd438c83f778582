"""Spans: boundaries between text and tokens."""

from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.spans import chunk_lengths, common_prefix, first_beyond
from ssd_pipeline.stage import Chunk


def spans_of(*tokens):
    ends = [sum(map(len, tokens[: i + 1])) for i in range(len(tokens))]
    return list(zip([0, *ends], ends, strict=False))


def cut(tokens, **chunk):
    return chunk_lengths("".join(tokens), spans_of(*tokens), Chunk(**chunk))


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_common_prefix(a, b):
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert a[n : n + 1] != b[n : n + 1] or n == min(len(a), len(b))
    assert common_prefix(list(a), list(b)) == n == common_prefix(b, a)


def test_first_beyond_counts_a_straddling_token_to_the_branch():
    offsets = [(0, 2), (2, 5), (5, 6)]
    assert [first_beyond(offsets, n) for n in range(7)] == [0, 0, 1, 1, 1, 2, 3]


def test_first_beyond_with_a_character_of_several_tokens():
    assert first_beyond([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], 1) == 1
    assert first_beyond([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], 2) == 4


def test_chunks_of_tokens():
    assert cut("abcdefg", max_tokens=3) == [3, 3, 1]
    assert cut("", max_tokens=3) == []


def test_a_stop_ends_a_chunk_from_min_tokens_on():
    assert cut("a;bc;d", max_tokens=10, stop=(";",)) == [2, 3, 1]
    assert cut("a;bc;d", min_tokens=2, max_tokens=10, stop=(";",)) == [2, 3, 1]
    assert cut("a;bc;d", min_tokens=3, max_tokens=10, stop=(";",)) == [5, 1]
    assert cut("a;bc;d", min_tokens=3, max_tokens=4, stop=(";",)) == [4, 2]


def test_a_stop_inside_or_across_tokens():
    assert cut(["a", "b;c", "d"], max_tokens=10, stop=(";",)) == [2, 1]
    assert cut(["a", "\n", "\n", "b"], max_tokens=10, stop=("\n\n",)) == [3, 1]
    # half of the stop lies in the chunk before
    assert cut(["a", "\n", "\n", "b"], max_tokens=2, stop=("\n\n",)) == [2, 2]


def test_stops_of_several_lengths():
    assert cut(["a", "END", "b", "\n", "c"], max_tokens=10, stop=("END", "\n")) == [2, 2, 1]


def test_a_character_of_several_tokens_is_not_torn():
    offsets = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert chunk_lengths("a😀b", offsets, Chunk(max_tokens=2)) == [4, 1]


@given(st.lists(st.sampled_from(["a", "b;", ";", "cc"]), max_size=30), st.integers(1, 5), st.integers(0, 6))
def test_chunks_cover_all_tokens_and_keep_their_limits(tokens, least, more):
    lengths = cut(tokens, min_tokens=least, max_tokens=least + more, stop=(";",))
    assert sum(lengths) == len(tokens)
    assert all(0 < n <= least + more for n in lengths)
    for i, n in enumerate(lengths[:-1]):
        end = sum(lengths[: i + 1])
        chunk = tokens[end - n : end]
        assert n == least + more or (";" in chunk[-1] and n >= least)
        assert not any(";" in token for token in chunk[least - 1 : -1])
