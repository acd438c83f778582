"""Reading a recipe: what it says, what it inherits, what `--set` and the environment change, and where things stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes.recipe_kinds import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline.errors import Position, UserErrors
from ssd_pipeline.recipe import AdapterDef, Document, load
from ssd_pipeline.stage import Chunk

GOOD = """\
# ssd-run recipes/math.yaml
name: math
seed: 17
prompt: "{problem}\\n\\nReason."
models:
  teacher: {repo: Qwen/QwQ-32B, revision: "0123456", think: ["<think>", "</think>"]}
  student: {repo: Qwen/Qwen2.5-1.5B-Instruct, dtype: bfloat16, system: "Be brief."}
  warm:    {base: student, adapter: {stage: cold}}
  learned: {base: warm, adapter: {repo: me/lora, revision: v1}, prompt: "Q: {problem}"}
stages:
  problems: {uses: load, dataset: open-r1/math, revision: "main", limit: 10, columns: {problem: question}}
  cold:     {uses: train, input: data, model: student, learning_rate: 1e-4}
  data:     {uses: grow, input: problems, teacher: teacher, branches: 1, criterion: random}
  grown:
    uses: grow
    input: [problems]
    weights: [1]
    teacher: teacher
    student: warm
    branches: 8
    chunk: {min_tokens: 4, stop: ["\\n\\n"]}
    accept: {quantile: 0.98, of: {stage: data}}
  checked:  {uses: check, input: grown, where: {fate: [accepted, given_up]}, keep_errors: true}
  result:   {uses: compare, input: [checked, data], baseline: data}
  out:      {uses: push, input: checked, repo: me/data}
runtime:
  models:
    teacher: {api: tgi, endpoints: ["${URL}"], concurrency: 8}
    student: {cache_gb: 2}
  hub: {repo: me/cache}
  rows_in_flight: 16
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def at(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return at


def good(write: Any, *sets: str, text: str = GOOD) -> Document:
    return load(write("math.yaml", text), KINDS, sets=sets, environ={"URL": "http://teacher:8080"})


def mistakes(path: Path, *sets: str, **environ: str) -> list[str]:
    with pytest.raises(UserErrors) as caught:
        load(path, KINDS, sets=sets, environ=environ)
    return [str(m).replace(f"{path.parent}/", "") for m in caught.value.mistakes]


def test_a_recipe_says_what_it_says(write: Any) -> None:
    document = good(write)
    assert (document.name, document.seed) == ("math", 17)
    assert list(document.stages) == ["problems", "cold", "data", "grown", "checked", "result", "out"]
    grown = document.stages["grown"]
    assert grown.kind is KINDS["grow"]
    assert (grown.inputs, grown.weights, grown.params.branches) == (("problems",), (1.0,), 8)
    assert grown.params.chunk == Chunk(min_tokens=4, stop=("\n\n",))
    assert grown.params.accept.of.stage == "data"
    assert document.stages["checked"].where == {"fate": ("accepted", "given_up")}
    assert document.stages["checked"].keep_errors
    assert document.stages["cold"].params.learning_rate == 0.0001
    assert document.runtime.rows_in_flight == 16
    assert document.runtime.hub is not None
    assert document.runtime.hub.private


def test_a_model_inherits_from_its_base_what_it_does_not_say(write: Any) -> None:
    models = good(write).models
    assert models["teacher"].format.think == ("<think>", "</think>")
    assert models["student"].format.prompt == "{problem}\n\nReason."
    warm, learned = models["warm"], models["learned"]
    assert (warm.dtype, warm.format, warm.repo) == ("bfloat16", models["student"].format, None)
    assert (learned.format.prompt, learned.format.system) == ("Q: {problem}", "Be brief.")
    assert learned.adapter == AdapterDef(repo="me/lora", revision="v1")
    assert warm.adapter == AdapterDef(stage="cold")
    assert learned.runtime.cache_gb == models["student"].runtime.cache_gb == 2


def test_the_environment_is_used_in_runtime_and_not_recorded(write: Any) -> None:
    document = good(write)
    assert document.runtime.models["teacher"].endpoints == ("http://teacher:8080",)
    assert document.models["teacher"].runtime.concurrency == 8
    assert document.texts == {"math.yaml": GOOD}


@pytest.mark.parametrize(
    ("said", "environ", "value"),
    [
        ("${N}", {"N": "7"}, 7),
        ("${N:-9}", {}, 9),
        ("${N:-9}", {"N": ""}, 9),
        ("${N:-}", {}, None),
    ],
)
def test_an_unquoted_variable_has_the_type_that_it_would_have_in_the_file(
    write: Any, said: str, environ: dict[str, str], value: int | None
) -> None:
    text = f"stages:\n  p: {{uses: load}}\nruntime:\n  rows_in_flight: {said}\n"
    path = write("r.yaml", text)
    if value is None:
        assert mistakes(path, **environ) == [
            "r.yaml:4:19  runtime.rows_in_flight: a whole number is wanted, not nothing"
        ]
    else:
        assert load(path, KINDS, environ=environ).runtime.rows_in_flight == value


def test_a_missing_variable_is_named_and_a_value_never_shown(write: Any) -> None:
    path = write("math.yaml", GOOD)
    assert mistakes(path) == [
        "math.yaml:28:37  runtime.models.teacher.endpoints.0: "
        "the environment has no variable URL; set it, or write ${URL:-default}"
    ]
    for value in ("ftp://very-secret", "http://u:very-secret@h", "http://h/?key=very-secret", "http://[very-secret"):
        (only,) = mistakes(path, URL=value)
        assert "very-secret" not in only


def test_positions_lead_to_the_value_or_to_what_is_above_it(write: Any) -> None:
    document = good(write)
    file = str(document.path)
    assert document.position("stages", "grown", "branches") == Position(file, 20, 15)
    assert document.position("stages", "grown", "chunk", "stop", 0) == Position(file, 21, 35)
    assert document.position("stages", "grown", "sampling", "top_p") == Position(file, 14, 3)
    assert str(document.mistake(("seed",), "is odd")) == f"{file}:3:7  seed: is odd"


def test_comments_order_quoting_and_windows_lines_say_the_same(write: Any) -> None:
    text = GOOD.replace("name: math\nseed: 17\n", "seed: 0x11  # comment\n'name': \"math\"\n").replace("\n", "\r\n")
    one, two = good(write), good(write, text=text)
    assert (one.models, one.stages, one.runtime, one.name, one.seed) == (
        two.models,
        two.stages,
        two.runtime,
        two.name,
        two.seed,
    )


def test_the_file_gives_the_name_if_the_recipe_does_not(write: Any) -> None:
    assert good(write, text=GOOD.replace("name: math\n", "")).name == "math"


# ------------------------------------------------------------------------------------------------ extends


def test_a_baseline_is_a_few_lines(write: Any, tmp_path: Path) -> None:
    write("math.yaml", GOOD)
    path = write(
        "baselines/kd.yaml",
        "extends: ../math.yaml\nname: kd\nstages:\n  grown: {branches: 1, student: null, accept: null, weights: [2]}\n",
    )
    document = load(path, KINDS, environ={"URL": "http://h"})
    grown = document.stages["grown"]
    assert (document.name, document.seed, grown.params.branches, grown.weights) == ("kd", 17, 1, (2.0,))
    assert (grown.params.student, grown.params.accept) == (None, None)
    assert grown.params.chunk.min_tokens == 4
    assert list(document.texts) == ["kd.yaml", "../math.yaml"]
    assert document.position("stages", "grown", "branches") == Position(str(path), 4, 21)
    assert document.position("seed") == Position(str(tmp_path / "math.yaml"), 3, 7)


def test_lists_replace_and_null_removes_a_stage(write: Any) -> None:
    write("a.yaml", "stages:\n  p: {uses: load}\n  q: {uses: load}\n  r: {uses: compare, input: [p, q], baseline: p}\n")
    write("b.yaml", "extends: a.yaml\nstages:\n  q: null\n  s: {uses: load}\n  r: {input: [s, p]}\n")
    document = load(write("c.yaml", "extends: ./b.yaml\nseed: 3\n"), KINDS)
    assert list(document.stages) == ["p", "r", "s"]
    assert document.stages["r"].inputs == ("s", "p")


def test_paths_belong_to_the_file_that_says_them(write: Any, tmp_path: Path) -> None:
    for name in ("data/p.jsonl", "sub/q.jsonl", "m/config.json", "sub/lora/adapter_model.safetensors"):
        write(name, "")
    write("a.yaml", "models:\n  m: {path: m}\nstages:\n  p: {uses: load, file: data/p.jsonl}\n")
    path = write(
        "sub/b.yaml",
        "extends: ../a.yaml\nmodels: {n: {base: m, adapter: {path: lora}}}\nstages: {q: {uses: load, file: q.jsonl}}\n",
    )
    document = load(path, KINDS)
    assert document.stages["p"].params.file == str(tmp_path / "data/p.jsonl")
    assert document.stages["q"].params.file == str(tmp_path / "sub/q.jsonl")
    assert document.models["m"].path == tmp_path / "m"
    assert document.models["n"].adapter == AdapterDef(path=tmp_path / "sub/lora")


def test_a_path_on_the_command_line_belongs_to_where_it_was_typed(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("here/p.jsonl", "")
    monkeypatch.chdir(tmp_path / "here")
    document = load(write("a.yaml", "stages:\n  p: {uses: load}\n"), KINDS, sets=["stages.p.file=p.jsonl"])
    assert document.stages["p"].params.file == str(tmp_path / "here/p.jsonl")


def test_mistakes_of_a_parent_are_reported_in_the_parent(write: Any) -> None:
    write("a.yaml", "stages:\n  p: {uses: load, limit: 0}\n")
    path = write("b.yaml", "extends: a.yaml\nstages:\n  p: {prt: 1}\n")
    assert mistakes(path) == [
        "a.yaml:2:26  stages.p.limit: must be at least 1, not 0",
        "b.yaml:3:7  stages.p.prt: unknown key. Did you mean `part`?",
    ]


# -------------------------------------------------------------------------------------------------- --set


def test_an_override_is_typed_and_recorded(write: Any) -> None:
    document = good(
        write,
        "stages.grown.branches=2",
        "stages.grown.sampling.temperature=0",
        "stages.checked.where.fate=[accepted]",
        "runtime.models.learned.device=cpu",
        "runtime.rows_in_flight=4",
        "seed=5",
        "stages.out=null",
        "models.student.revision='1234567'",
        "prompt=a=b {problem}",
    )
    grown = document.stages["grown"].params
    assert (grown.branches, grown.sampling.temperature) == (2, 0.0)
    assert document.stages["checked"].where == {"fate": ("accepted",)}
    assert document.models["learned"].runtime.device == "cpu"
    assert (document.seed, document.runtime.rows_in_flight) == (5, 4)
    assert "out" not in document.stages
    assert document.models["student"].revision == "1234567"
    assert document.models["teacher"].format.prompt == "a=b {problem}"
    assert document.position("stages", "grown", "branches") == Position("--set #1")
    assert document.texts["--set #3"] == "stages.checked.where.fate=[accepted]"


def test_the_same_value_twice_is_no_mistake(write: Any) -> None:
    assert good(write, "seed=5", "seed=5").seed == 5


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["stages.grown"], "--set #1  stages.grown: has no value; write KEY=VALUE (null removes a key)"),
        (["seed="], "--set #1  seed: has no value; write KEY=VALUE (null removes a key)"),
        (["=3"], "--set #1  names no key that can be set; write stages.NAME.KEY=VALUE"),
        (["stages..x=3"], "--set #1  names no key that can be set; write stages.NAME.KEY=VALUE"),
        (["extends=b.yaml"], "--set #1  names no key that can be set; write stages.NAME.KEY=VALUE"),
        (
            ["stages.gron.branches=1"],
            "--set #1  stages.gron: there is none of this name. Did you mean `grown`?",
        ),
        (["stages.grown.brnches=1"], "--set #1  stages.grown.brnches: unknown key. Did you mean `branches`?"),
        (["sed=1"], "--set #1  sed: unknown key. Did you mean `seed`?"),
        (["seed.x=1"], "--set #1  seed: has no keys of its own"),
        (
            ["seed=1", "stages.grown.branches=8=9"],
            "--set #2  stages.grown.branches: a whole number is wanted, not the text `8=9`",
        ),
        (
            ["stages.grown.branches='8'"],
            "--set #1  stages.grown.branches: a whole number is wanted, not text: write 8 without quotes",
        ),
        (
            ["stages.grown.branches=[1"],
            "--set #1  stages.grown.branches: this bracket is not closed, or line 1 lacks a comma",
        ),
        (["stages.grown.branches=*x"], "--set #1  stages.grown.branches: aliases are not used here"),
        (["stages.problems.revision=0123"], "--set #1  stages.problems.revision: YAML readers disagree"),
        (["seed=1", "seed=2"], "--set #2  seed: --set #1 gives it another value"),
        (["seed=1", "seed='1'"], "--set #2  seed: --set #1 gives it another value"),
        (
            ["runtime.models.techer.device=cpu"],
            "--set #1  runtime.models.techer: is not a model. Did you mean `teacher`?",
        ),
        (["stages.out.repo=${HF_TOKEN}"], "--set #1  stages.out.repo: ${...} stands only under `runtime:`"),
        (["runtime.models.teacher.token=abc"], "--set #1  runtime.models.teacher.token: a token is not written"),
        (["runtime.models.teacher.token=hf_" + "a" * 30], "--set #1  looks like a secret"),
    ],
)
def test_an_override_is_checked_as_in_the_file(write: Any, sets: list[str], said: str) -> None:
    found = mistakes(write("math.yaml", GOOD), *sets, URL="http://h")
    assert found[0].startswith(said), found
    assert "aaaa" not in "".join(found)


# -------------------------------------------------------------------------------------- what must not break


def test_a_long_chain_of_stages_is_read(write: Any) -> None:
    lines = [f"  s{i}: {{uses: check, input: s{i + 1}}}" for i in range(2500)]
    text = "\n".join(
        ["stages:", *lines, "  s2500: {uses: grow, input: p, teacher: t, branches: 1}", "  p: {uses: load}"]
    )
    document = load(write("r.yaml", text + "\nmodels: {t: {repo: a/b}}\n"), KINDS)
    assert len(document.stages) == 2502


def test_many_ways_lead_to_the_same_stage(write: Any) -> None:
    """A ladder of 30 rungs has a billion ways down; none is walked twice."""
    rungs = [f"  {a}{i}: {{uses: check, input: [a{i + 1}, b{i + 1}]}}" for i in range(30) for a in "ab"]
    last = "  a30: {uses: grow, input: p, teacher: t, branches: 1}\n  b30: {uses: check, input: a30}\n  p: {uses: load}"
    text = "\n".join(["models: {t: {repo: a/b}}", "stages:", *rungs, last])
    document = load(write("r.yaml", text.replace("branches: 1", "criterion: random")), KINDS)
    assert len(document.stages) == 63


def test_columns_that_every_input_has_are_given_on(write: Any) -> None:
    sets = [
        "stages.mixed={uses: check, input: [grown, checked]}",
        "stages.last={uses: train, input: mixed, model: student, where: {verdict: [correct], fate: [accepted]}}",
    ]
    assert good(write, *sets).stages["last"].inputs == ("mixed",)
    found = mistakes(
        write("math.yaml", GOOD),
        "stages.mixed={uses: grow, input: [checked, problems], teacher: teacher, criterion: random}",
        "stages.last={uses: train, input: mixed, model: student, where: {verdict: [correct]}}",
        URL="http://h",
    )
    assert found == [
        "--set #2  stages.last.where.verdict: `mixed` gives no such column. "
        "It has: answer, fate, problem, solution, uuid."
    ]


KEYS = ["stages.grown." + k for k in ("branches", "chunk", "uses", "input", "accept", "where", "weights", "teacher")]
KEYS += ["models.warm.base", "models.warm", "models.student.path", "runtime.hub", "seed", "prompt", "stages", "runtime"]
VALUES = [
    "4",
    "null",
    "[]",
    "{}",
    "x",
    "[data, data]",
    "{a: [1]}",
    "true",
    "1e400",
    '""',
    "on",
    "grown",
    "[[[1]]]",
    "warm",
]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=4))
def test_whatever_is_set_it_is_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(GOOD)
    found, document = [], None
    try:
        document = load(path, KINDS, sets=[f"{k}={v}" for k, v in pairs], environ={"URL": "http://h"})
    except UserErrors as errors:
        found = [str(mistake) for mistake in errors.mistakes]
    assert (document is None) == bool(found)
    assert not any("\n" in line for line in found)
