"""Makes everything in this folder that is not source: tokenizer, three tiny models, problems.

    python recipes/quickstart/make_models.py        (or: make quickstart-models)

One process, one thread and fixed seeds, because a demonstration that cannot be made again shows
nothing: the same machine and library versions give the same files, another machine gives its
own that should behave alike. Teachers are trained until their usual line is mostly right. The student
is stopped early on purpose: it has met every style and can carry out the small ones, not the leaps.
Its length was searched for that gap, and nothing else was looked at; the README says so.

This file does not know `ssd_pipeline`, nor how the models it makes are used.
"""

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")  # at this size a second thread costs more than it gives
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import world
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

HERE = Path(__file__).resolve().parent
PAD, END, USER, ASSISTANT = SPECIALS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
# A system message is left out: these models never saw one.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT = 512
TESTED = (3, 5)  # operations of the problems that recipes see
LARGE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 352}
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 176}


@dataclass(frozen=True)
class Model:
    """How one model is made: on lessons in a mix of styles, with a share of drills among them."""

    name: str
    shape: dict[str, int]
    seed: int
    mix: world.Mix
    operations: tuple[int, int]
    steps: int  # a multiple of POOL
    drills: float = 0.0


MODELS = (
    Model("student", SMALL, 11, world.STUDENT, (1, 5), steps=2000),
    Model("teacher_b", SMALL, 12, world.TEACHER["B"], (2, 5), steps=3500, drills=0.4),
    Model("teacher", LARGE, 13, world.TEACHER["L"], (2, 5), steps=4000, drills=0.5),
)
BATCH = 32
LEARNING_RATE = 3e-3
POOL = 50  # batches drawn at a time, to be sorted by length


# --- tokenizer ---------------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokens are words, single digits and marks, with the space in front of them."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r" ?[0-9]| ?[A-Za-z]+|\n| ?[^\sA-Za-z0-9]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ascii_bytes = [byte_level.pre_tokenize_str(chr(code))[0][0] for code in (10, *range(32, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        min_frequency=20,
        special_tokens=list(SPECIALS),
        initial_alphabet=ascii_bytes,
        show_progress=False,
    )
    rng = Random(7)
    problems = [world.draw_problem(rng, (1, 5), "pretrain") for _ in range(5000)]
    tokenizer.train_from_iterator(
        [f"{p.statement}\n{world.draw_solution(rng, p, world.STUDENT)}" for p in problems], trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


# --- texts -------------------------------------------------------------------------------------

Text = list[tuple[str, bool]]  # pieces, and whether a piece is learnt; the tokenizer joins nothing across them


def lesson(rng: Random, recipe: Model) -> Text:
    """A problem and its solution; only the solution is learnt, since a statement cannot be foreseen."""
    problem = world.draw_problem(rng, recipe.operations, "pretrain")
    return [
        (f"{USER}{problem.statement}{ASSISTANT}", False),
        (f"{world.draw_solution(rng, problem, recipe.mix)}{END}", True),
    ]


def drill(rng: Random) -> Text:
    """Nothing but sums, of which the results are learnt: leaps are hard, and lessons hold few for their length."""
    problem = world.draw_problem(rng, (8, 8), "pretrain")
    lines = world.draw_solution(rng, problem, world.DRILL).split("\n")[:-1]
    halves = [line.split("=") for line in lines]
    return [piece for stated, result in halves for piece in ((f"{stated}=", False), (f"{result}\n", True))]


def batches(tokenizer: PreTrainedTokenizerFast, recipe: Model) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of texts of one kind and nearly one length: half of the time would go to padding else."""
    rng = Random(recipe.seed)
    drills = round(recipe.drills * POOL) * BATCH
    for _ in range(0, recipe.steps, POOL):
        kinds = [drill(rng) for _ in range(drills)], [lesson(rng, recipe) for _ in range(POOL * BATCH - drills)]
        rows = [row for texts in kinds for row in sorted((_tokens(tokenizer, text) for text in texts), key=len)]
        grouped = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
        rng.shuffle(grouped)
        yield from map(_tensors, grouped)


def _tokens(tokenizer: PreTrainedTokenizerFast, text: Text) -> list[tuple[int, int]]:
    """Ids and labels of a text."""
    encoded = tokenizer([piece for piece, _ in text])["input_ids"]
    return [(i, i if learnt else -100) for ids, (_, learnt) in zip(encoded, text, strict=True) for i in ids]


def _tensors(rows: list[list[tuple[int, int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels of a batch, padded on the right, where causal attention needs no mask."""
    longest = max(map(len, rows))
    width = -longest % 16 + longest  # few widths: the matrix kernels are compiled anew for each
    padded = torch.tensor([row + [(0, -100)] * (width - len(row)) for row in rows])
    return padded[..., 0], padded[..., 1]


# --- training ----------------------------------------------------------------------------------


def train(recipe: Model, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_config(_config(recipe, tokenizer), attn_implementation="eager")  # fastest here
    optimizers = _optimizers(model)
    model.train()
    begun, recent = time.monotonic(), []
    for step, (ids, labels) in enumerate(batches(tokenizer, recipe), start=1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = _learning_rate(step, recipe.steps)
            optimizer.step()
        recent.append(loss.item())
        if step % 250 == 0 or step == recipe.steps:
            spent = time.monotonic() - begun
            print(
                f"{recipe.name}: {step}/{recipe.steps}, loss {sum(recent) / len(recent):.4f}, {spent:.0f} s", flush=True
            )
            recent = []
    return model.eval()


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest: leaps took AdamW alone more than three times as many steps."""
    inner = {name for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name}
    matrices = [weight for name, weight in model.named_parameters() if name in inner]
    others = [weight for name, weight in model.named_parameters() if name not in inner]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def _learning_rate(step: int, steps: int) -> float:
    """Up over the first twentieth, then half a cosine down to zero."""
    warm = steps / 20
    if step <= warm:
        return LEARNING_RATE * step / warm
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _config(recipe: Model, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **recipe.shape,
    )


# --- files -------------------------------------------------------------------------------------


def save_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes beside the folder and renames, so that a reader never meets half a model."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    (fresh / "model.safetensors").chmod(0o644)  # written for its owner alone
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def save_problems(path: Path, problems: list[world.Problem]) -> None:
    rows = [json.dumps({"problem": problem.statement, "answer": str(problem.answer)}) for problem in problems]
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text("\n".join(rows) + "\n", encoding="utf-8")
    fresh.rename(path)


# --- measuring ---------------------------------------------------------------------------------


@torch.inference_mode()
def solve(
    folder: Path, tokenizer: PreTrainedTokenizerFast, problems: list[world.Problem], temperature: float
) -> list[str]:
    """Solutions by the model in the folder, in float32; temperature 0 is greedy."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(5)
    prompts = [f"{USER}{problem.statement}{ASSISTANT}" for problem in problems]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    inputs.pop("token_type_ids", None)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    out = model.generate(**inputs, max_new_tokens=256, **sampling)
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast, problems: list[world.Problem]) -> None:
    for how, temperature in (("greedy", 0.0), ("T=1", 1.0)):
        solutions = solve(folder, tokenizer, problems, temperature)
        right = sum(world.solves(text, problem.answer) for text, problem in zip(solutions, problems, strict=True))
        print(f"{name}, {how}: {right / len(problems):.1%} of {len(problems)} problems right")
        lengths = [len(ids) for ids in tokenizer(solutions)["input_ids"]]
        print(f"    {sum(lengths) / len(lengths):.0f} tokens a solution, {max(lengths)} in the longest")
        found = world.lines_by_style(solutions)
        total = sum(map(len, found.values()))
        for style, lines in sorted(found.items()):
            accuracy = sum(map(world.is_right, lines)) / len(lines)
            print(f"    {style:7} {len(lines) / total:4.0%} of the lines, {accuracy:4.0%} of them right")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tokenizer, models and problems of the quickstart again.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: the one of this file)")
    out: Path = parser.parse_args().out
    begun = time.monotonic()
    torch.set_num_threads(1)
    disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    tests = world.draw_distinct(Random(1), TESTED, "test", 300)
    save_problems(out / "train_problems.jsonl", world.draw_distinct(Random(2), TESTED, "train", 2000))
    save_problems(out / "test_problems.jsonl", tests)
    tokenizer = make_tokenizer()
    for recipe in MODELS:
        save_model(out / recipe.name, train(recipe, tokenizer), tokenizer)
    for recipe in MODELS:
        measure(recipe.name, out / recipe.name, tokenizer, tests)
    print(f"{time.monotonic() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
