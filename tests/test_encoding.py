"""Texts that begin alike are cut as each whole text is."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ssd_pipeline.models.encoding import LOCAL, Encoder

BEFORE = "the end of them, said 12 of us.\n" * 40
ADDED = "<|a long token of its own|>"
PIECES = [
    " ",
    "\n",
    "\r\n",
    "\t",
    " \n ",
    "the",
    " the",
    " them",
    "12",
    "345",
    "'",
    "'ll",
    "S",
    "e",
    "\u0301\u0327",
    "é",
]
PIECES += ["한", "ᄒ", "ᅡ", "ᆫ", "😀", "==", "...", "/", "//\n", "\u00a0", "\u2028", "ſ", "<|", ADDED, ADDED, ADDED[:9]]
LONG_WORDS = st.text(alphabet="them", min_size=50, max_size=120)
ANY = st.sampled_from(PIECES) | st.characters(codec="utf-8")
PLAIN = st.sampled_from([" ", "the", " the", " them", "12", ".\n", ADDED]) | LONG_WORDS
TEXTS = st.lists(ANY, max_size=40).map("".join) | st.lists(PLAIN, max_size=12).map("".join)


@st.composite
def begun(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text cut in two anywhere, and other ways to go on."""
    whole = draw(TEXTS)
    cut = draw(st.integers(0, len(whole)))
    return whole[:cut], [whole[cut:], *draw(st.lists(TEXTS, max_size=2))]


@cache
def trained(name: str) -> Tokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps = {
        "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "digits": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "metaspace": [pre_tokenizers.Metaspace()],
        "digits of bytes": [
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=True),
        ],
        "two patterns": [
            pre_tokenizers.Split(Regex(min(LOCAL)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ],
        "unknown": [pre_tokenizers.Split(Regex(r"(?<=\n\n).+|.+?(?=\n\n|$)|\n+"), "isolated"), byte_level],
    }
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        steps.get(name) or [pre_tokenizers.Split(Regex(name), "isolated"), byte_level]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=[AddedToken(ADDED)], show_progress=False
    )
    core.train_from_iterator(["the them then 12 345 '' ll == ... \n \n\n é 한 ".join(PIECES)] * 3, trainer)
    return core


WHOLE = ["metaspace", "unknown", "digits of bytes", "two patterns"]
NAMES = [*sorted(LOCAL), "gpt2", "digits", *WHOLE]


@pytest.mark.parametrize("name", NAMES, ids=[f"split {i}" for i in range(len(LOCAL))] + NAMES[len(LOCAL) :])
@settings(max_examples=300, deadline=None)
@given(texts=begun())
def test_branches_are_cut_as_whole_texts(name: str, texts: tuple[str, list[str]]) -> None:
    core = trained(name)
    before, branches = texts
    before_ids, encoded = Encoder(Tokenizer.from_str(core.to_str())).encode(before, branches)
    assert before_ids == core.encode(before).ids
    for one, branch in zip(encoded, branches, strict=True):
        whole = core.encode(before + branch)
        assert one.ids == whole.ids
        places = range(len(before + branch))
        assert [one.token_at(i) for i in places] == [whole.char_to_token(i) for i in places]


@pytest.mark.parametrize("name", NAMES, ids=[f"split {i}" for i in range(len(LOCAL))] + NAMES[len(LOCAL) :])
def test_what_is_known_is_not_cut_again(name: str) -> None:
    _, (one,) = Encoder(Tokenizer.from_str(trained(name).to_str())).encode(BEFORE, [" then"])
    assert (one.start > len(BEFORE) - 100) == (name not in WHOLE)


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["model"].update(dropout=0.1),
        lambda said: said["added_tokens"][0].update(rstrip=True),
        lambda said: said.update(normalizer={"type": "Lowercase"}),
        lambda said: said["pre_tokenizer"]["pretokenizers"][0].update(add_prefix_space=True),
        lambda said: said["pre_tokenizer"]["pretokenizers"][0].update(use_regex=False),
    ],
)
def test_a_tokeniser_that_may_look_further_reads_every_text_whole(change: Callable[[dict], None]) -> None:
    said = json.loads(trained("gpt2").to_str())
    change(said)
    _, (one,) = Encoder(Tokenizer.from_str(json.dumps(said))).encode(BEFORE, [" then"])
    assert one.start == 0


def test_a_word_is_read_again_from_its_beginning() -> None:
    """Where the last letter decides how all before it go together."""
    letters = string.ascii_letters
    pairs = [letters[i : i + 2] for i in reversed(range(len(letters) - 1))]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*letters, *pairs])}, [(a, b) for a, b in pairs]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _, (one,) = Encoder(Tokenizer.from_str(core.to_str())).encode(letters[:-1], [letters[-1]])
    assert one.ids == core.encode(letters).ids
    assert one.ids[:10] != core.encode(letters[:-1]).ids[:10]
