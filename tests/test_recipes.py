"""Every recipe that ships is read, checked and planned as far as no model or network is needed."""

from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fakes.context import Context

from ssd_pipeline import graph, recipe
from ssd_pipeline.criteria import CRITERIA
from ssd_pipeline.errors import UserErrors
from ssd_pipeline.identities import Identities
from ssd_pipeline.names import labels_of, stage_of
from ssd_pipeline.schema import recipe_schema
from ssd_pipeline.stage import EffectStage, marked
from ssd_pipeline.stages import KINDS
from ssd_pipeline.stages.load_problems import LoadProblems
from ssd_pipeline.stages.load_problems import run as load_problems

ROOT = Path(__file__).parents[1]
RECIPES = sorted(p for p in ROOT.glob("recipes/**/*.yaml"))
BASELINES = [p for p in RECIPES if p.parent.name == "baselines"]
ENVIRON = {"TEACHER_URL": "http://127.0.0.1:9"}


def named(path: Path) -> str:
    return path.relative_to(ROOT / "recipes").as_posix()


def read(name: str) -> recipe.Document:
    return recipe.load(ROOT / "recipes" / name, KINDS, environ=ENVIRON)


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_every_recipe_of_the_tree_loads_and_has_an_order(path: Path) -> None:
    document = recipe.load(path, KINDS, environ=ENVIRON)
    assert set(graph.ordered(document)) == set(document.stages)


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_every_recipe_is_valid_by_the_schema_for_editors(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), recipe_schema(KINDS))


@pytest.mark.parametrize("path", BASELINES, ids=named)
def test_a_baseline_is_the_quickstart_but_for_a_few_lines(path: Path) -> None:
    said = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert "extends: ../quickstart.yaml" in said
    assert len(said) <= 7
    ours, base = recipe.load(path, KINDS), read("quickstart.yaml")
    same = [n for n in base.stages if n in ours.stages and ours.stages[n] == base.stages[n]]
    assert len(same) >= len(base.stages) - 2, "it shares the quickstart's stages, and so its cache"


def test_the_controls_of_the_method_are_all_there() -> None:
    sampled = {p.stem: recipe.load(p, KINDS).stages["trajectories"].params for p in BASELINES}
    used = {p.select.criterion for p in sampled.values()}
    assert used >= {"perplexity", "random", "highest", "longest", "rsr", "answer_gain"}
    assert (sampled["beam"].beam_width, sampled["beam"].select.criterion) == (4, "answer_probability")
    assert sampled["teacher_perplexity"].student == sampled["teacher_perplexity"].teacher
    assert (sampled["best_of_n"].branches, sampled["best_of_n"].chunk.stop) == (6, ())
    assert sampled["best_of_n"].chunk.max_tokens == sampled["best_of_n"].max_tokens
    assert (sampled["standard_kd"].branches, sampled["standard_kd"].student) == (1, None)
    assert CRITERIA["longest"].needs is None


ARMS = {
    "best_of_n": "best_of_6",
    "highest_perplexity": "highest",
    "longest_branch": "longest",
    "random_branch": "random",
    "rsr": "rsr",
    "standard_kd": "equal_tokens",
    "teacher_perplexity": "teacher_perplexity",
}


def test_the_arms_of_the_comparison_choose_as_the_baselines_do() -> None:
    """But for the student, which the comparison leaves out where nobody is asked."""
    stages = read("compare.yaml").stages
    for baseline, arm in ARMS.items():
        alone = read(f"baselines/{baseline}.yaml").stages["trajectories"].params
        ours = stages[f"trajectories[arm={arm},seed=1]"].params
        assert alone.model_copy(update={"student": None}) == ours.model_copy(update={"student": None}), arm


def test_the_comparison_has_the_seeds_and_arms_that_it_states() -> None:
    document = read("compare.yaml")
    lines: dict[str, set[str]] = {}
    for name in document.stages:
        if stage_of(name) == "scores":
            labels = labels_of(name)
            seed = labels.pop("seed")
            lines.setdefault(" ".join(labels.values()), set()).add(seed)
    seven = {"gen_ssd", "standard_kd", "best_of_6"}
    assert {line for line, seeds in lines.items() if seeds == set("1234567")} == seven
    assert {f"{arm} world_b" for arm in seven} <= {line for line, seeds in lines.items() if seeds == set("123")}
    assert len(lines) == len(seven) + 9 + 6
    result = document.stages["result"]
    assert [stage_of(n) for n in result.inputs].count("scores") == sum(map(len, lines.values()))
    assert document.stages["adapter[arm=no_filter,seed=1]"].inputs == ("scored[arm=gen_ssd,seed=1]",)
    assert document.stages["problems[seed=2]"].seed == 2, "new problems for each seed"


def test_math_qwen_is_complete() -> None:
    document = read("math_qwen.yaml")
    kinds = {d.kind.kind for d in document.stages.values()}
    assert kinds == {
        *("load_problems", "sample_branches", "score_trajectories", "verify_answers"),
        *("train_sft", "evaluate", "compare", "push_dataset"),
    }
    stages = document.stages
    assert stages["trajectories"].params.accept.of.stage == "pilot"
    select = stages["trajectories"].params.select
    assert select.min_scored_tokens == stages["pilot"].params.min_scored_tokens == 16
    assert select.loop_words > 0
    assert stages["adapter"].params.model == stages["trajectories"].params.student == "warm"
    assert document.models["warm"].adapter.stage == "cold_start"
    assert stages["problems"].params.holdout.part != stages["cold_problems"].params.holdout.part
    assert stages["test_problems"].params.dataset != stages["problems"].params.dataset
    assert stages["published"].params.private
    assert not any(m.trust_remote_code for m in document.models.values())
    assert [n for n, d in stages.items() if isinstance(d.kind, EffectStage)] == ["published"]
    text = (ROOT / "recipes" / "math_qwen.yaml").read_text()
    assert "What it costs" in text
    assert "2502.12143" in text
    assert "..." not in text


def test_what_math_qwen_names_is_resolved_once_each() -> None:
    """With commits given, every identity that needs no artifact can be computed, and each revision is asked once."""
    document = read("math_qwen.yaml")
    asked: list[tuple[str, str, str]] = []

    def commit(repo_type: str, repo: str, revision: str) -> str:
        asked.append((repo_type, repo, revision))
        return "c" * 40

    identities = Identities(document, lambda stage: "0" * 64, commit)
    for definition in document.stages.values():
        identities.stage(definition)
    assert set(asked) == {
        ("model", "Qwen/QwQ-32B", "main"),
        ("model", "Qwen/Qwen2.5-1.5B-Instruct", "main"),
        ("dataset", "DigitalLearningGmbH/MATH-lighteval", "main"),
        ("dataset", "HuggingFaceH4/MATH-500", "main"),
    }


def test_no_shipped_recipe_trains_on_what_it_tests_on() -> None:
    for path in RECIPES:
        document = recipe.load(path, KINDS, environ=ENVIRON)

        def sources(name: str, document: recipe.Document = document) -> set[str]:
            definition = document.stages[name]
            if definition.inputs:
                return {s for above in definition.inputs for s in sources(above)}
            params = definition.params
            return {f"{params.dataset or Path(params.file or '').name} {params.split}"}

        for definition in document.stages.values():
            tested = [n for n in definition.inputs if definition.kind.kind == "evaluate"]
            for test in tested:
                for name, other in document.stages.items():
                    if other.kind.kind == "train_sft":
                        assert not sources(test) & sources(name), path


def test_trained_models_are_named_by_marks_alone() -> None:
    """No kind hides a model, file or stage in a plain text: what `marked` finds is all there is."""
    document = read("math_qwen.yaml")
    for name in document.models:
        users = [s for s, d in document.stages.items() if any(v == name for _, _, v in marked(d.params))]
        assert users or any(m.base == name for m in document.models.values()), name


ATTACKS = {
    "models.teacher.reasoning=unwrap": "unwrap needs the tags",
    "models.teacher.path=.": "no config.json",
    "models.warm.adapter={path: .}": "no adapter_model.safetensors",
    "models.learned.base=student": "was trained on `warm`, not on `student`",
    "stages.trajectories.accept={quantile: 0.5, of: {stage: problems}}": "gives no `chunk_perplexities`",
    "stages.adapter.where={tokens: [many]}": "holds whole numbers",
    "stages.adapter.where={verdict: [right]}": "does not occur here",
    "stages.adapter.lora.target_modules=[]": "all-linear",
    "stages.trajectories.accept={absolute: 0.5}": "at least 1",
    "stages.trajectories.accept={relative: 2.0}": "no mean to be compared with",
    "stages.trajectories.select.criterion=lowest": "perplexity, highest, rsr",
    "stages.trajectories.select.min_scored_tokens=-1": "at least 0",
    "stages.trajectories.select.loop_words=-1": "at least 0",
    "stages.trajectories.select.drop_tokens=-1": "at least 0",
    "stages.trajectories.select.local_chunks=-1": "at least 0",
    "stages.trajectories.select.cue=1": "text is wanted",
    "stages.trajectories.beam_width=0": "at least 1",
    "stages.trajectories.beam_width=5": "is above branches (4)",
    "stages.trajectories.accept={absolute: 2.0, relative: 2.0, min_chunks: 1}": "exactly one of",
    "stages.trajectories.accept={absolute: 2.0, min_chunks: -1}": "at least 0",
    "stages.trajectories.accept={absolute: 2.0, patience: 0}": "at least 1",
    "stages.trajectories.accept={quantile: 1.5, of: {stage: verified}}": "at most 1",
    "stages.trajectories.chunk.stop=[a, b, c, d, e]": "4",
    "stages.trajectories.sampling.top_p=1.5": "at most 1",
    "stages.trajectories.sampling.temperature=-1": "at least 0",
    "stages.problems.holdout={part: 3-2, of: 10}": "part",
    "stages.problems.columns={problem: question}": "question",
    "stages.result.baseline=nope": "not an input",
    "stages.scores.samples=-1": "at least 0",
    "stages.scores.check.timeout_s=0": "above 0",
    "runtime.models.teacher.api=vllm": "completions",
    "runtime.models.teacher={api: tgi}": "endpoints",
    "runtime.models.teacher={api: tgi, endpoints: [file:///x]}": "not an http",
    "runtime.rows_in_flight=0": "at least 1",
    "runtime.models.teacher={price: {sampled: 1e308}}": "at most 1000000000",
    "runtime.models.student={cache_gb: 1e300}": "at most 1000000",
}


def test_a_teacher_behind_an_endpoint_cannot_judge_its_own_branches() -> None:
    """The control `lowest teacher perplexity` is a mistake at the plan where the API gives no log-probabilities."""
    path = ROOT / "recipes" / "baselines" / "teacher_perplexity.yaml"
    runs = "runtime.models.teacher={api: tgi, endpoints: ['http://127.0.0.1:9']}"
    with pytest.raises(UserErrors, match="does not give log-probabilities of given text"):
        recipe.load(path, KINDS, sets=[runs])
    recipe.load(path, KINDS, sets=[runs, "models.here={base: teacher}", "runtime.models.here={api: transformers}",
                                   "stages.trajectories.student=here"])  # fmt: skip


def test_an_answer_criterion_needs_a_student() -> None:
    path = ROOT / "recipes" / "baselines" / "answer_gain.yaml"
    with pytest.raises(UserErrors, match="answer_gain needs a student"):
        recipe.load(path, KINDS, sets=["stages.trajectories.student=null"])


@pytest.mark.parametrize(("said", "says"), ATTACKS.items(), ids=ATTACKS)
def test_each_setting_refuses_what_cannot_be(said: str, says: str) -> None:
    with pytest.raises(UserErrors) as caught:
        recipe.load(ROOT / "recipes" / "quickstart.yaml", KINDS, sets=[said])
    assert says in str(caught.value)


BENCHMARK_ROWS = {  # one row of each data set with its columns and types
    "gsm8k": ({"question": "48/2?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"}, "1,024"),
    "math_500": (
        {"problem": "x?", "solution": "s", "answer": "\\frac{1}{2}", "level": 3, "unique_id": "u"},
        "\\frac{1}{2}",
    ),
    "aime_2024": ({"id": 60, "problem": "x?", "solution": "s", "answer": "033", "url": "u", "year": "2024"}, "033"),
    "aime_2025": ({"problem_idx": 1, "problem": "x?", "answer": 70, "problem_type": ["Algebra"]}, "70"),
    "amc": ({"id": 0, "problem": "x?", "answer": 142.0, "url": "u"}, "142"),
    "olympiad": ({"id": 1, "question": "x?", "final_answer": ["$1,2$"], "solution": ["s"], "error": None}, "$1,2$"),
}


@pytest.mark.parametrize("name", BENCHMARK_ROWS)
def test_the_benchmarks_are_read_by_their_true_columns(name: str, tmp_path: Path) -> None:
    row, answer = BENCHMARK_ROWS[name]
    (tmp_path / "p").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p" / "test.parquet")
    wanted = read("benchmarks.yaml").stages[name].params.columns
    params = LoadProblems(file=str(tmp_path / "p" / "test.parquet"), columns=wanted)
    ctx = Context(tmp_path / "stage")
    load_problems(params, ctx)
    assert [(r["answer"], r["error"]) for r in ctx.rows()] == [(answer, None)]


@pytest.mark.parametrize("said", ["!!int 5", '"${HOME}"', '"\\0"'])
@pytest.mark.parametrize("key", ["branches: ", "select: ", "select: {loop_words: ", "accept: {absolute: "])
def test_a_value_that_no_recipe_may_hold_is_the_one_mistake(tmp_path: Path, key: str, said: str) -> None:
    """It is found before the parameters are read, and what depends on them must not be asked of what is left."""
    path = tmp_path / "r.yaml"
    stage = f"{{uses: sample_branches, input: p, teacher: t, {key}{said}{'}' * key.count('{')}}}"
    problems = "{uses: load_problems, dataset: a/b, revision: '0'}"
    path.write_text(f"models: {{t: {{repo: a/t}}}}\nstages:\n  p: {problems}\n  x: {stage}\n")
    with pytest.raises(UserErrors) as refused:
        recipe.load(path, KINDS, environ={"HOME": "/here"})
    [mistake] = refused.value.mistakes
    assert (mistake.position.line, mistake.key.rpartition(".")[2]) == (4, key.rpartition("{")[2].partition(":")[0])


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://teacher.example:9"])
def test_a_token_that_may_be_missing_is_none(tmp_path: Path, url: str) -> None:
    """As docs/teachers.md writes it. Without one there is nothing that plain http could betray."""
    path = tmp_path / "r.yaml"
    problems = "{uses: load_problems, dataset: a/b, revision: '0'}"
    runs = f"{{api: tgi, endpoints: ['{url}'], token: '${{T:-}}'}}"
    path.write_text(f"models: {{t: {{repo: a/t}}}}\nstages: {{p: {problems}}}\nruntime: {{models: {{t: {runs}}}}}\n")
    assert not recipe.load(path, KINDS, environ={}).runtime.models["t"].token
