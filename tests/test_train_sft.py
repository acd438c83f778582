"""What is learned is the text that was scored; what is left out is counted; a killed training ends the same."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny
from fakes.command import SSD_RUN
from fakes.context import Context, finished
from fakes.shipped import ROOT
from fakes.training import EXAMPLES, SETTINGS, model
from pydantic import ValidationError

from ssd_pipeline import planner, runner
from ssd_pipeline.errors import ModelError, RunError
from ssd_pipeline.models.launched import sft_in_processes
from ssd_pipeline.models.loading import load_causal_lm, load_tokenizer, pick_device
from ssd_pipeline.models.trainer import DONE, MERGED, end_warning, sft
from ssd_pipeline.models.training_rows import IGNORED, Example, Rows, tokenised
from ssd_pipeline.stage import Model, ModelRuntime
from ssd_pipeline.stages import KINDS
from ssd_pipeline.stages.train_sft import STAGE, Lora, TrainParams, settings, train, usable
from ssd_pipeline.store.artifact import read_rows
from ssd_pipeline.store.local import Store


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(scale=4.0)


@pytest.fixture(scope="module")
def plain_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of an undisturbed training."""
    out = tmp_path_factory.mktemp("plain")
    sft(model(folder), EXAMPLES, SETTINGS, out, out.parent / "plain_work", lambda done, total: None)
    return out


def tokens(*examples: Example, limit: int = 512, too_long: str = "drop") -> Rows:
    return tokenised(examples, tiny.tokenizer(), None, limit, too_long)


# --------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "text",
    [
        "82-63=19.\nAnswer: 19",
        "  leading blanks and a trailing newline\n",
        "naïve 東京 😀 Ω \u00e9",
        "<think>\nhm\n</think>\n\nAnswer: \\boxed{5}",
        "a\r\n\tb",
    ],
)
def test_the_positions_with_loss_decode_to_the_text_and_its_end_token(text):
    words = tiny.tokenizer()
    prompt = "<|user|>a question<|assistant|>"
    row = tokens(Example(prompt, text, True)).table.to_pylist()[0]
    learned = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert [label for label in row["labels"] if label != IGNORED] == learned
    assert words.decode(learned) == text + "<|end|>"
    assert words.decode(row["input_ids"]) == prompt + text + "<|end|>"
    open_end = tokens(Example(prompt, text, False)).table.to_pylist()[0]
    assert words.decode(open_end["input_ids"]) == prompt + text


def test_long_rows_are_dropped_cut_or_refused_and_always_counted():
    short, long = Example("<|user|>q<|assistant|>", "a", True), Example("<|user|>q<|assistant|>", "a" * 100, True)
    dropped = tokens(short, long, long, limit=20)
    assert (dropped.table.num_rows, dropped.too_long, dropped.cut) == (1, 2, 0)
    cut = tokens(short, long, limit=20, too_long="cut")
    assert (cut.table.num_rows, cut.too_long, cut.cut, cut.longest) == (2, 0, 1, 20)
    assert tiny.tokenizer().eos_token_id not in cut.table.to_pylist()[1]["input_ids"]
    only_prompt = tokens(Example("<|user|>" + "q" * 50, "a", True), limit=20, too_long="cut")
    assert (only_prompt.table.num_rows, only_prompt.too_long) == (0, 1)
    with pytest.raises(RunError, match=r"row 1 has \d+ tokens, above 20"):
        tokens(short, long, limit=20, too_long="error")


def test_text_with_control_tokens_of_the_model_is_left_out_and_counted():
    rows = tokens(Example("<|user|>q<|assistant|>", "so<|end|>", True), Example("<|user|>q<|assistant|>", "so", True))
    assert (rows.table.num_rows, rows.control_text) == (1, 1)


def test_a_tokeniser_that_changes_the_text_stops_the_training():
    from tokenizers import normalizers

    words = tiny.tokenizer()
    words.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError, match="row 0: the tokeniser changes the text to be learned: 'yes"):
        tokenised([Example("q", "Yes", True)], words, None, 512, "drop")
    words.backend_tokenizer.normalizer = normalizers.NFC()
    assert tokenised([Example("q", "cafe\u0301", True)], words, None, 512, "drop").table.num_rows == 1


# ------------------------------------------------------------------------------------------------- training


def test_two_trainings_give_the_same_bytes_and_no_place_of_this_machine(folder, plain_run, tmp_path, capfd):
    told = []
    trained = sft(
        model(folder), EXAMPLES, SETTINGS, tmp_path / "out", tmp_path / "work", lambda *done: told.append(done)
    )
    assert files(tmp_path / "out") == files(plain_run)
    assert sorted(files(plain_run)) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads(files(plain_run)["adapter_config.json"])
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == sorted(config["target_modules"])
    assert str(tmp_path.parent) not in str(files(plain_run))
    assert told == [(i, 12) for i in range(1, 13)]
    assert len(trained.curve) == 12
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]
    assert capfd.readouterr().out == ""
    other = replace(SETTINGS, seed=6)
    sft(model(folder), EXAMPLES, other, tmp_path / "other", tmp_path / "work", lambda *done: None)
    assert files(tmp_path / "other") != files(plain_run)


RECIPE = """\
models: {{student: {{path: {folder}}}}}
stages:
  solved: {{uses: load_trajectories, file: solved.jsonl}}
  adapter: {{uses: train_sft, input: solved, model: student, epochs: 10, batch_size: 6, learning_rate: 0.01,
            precision: float32, lora: {{rank: 4, dropout: 0.1}}}}
runtime: {{models: {{student: {{device: cpu, checkpoint_s: 0, trackio: mine}}}}}}
"""
SOLVED = [{"problem": f"What is {i}+{i}?", "solution": f"Answer: {2 * i}", "answer": str(2 * i)} for i in range(24)]


def test_a_run_that_is_killed_in_mid_training_ends_as_an_undisturbed_one_and_tells_nobody(folder, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    (tmp_path / "solved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SOLVED))
    quiet = "runtime.models.student.trackio=null"
    planned = planner.plan(tmp_path / "recipe.yaml", KINDS, sets=[quiet], store=Store(tmp_path / "undisturbed"))
    events: list[dict] = []
    runner.run(planned, events.append)
    plain = {e["stage"]: e for e in events if e["event"] == "stage_finished"}["adapter"]

    hub = socket.create_server(("127.0.0.1", 0))
    paths = (ROOT, ROOT / "tests" / "fakes" / "installed")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SSD_HOME": str(tmp_path / "store")}
    environ |= {"PYTHONPATH": ":".join(map(str, paths)), "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}"}
    environ |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    command = [SSD_RUN, "recipe.yaml", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=-1, stderr=-1, start_new_session=True) as killed:
        while killed.poll() is None and not list(tmp_path.glob(f"store/work/*/checkpoint-[5-9]/{DONE}")):
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("store/artifacts/train_sft-*"))
    whole = sorted(tmp_path.glob(f"store/work/*/checkpoint-*/{DONE}"), key=lambda path: int(path.parent.name[11:]))
    if len(whole) > 1:  # as a power cut leaves the newest
        torn = whole.pop().parent / "optimizer.pt"
        torn.write_bytes(torn.read_bytes()[:-1])
    (whole[0].parent.parent / "checkpoint-99").mkdir()  # as one that is killed while it saves leaves it

    again = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    told = [json.loads(line) for line in again.stdout.splitlines()]  # and nothing else is on standard output
    steps = [e["done"] for e in told if e["event"] == "progress" and e["stage"] == "adapter"]
    assert steps == list(range(int(whole[-1].parent.name[11:]) + 1, 41))
    (done,) = (e for e in told if e["event"] == "stage_finished" and e["stage"] == "adapter")
    assert (done["address"], done["digest"]) == (plain["address"], plain["digest"])
    stores = [tmp_path / name / "artifacts" / done["address"] for name in ("undisturbed", "store")]
    weights = [(store / "data" / "adapter_model.safetensors").read_bytes() for store in stores]
    curves = [list(read_rows(store)) for store in stores]
    assert weights[0] == weights[1]
    assert curves[0] == curves[1]
    assert [update["step"] for update in curves[1]] == list(range(1, 41))

    tracked = [json.loads(line) for line in (tmp_path / "trackio.jsonl").read_text().splitlines()]
    begun = [line for line in tracked if "project" in line]
    assert begun == [{"project": "mine", "name": begun[0]["name"]}] * 2
    assert {line["step"]: line["loss"] for line in tracked if line.get("loss")} == {
        e["step"]: e["loss"] for e in curves[1]
    }
    hub.setblocking(False)
    with pytest.raises(BlockingIOError):
        hub.accept()


def test_a_checkpoint_of_other_rows_or_settings_is_not_gone_on_with(folder, tmp_path):
    work = tmp_path / "work"
    first: list[int] = []

    def stop(done: int, total: int | None) -> None:
        first.append(done)
        if done == 2:
            raise KeyboardInterrupt

    often = model(folder, runtime=ModelRuntime(device="cpu", checkpoint_s=0))
    with pytest.raises(KeyboardInterrupt):
        sft(often, EXAMPLES, SETTINGS, tmp_path / "out", work, stop)
    assert (work / "checkpoint-1" / DONE).is_file()
    told: list[int] = []
    short = replace(SETTINGS, max_steps=2)
    sft(model(folder), EXAMPLES, short, tmp_path / "out", work, lambda done, total: told.append(done))
    assert told == [1, 2]
    assert list(work.glob("checkpoint-*")) == []


def test_an_adapter_changes_the_model_and_can_be_trained_upon(folder, plain_run, tmp_path):
    warm = model(folder, adapters=(plain_run,))
    sft(warm, EXAMPLES, replace(SETTINGS, max_steps=1), tmp_path / "second", tmp_path / "w", lambda *done: None)
    first, second, third = map(logits, (model(folder), warm, replace(warm, adapters=(plain_run, tmp_path / "second"))))
    assert (first - second).abs().max() > 0.01
    assert (second - third).abs().max() > 0


def test_bfloat16_trains_and_differs(folder, plain_run, tmp_path):
    low = replace(SETTINGS, precision="bfloat16", max_steps=2)
    trained = sft(model(folder), EXAMPLES, low, tmp_path / "out", tmp_path / "work", lambda *done: None)
    assert len(trained.curve) == 2
    assert files(tmp_path / "out") != files(plain_run)


def logits(trained: Model) -> Any:
    import torch

    with torch.no_grad():
        ids = torch.tensor([load_tokenizer(trained)("Answer: 5")["input_ids"]])
        return load_causal_lm(trained, pick_device("cpu"))(input_ids=ids).logits


def test_full_training_leaves_a_whole_model_that_stands_for_what_was_below_it(folder, plain_run, tmp_path):
    full = replace(SETTINGS, method="full", learning_rate=1e-3, max_steps=2)
    warm = model(folder, adapters=(plain_run,))
    runs = [tmp_path / "one", tmp_path / "two"]
    for out in runs:
        sft(warm, EXAMPLES, full, out, tmp_path / f"w{out.name}", lambda *done: None)
    assert files(runs[0]) == files(runs[1])
    assert not any(str(tmp_path).encode() in content for content in files(runs[0]).values())
    assert json.loads(files(runs[0])["config.json"])["use_cache"] is True
    chained = logits(replace(warm, adapters=(plain_run, runs[0])))
    assert (chained - logits(model(runs[0]))).abs().max() == 0
    assert (chained - logits(warm)).abs().max() > 0


def test_a_merged_model_says_what_base_and_adapter_say(folder, tmp_path):
    out = tmp_path / "out"
    sft(model(folder), EXAMPLES, replace(SETTINGS, merge=True, max_steps=2), out, tmp_path / "work", lambda *done: None)
    assert (out / "adapter_model.safetensors").is_file()
    merged, chained = logits(model(out / MERGED)), logits(model(folder, adapters=(out,)))
    assert (merged - chained).abs().max() == 0
    assert (merged - logits(model(folder))).abs().max() > 0


def test_packed_rows_have_the_loss_of_the_same_rows_apart(folder, tmp_path):
    one_batch = replace(SETTINGS, dropout=0.0, batch_size=24, max_steps=1)
    apart = sft(model(folder), EXAMPLES, one_batch, tmp_path / "1", tmp_path / "w1", lambda *done: None)
    packed = replace(one_batch, packing=True, max_length=512)
    together = sft(model(folder), EXAMPLES, packed, tmp_path / "2", tmp_path / "w2", lambda *done: None)
    assert together.curve[0]["loss"] == pytest.approx(apart.curve[0]["loss"], abs=1e-5)
    assert together.rows.table.num_rows == 24
    steps = replace(packed, batch_size=1, max_steps=None, epochs=1, max_length=128)
    told: list[int] = []
    sft(model(folder), EXAMPLES, steps, tmp_path / "3", tmp_path / "w3", lambda done, total: told.append(done))
    assert len(told) < 24 / 2


def test_two_processes_learn_what_one_learns_and_when_one_dies_the_other_ends_and_the_next_call_goes_on(
    folder, tmp_path
):
    settings = replace(SETTINGS, dropout=0.0, epochs=1, batch_size=2, accumulate=2)
    one = sft(model(folder), EXAMPLES, settings, tmp_path / "1", tmp_path / "w1", lambda *done: None)
    two = model(folder, runtime=ModelRuntime(device="cpu", processes=2, checkpoint_s=0))
    out, work = tmp_path / "2", tmp_path / "w2"

    def death(done: int, total: int | None) -> None:
        if done == 3:  # so update 2 is saved
            (second,) = (pid for pid, rank in ranks(work).items() if rank == 1)
            os.kill(second, signal.SIGKILL)

    with pytest.raises(ModelError, match=r"training process 1 of 2 was killed by signal 9.*the same command goes on"):
        sft_in_processes(two, EXAMPLES, settings, out, work, death)
    assert ranks(work) == {}
    assert not out.exists()

    told: list[tuple[int, int | None]] = []
    both = sft_in_processes(two, EXAMPLES, settings, out, work, lambda *done: told.append(done))
    assert told in ([(i, 6) for i in range(3, 7)], [(i, 6) for i in range(4, 7)])
    assert [e["step"] for e in both.curve] == list(range(1, 7))
    assert [e["loss"] for e in both.curve] == pytest.approx([e["loss"] for e in one.curve], rel=1e-3)
    assert (both.rows.count, both.rows.tokens, both.device) == (24, one.rows.tokens, "cpu")
    assert sorted(files(out)) == sorted(files(tmp_path / "1"))


def ranks(work: Path) -> dict[int, int]:
    """The processes that train in `work`: their ranks by their ids."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            words, environ = ((process / name).read_bytes().decode().split("\0") for name in ("cmdline", "environ"))
            said = [word for word in environ if word.startswith("RANK=")]
            if str(work / "job.jsonl") in words and said:
                found[int(process.name)] = int(said[0].removeprefix("RANK="))
    return found


def test_rows_that_cannot_be_dealt_to_the_processes_are_a_mistake(folder, tmp_path):
    two = model(folder, runtime=ModelRuntime(device="cpu", processes=2))
    with pytest.raises(RunError, match="neither accumulate nor batch_size can be dealt to 2 processes"):
        sft_in_processes(two, EXAMPLES, replace(SETTINGS, batch_size=3), tmp_path, tmp_path / "w", lambda *done: None)


def test_an_end_token_that_the_model_does_not_know_is_told_with_what_to_do(folder):
    words = load_tokenizer(model(folder))
    lm = load_causal_lm(model(folder), pick_device("cpu"))
    end, own = words.convert_tokens_to_ids(["<|end|>", "<|user|>"])
    assert end_warning(lm, words, None) is None
    lm.generation_config.eos_token_id = lm.config.eos_token_id = own  # as in Qwen's base models: <|endoftext|>, and
    assert end_warning(lm, words, None) == (  # a tokeniser that says <|im_end|> changes nothing
        "the end token <|end|> is not one that this model's config says it writes: after training it may never stop. "
        "Use an instruct model as the student, give it a `template` that ends turns with <|user|>, or train all "
        "weights (method: full)"
    )
    lm.generation_config.eos_token_id = lm.config.eos_token_id = None
    assert end_warning(lm, words, None) is None
    lm.generation_config.eos_token_id = [end, own]
    assert end_warning(lm, words, None) is None
    for matrix in (lm.get_input_embeddings().weight, lm.get_output_embeddings().weight):
        kept = matrix[end].clone()
        matrix.data[end] *= 1e-3
        assert "<|end|> was never trained in this model: after" in end_warning(lm, words, None)
        matrix.data[end] = kept


def test_an_end_token_that_no_text_had_is_known_by_its_weights():
    """The shipped student was trained from nothing on texts without <|pad|>, and on none without <|end|>."""
    student = model(ROOT / "recipes" / "quickstart" / "student")
    words, lm = load_tokenizer(student), load_causal_lm(student, pick_device("cpu"))
    assert end_warning(lm, words, None) is None
    lm.generation_config.eos_token_id = [words.eos_token_id, words.pad_token_id]
    said = end_warning(lm, words, words.chat_template.replace("<|end|>", "<|pad|>"))
    assert said.startswith("the end token <|pad|> was never trained in this model: after training it may never stop.")
    assert "ends turns with <|end|>" in said


def test_what_is_served_of_a_training_stops_at_the_end_that_was_trained(folder, tmp_path):
    base = load_causal_lm(model(folder), pick_device("cpu"))
    words = load_tokenizer(model(folder))
    base.generation_config.eos_token_id = base.config.eos_token_id = words.convert_tokens_to_ids("<|user|>")
    words.eos_token = "<|user|>"
    for part in (base, words):
        part.save_pretrained(tmp_path / "base")
    settings = replace(SETTINGS, method="full", max_steps=1)
    warned = [
        sft(model(tmp_path / "base"), EXAMPLES, one, tmp_path / one.method, tmp_path / "w", lambda *done: None).warnings
        for one in (settings, replace(settings, method="lora"))
    ]
    assert [len(said) for said in warned] == [0, 1]
    served = json.loads((tmp_path / "full" / "generation_config.json").read_text())
    assert served["eos_token_id"] == words.convert_tokens_to_ids(["<|end|>", "<|user|>"])


# ---------------------------------------------------------------------------------------------------- stage


class Training(Context):
    """A context whose recipe has one model."""

    def model(self, name: str) -> Model:
        assert name == "student"
        return model(self.folder)


def context(root: Path, folder: Path, *inputs: list[dict]) -> Training:
    ctx = Training(root / "stage", inputs=[finished(root / f"in{i}", f"in{i}", rows) for i, rows in enumerate(inputs)])
    ctx.folder = folder
    return ctx


def row(number: int, fate: str | None = "accepted", solution: str | None = "so 4") -> dict:
    return {"problem": f"What is {number}?", "solution": solution, "fate": fate, "answer": "4"}


def test_the_stage_trains_on_accepted_rows_and_counts_the_others(folder, tmp_path):
    rows = [*(row(i) for i in range(6)), row(7, "given_up"), row(8, "error", None), row(9, "accepted", None)]
    rows += [row(10, "accepted", "x" * 400), row(11, "accepted", "a<|end|>b"), {**row(12), "problem": "a <|user|> b"}]
    ctx = context(tmp_path, folder, rows)
    params = TrainParams(
        model="student", lora=Lora(rank=2), epochs=2, batch_size=2, precision="float32", max_length=200
    )
    said = train(params, ctx)
    assert said["rows"] == 6
    assert said["left_out"] == {
        "a problem that cannot be rendered": 1,
        "fate error": 1,
        "fate given_up": 1,
        "too long": 1,
        "with control text of this model": 1,
        "without a solution": 1,
    }
    assert said["steps"] == 6
    assert [r["step"] for r in ctx.rows()] == [1, 2, 3, 4, 5, 6]
    assert ctx.rows()[-1]["loss"] == said["last_loss"]
    assert said["tokens"] == 6 * len(tiny.tokenizer()("so 4<|end|>")["input_ids"])
    assert (ctx.out / "adapter_model.safetensors").is_file()


def test_keys_of_an_adapter_are_a_mistake_in_full_training():
    given = {"model": "m", "method": "full", "lora": {"rank": 4}, "merge": True}
    assert [path for path, _ in TrainParams.model_validate(given).mistakes()] == [("lora",), ("merge",)]
    assert list(TrainParams(model="m", merge=True).mistakes()) == []


@pytest.mark.parametrize(
    "given", [{"method": "qlora"}, {"merge": "yes"}, {"packing": 1}, {"lora": {"rank": 0}}, {"precision": "float8"}]
)
def test_values_that_are_none(given):
    with pytest.raises(ValidationError):
        TrainParams.model_validate({"model": "m", **given})


@pytest.mark.parametrize("given", [{"processes": 0}, {"processes": 1.5}, {"trackio": ""}])
def test_values_that_are_none_where_it_runs(given):
    with pytest.raises(ValidationError):
        ModelRuntime.model_validate(given)


def test_trackio_that_is_not_there_is_told_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ctx = context(tmp_path, folder, [row(1)])
    there = model(folder)
    ctx.model = lambda name: replace(there, runtime=there.runtime.model_copy(update={"trackio": "mine"}))
    with pytest.raises(RunError, match=r'trackio: pip install "ssd-pipeline\[trackio\]"'):
        train(TrainParams(model="student"), ctx)


def test_no_row_left_says_why(folder, tmp_path):
    with pytest.raises(RunError, match=r"no row to train on: 2 fate given_up, 1 without a solution\. Look at"):
        train(
            TrainParams(model="student"),
            context(tmp_path, folder, [row(1, "given_up"), row(2, "given_up"), row(3, None, "")]),
        )
    (tmp_path / "2").mkdir()
    beyond_the_models_context = [row(1, solution="x " * 600)]
    with pytest.raises(RunError, match="no row is left to train on: 1 too long"):
        train(TrainParams(model="student"), context(tmp_path / "2", folder, beyond_the_models_context))


def test_unfinished_text_is_trained_only_on_demand_and_without_an_end(folder, tmp_path):
    from ssd_pipeline.models import open_prompts

    source = finished(tmp_path / "in", "in", [row(1), row(2, "too_long"), row(3, "given_up")])
    params = TrainParams(model="student", fates=("accepted", "too_long"))
    got = list(usable(source, params, open_prompts(model(folder)), Counter()))
    assert [(e.text, e.finished) for e in got] == [("so 4", True), ("so 4", False)]
    assert got[0].prompt == "<|user|>What is 1?<|assistant|>"


@pytest.mark.parametrize(
    ("weight", "taken"), [(1, [0, 1, 2, 3]), (2, [0, 0, 1, 1, 2, 2, 3, 3]), (0.5, [1, 3]), (0.25, [3])]
)
def test_a_weight_repeats_rows_or_takes_an_evenly_spread_part(folder, tmp_path, weight, taken):
    from ssd_pipeline.models import open_prompts

    source = replace(finished(tmp_path / "in", "in", [row(i) for i in range(4)]), weight=weight)
    got = usable(source, TrainParams(model="student"), open_prompts(model(folder)), Counter())
    assert [int(e.prompt.split()[2][0]) for e in got] == taken


def test_settings_follow_the_parameters_and_the_seed_follows_seed_and_take(tmp_path):
    ctx = Context(tmp_path / "stage")
    made = settings(TrainParams(model="student", lora=Lora(rank=32)), ctx)
    assert (made.rank, made.alpha, made.target_modules) == (32, 64, "all-linear")
    again = [
        settings(TrainParams(model="student"), replace_context(ctx, s, t)).seed for s, t in ((17, 0), (18, 0), (17, 1))
    ]
    assert len(set(again)) == 3
    assert again[0] == made.seed
    assert STAGE.gives == "adapter"


def replace_context(ctx: Context, seed: int, take: int) -> Context:
    ctx.seed, ctx.take = seed, take
    return ctx


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}
