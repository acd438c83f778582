"""The card: front matter by YAML, text that cannot break out, and other people's work kept."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ssd_pipeline import card
from ssd_pipeline.card import Config, Output, Release, render
from ssd_pipeline.errors import RunError

HOSTILE = [
    "```\n# out",
    "``````",
    "a | b\n---\n| c",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "<!-- ssd_pipeline:end verified -->",
    "<!-- ssd_pipeline:begin verified -->",
    "---\nlicense: mit\n---",
    "‮ \x1b]52;c;x\x07",
]


RECORD = {
    "kind": "verify_answers",
    "identity": {"params": {"timeout_s": 5}},
    "rows": 1200,
    "digest": "d" * 64,
    "address": "verify_answers-0123456789abcdef",
    "summary": {"correct": 900},
    "tools": {"ssd-pipeline": "0.1.0"},
    "recipe": {"texts": {"math.yaml": "name: math\n", "--set #1": "stages.p.limit=3"}},
}
ABOVE = {
    "kind": "sample_branches",
    "identity": {
        "params": {
            "teacher": {"repo": "big/teacher", "revision": "a" * 40},
            "student": {"repo": "small/student", "revision": "b" * 40, "adapters": [{}]},
            "sampling": {"temperature": 0.8},
        }
    },
    "fates": {"accepted": 1200},
    "spend": {"bought": 9},
}


def release(**changes: object) -> Release:
    output = Output(
        name="verified",
        digest="d" * 64,
        configs=[
            Config("verified", 1200, ["uuid", "problem"]),
            Config("branches", 7, ["uuid", "text"]),
        ],
        record=RECORD,
        above=[ABOVE],
        manifest="manifests/verified.json",
    )
    said: dict = {"repo": "me/math", "version": "v1", "outputs": [output], "license": "apache-2.0", **changes}
    return Release(**said)


def front(text: str) -> dict:
    """The front matter as the Hub's own client reads it."""
    found = re.match(REGEX_YAML_BLOCK, text)
    assert found
    return yaml.safe_load(found[2])


def test_a_new_card_says_what_people_need() -> None:
    text = render(release(pretty_name="Maths: distilled", description="About *this*."), None)
    assert front(text) == {
        "license": "apache-2.0",
        "pretty_name": "Maths: distilled",
        "tags": ["reasoning", "distillation", "gen-ssd", "ssd_pipeline"],
        "task_categories": ["text-generation"],
        "configs": [
            {
                "config_name": "verified",
                "data_files": [{"split": "train", "path": "data/verified/train-*.parquet"}],
                "default": True,
            },
            {"config_name": "branches", "data_files": [{"split": "train", "path": "data/branches/train-*.parquet"}]},
        ],
    }
    assert "# Maths: distilled\n\nAbout *this*." in text
    assert 'load_dataset("me/math", "verified", revision="v1", split="train")' in text
    assert "| verified | 1,200 | uuid, problem |" in text
    assert "Gen-SSD" in text


def test_rendering_again_changes_nothing() -> None:
    text = render(release(), None)
    assert render(release(), text) == text
    by_hand = text.replace("# math", "# My own title").replace("license: apache-2.0", "license: apache-2.0  # by law")
    assert render(release(), by_hand) == by_hand


def test_what_people_wrote_is_kept_and_our_block_replaced() -> None:
    text = render(release(), None)
    edited = text.replace("# math", "# Mine\n\nHand-written.") + "\nBelow, too.\n"
    edited = edited.replace("---\n", "---\nlanguage: en\nconfigs_note: keep\n", 1)
    newer = render(release(version="v2"), edited)
    assert "# Mine\n\nHand-written." in newer
    assert newer.endswith("\nBelow, too.\n")
    assert 'revision="v2"' in newer
    assert 'revision="v1"' not in newer
    assert front(newer)["language"] == "en"
    assert front(newer)["configs_note"] == "keep"


def test_outputs_of_several_publications_stand_side_by_side() -> None:
    text = render(release(), None)
    other = Output("raw", "e" * 64, [Config("raw", 3, ["uuid"])], ABOVE, [], "manifests/raw.json")
    both = render(release(outputs=[other], version="v2"), text)
    assert [c["config_name"] for c in front(both)["configs"]] == ["raw", "verified", "branches"]
    assert [c.get("default") for c in front(both)["configs"]] == [None, True, None]
    assert both.count("ssd_pipeline:begin") == 2
    assert 'revision="v1"' in both
    assert 'revision="v2"' in both


def test_a_card_without_front_matter_gets_one() -> None:
    text = render(release(), "# Theirs\n\nNo front matter.\n")
    assert front(text)["license"] == "apache-2.0"
    assert "# Theirs\n\nNo front matter.\n" in text


def test_stale_sizes_of_our_configs_go_and_others_stay() -> None:
    theirs = "---\ndataset_info:\n- config_name: verified\n  dataset_size: 1\n- config_name: x\n---\nHi\n"
    assert front(render(release(), theirs))["dataset_info"] == [{"config_name": "x"}]


@pytest.mark.parametrize("broken", ["---\na: [1\n---\nHi\n", "---\n- a\n---\nHi\n", "---\na: b: c\n---\n"])
def test_broken_front_matter_is_not_destroyed(broken: str) -> None:
    with pytest.raises(RunError, match=re.escape("README.md")):
        render(release(), broken)


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_does_not_break_out(text: str) -> None:
    config = Config("verified", 1, [text])
    record = {"kind": "v", "identity": {"params": {"prompt": text}}, "summary": {text: text}, "rows": text}
    record["recipe"] = {"texts": {text: text}}
    output = Output("verified", "d" * 64, [config], record, [{"kind": text, "address": text}], "m")
    made = render(release(outputs=[output], pretty_name=text, license=text), None)
    assert front(made)["license"] == front(made)["pretty_name"] == text
    body = card.parts(made)[1]
    assert body.count("<!--") == 2
    prose = re.sub(r"^(`{3,})\w+\n(.*?)\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)<(?!!--)", prose)
    blocks = re.findall(r"^(`{3,})json\n(.*?)\n\1$", made, re.DOTALL | re.MULTILINE)
    assert [json.loads(body) for _, body in blocks] == [
        {"v": {"rows": text, "summary": {text: text}}, text: {}},
        {"v": {"prompt": text}, text: {}},
    ]
    assert len(re.findall(r"^\|.*\|$", prose, re.MULTILINE)) == 7
    assert render(release(outputs=[output], pretty_name=text, license=text), made) == made


@pytest.mark.parametrize("text", ["a plain text", *HOSTILE])
def test_a_card_renders_as_it_is_meant(text: str) -> None:
    """By a Markdown renderer (rich brings it): two tables, our headings and code, no HTML but our marks, no live link
    but ours."""
    record = {**RECORD, "summary": {text: text}, "recipe": {"texts": {text: text}}}
    output = Output("verified", "d" * 64, [Config("verified", 1, [text])], record, [ABOVE, {"kind": text}], "m.json")
    made = render(release(outputs=[output], pretty_name=text, description="About it."), None)
    tokens = MarkdownIt("commonmark").enable("table").parse(card.parts(made)[1])
    inner = [inline for token in tokens for inline in token.children or ()]
    fences = [token.info for token in tokens if token.type == "fence"]
    assert fences == ["json", "json", "python", "sh", "yaml"]
    assert sum(token.type == "table_open" for token in tokens) == 2
    heads = [body.content for head, body in pairwise(tokens) if head.type == "heading_open"]
    assert heads[1:] == [
        "verified",
        "What came out",
        "What was asked",
        "How to load it",
        "How to make it again",
        "Lineage",
    ]
    html = [token.content for token in (*tokens, *inner) if token.type.startswith("html")]
    assert [mark.strip() for mark in html] == [f"<!-- ssd_pipeline:{edge} verified -->" for edge in ("begin", "end")]
    links = {str(token.attrs["href"]) for token in inner if token.type == "link_open"}
    assert links == {"https://arxiv.org/abs/2604.02819"}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_escaped_text_is_one_line_without_live_markup(text: str) -> None:
    shown = card.escaped(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<\[`]", shown)
    assert re.sub(r"\\([\\`*_{}\[\]()<>#|!~&])", r"\1", shown) == " ".join(text.split())


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="`a\n", max_size=30))
def test_a_fence_is_longer_than_anything_inside(text: str) -> None:
    fence = card.fenced(text, "x").split("x\n")[0]
    assert len(fence) >= 3
    assert fence not in text
