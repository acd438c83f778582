"""What the student's judgement costs: K = 4 branches of 64 tokens after 256 and 1,024, 16 trajectories at once.

    python benchmarks/scoring.py [--device cuda] [--vllm PYTHON] [--model FOLDER] [--rounds N] [--at-once N]

Ours against (a) a full run per branch, (b) one of the K branches as a batch, (c) the limit: one dense forward pass over
the new tokens alone, without any prefix. All in one run, in turns, medians of as many rounds; (a) and (b) are timed for
one trajectory and count 16 times. Then a whole recipe: a loopback teacher that answers at once, a real student, and the
share of the time in which the device computes. On a CPU the student is a Llama of 30 M parameters in float32, on a GPU
models of 0.5 and 1.5 B in bfloat16, all random. `--vllm`: a Python that has vLLM; its prompt_logprobs of the same texts
is timed too. `--model`: scores with that one, and runs no recipe.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

K, CHUNK, PREFIXES = 4, 64, (256, 1024)
SIZES = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "heads": (4, 2), "vocab_size": 4096},
    "30M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "heads": (8, 8), "vocab_size": 4096},
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "heads": (14, 2)},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "heads": (12, 2)},
}
RECIPE = """
models: {{teacher: {{path: {folder}}}, student: {{path: {folder}}}}}
stages:
  problems: {{uses: load_problems, file: problems.jsonl}}
  out: {{uses: sample_branches, input: problems, teacher: teacher, student: student, branches: 4, max_tokens: 256,
        chunk: {{max_tokens: 64}}}}
runtime: {{models: {{teacher: {{api: completions, endpoints: ["http://127.0.0.1:{port}"], served_name: fast}},
                     student: {{device: {device}}}}}}}
"""


def words() -> list[str]:
    """3,500 words with their space: what the tokeniser learns, and what the teacher says."""
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    return [" " + "".join(pair) for pair in itertools.islice(itertools.product(syllables, repeat=2), 3500)]


def one_token_words(tokenizer) -> list[str]:
    """Words with their space that are one token each, so that texts of them have as many tokens as words."""
    known = (tokenizer.decode([number]) for number in sorted(tokenizer.get_vocab().values()))
    return [word for word in known if word[:1] == " " and word[1:].isascii() and word[1:].isalpha() and word.islower()]


def make_student(folder: Path, size: str, device: str) -> None:
    """A random model of this size and a byte-level tokeniser of its words."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=alphabet, show_progress=False, special_tokens=[AddedToken("<end>")]
    )
    core.train_from_iterator(["".join(words())] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    setting = {"vocab_size": 151_936, "max_position_embeddings": 8192, **SIZES[size]}
    heads, kv_heads = setting.pop("heads")
    config = AutoConfig.for_model(
        "llama" if size in ("tiny", "30M") else "qwen2",
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **setting,
    )
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32 if size in ("tiny", "30M") else torch.bfloat16
        )
    print(f"\n{size}: {model.num_parameters() / 1e6:.1f} M parameters, {model.dtype}, {device}")
    model.save_pretrained(folder)


class Plain:
    """The plain ways, by transformers alone."""

    def __init__(self, folder: Path, device: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
        self.device = device

    def ids(self, texts: list[str]):
        import torch

        return torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])

    def scores(self, texts: list[str]) -> list[list[float]]:
        """Log-probabilities of the last CHUNK tokens of texts of equal length, in one batch."""
        import torch

        ids = self.ids(texts).to(self.device)
        with torch.inference_mode():
            logits = self.model(ids, use_cache=False, logits_to_keep=CHUNK + 1).logits[:, :-1].float()
        own = logits.gather(-1, ids[:, -CHUNK:, None])[..., 0] - logits.logsumexp(-1)
        return own.tolist()

    def dense(self, texts: list[str], rows: int) -> None:
        """Logits of short texts, so many in a batch."""
        import torch

        ids = self.ids(texts).to(self.device)
        with torch.inference_mode():
            for part in ids.split(rows):
                self.model(part, use_cache=False).logits[0, 0, 0].item()


def timed(function, *args):
    """What it returns, and how long it takes: by the clock, and of the processor in all threads."""
    began, used = time.perf_counter(), time.process_time()
    found = function(*args)
    return found, (time.perf_counter() - began, time.process_time() - used)


def measure(folder: Path, device: str, rounds: int, at_once: int, vllm: str | None) -> None:
    from ssd_pipeline.models.scorer import TransformersScorer
    from ssd_pipeline.stage import Model, ModelRuntime, Score

    plain = Plain(folder, device)
    scorer = TransformersScorer(Model("student", path=folder, runtime=ModelRuntime(device=device, cache_gb=4)))
    rows = 16 if device == "cpu" else at_once * K  # tokens of a pass beyond which nothing is gained

    async def score(asks):
        return await asyncio.gather(*(scorer.score(ask) for ask in asks))

    server = Vllm(vllm, folder, device) if vllm else None
    draw, vocabulary = random.Random(0), one_token_words(plain.tokenizer)

    def text(tokens: int) -> str:
        return "".join(draw.choices(vocabulary, k=tokens))

    for prefix in PREFIXES:
        times: dict[str, list[tuple[float, float]]] = {}
        for turn in range(rounds + 1):  # the first warms up
            prompts = [text(32) for _ in range(at_once)]
            befores = [text(prefix - 32 - CHUNK) for _ in prompts]
            chunks = [[text(CHUNK) for _ in range(K)] for _ in prompts]
            branches = [tuple(text(CHUNK) for _ in range(K)) for _ in prompts]
            asyncio.run(score([Score(*three) for three in zip(prompts, befores, map(tuple, chunks), strict=True)]))
            whole = [before + chunk[0] for before, chunk in zip(befores, chunks, strict=True)]
            asks = [Score(*three) for three in zip(prompts, whole, branches, strict=True)]
            texts = [prompts[0] + whole[0] + branch for branch in branches[0]]
            found = {}
            answers, found["ours"] = timed(lambda asks=asks: asyncio.run(score(asks)))
            found["c"] = timed(plain.dense, [branch for four in branches for branch in four], rows)[1]
            singles = timed(lambda texts=texts: [plain.scores([one]) for one in texts])[1]
            expected, together = timed(plain.scores, texts)
            found["a"], found["b"] = ([seconds * at_once for seconds in one] for one in (singles, together))
            if server:
                found["vllm"] = (server.score([a.prompt + a.prefix + b for a in asks for b in a.branches]), 0.0)
            if turn:
                for name, seconds in found.items():
                    times.setdefault(name, []).append(seconds)
        print(
            f"prefix {prefix}: {median(clock for clock, _ in times['ours']):.2f} s for {at_once} x {K} x {CHUNK} tokens"
        )

        def ratio(one: str, other: str, times=times) -> str:
            pairs = list(zip(times[one], times[other], strict=True))
            clock, processor = (median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
            return f"{clock:5.2f} times as long ({processor:.2f} of the processor)"

        print(f"  (a) a full run per branch takes    {ratio('a', 'ours')} as ours")
        print(f"  (b) a full run of K branches takes {ratio('b', 'ours')} as ours")
        print(f"  ours takes                         {ratio('ours', 'c')} as (c), dense and without prefix")
        if server:
            print(f"  vLLM with prompt_logprobs takes    {ratio('vllm', 'ours').split(' (')[0]} as ours")
        pairs = zip(answers[0], expected, strict=True)
        error = max(abs(a - b) for one, other in pairs for a, b in zip(one.logprobs, other, strict=True))
        print(f"  largest difference of a token's log-probability from (b): {error:.1e}")
    asyncio.run(scorer.close())
    if server:
        server.close()


class Vllm:
    """vLLM in a process of its own: texts in, seconds out."""

    def __init__(self, python: str, folder: Path, device: str) -> None:
        command = [python, __file__, "--serve-vllm", str(folder), "--device", device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def score(self, texts: list[str]) -> float:
        print(json.dumps(texts), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit("vLLM ended")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve_vllm(folder: str, device: str) -> None:
    """The child, in a Python that has vLLM; on a CPU with room for the texts and with all cores, as ours has."""
    if device == "cpu":
        threads = str(os.cpu_count())
        os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": threads}
    from vllm import LLM, SamplingParams

    more = {"gpu_memory_utilization": 0.5} if device == "cuda" else {"enforce_eager": True, "dtype": "float32"}
    engine = LLM(model=folder, max_model_len=2048, **more)
    wanted = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    for line in sys.stdin:
        texts = json.loads(line)
        began = time.perf_counter()
        engine.generate(texts, wanted, use_tqdm=False)
        print(f"seconds {time.perf_counter() - began}", flush=True)


class Fast(BaseHTTPRequestHandler):
    """A teacher that answers at once: random words by the seed, as many as tokens are asked for."""

    protocol_version = "HTTP/1.1"
    vocabulary = words()

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._send({"data": [{"id": "fast"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "".join(random.Random(body["seed"]).choices(self.vocabulary, k=body["max_tokens"]))
        choices = [{"index": 0, "text": text, "finish_reason": "length"}]
        self._send({"choices": choices, "usage": {"completion_tokens": body["max_tokens"]}})

    def _send(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def end_to_end(folder: Path, device: str, problems: int) -> None:
    """A recipe as a user runs it; the device's share of the time from the first forward pass to the last."""
    from ssd_pipeline import plan, run
    from ssd_pipeline.models.packed import PackedModel

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    teacher = subprocess.Popen([sys.executable, __file__, "--teacher", str(port)])
    spans: list[tuple[float, float]] = []
    real = PackedModel.measure

    def measure(self, parts, *, ranks):
        began = time.perf_counter()
        found = real(self, parts, ranks=ranks)
        spans.append((began, time.perf_counter()))
        return found

    PackedModel.measure = measure
    from transformers.utils import logging

    logging.disable_progress_bar()
    lines = [json.dumps({"problem": "".join(words()[i : i + 32]), "answer": "1"}) for i in range(problems)]
    (folder / "problems.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, port=port, device=device))
    os.environ["SSD_HOME"] = str(folder / "store")
    try:
        run(plan(folder / "recipe.yaml"))
    finally:
        teacher.terminate()
        PackedModel.measure = real
    spans = spans[1:]  # the first is the check of the model when it is loaded
    busy, wall = sum(end - began for began, end in spans), spans[-1][1] - spans[0][0]
    print(f"a recipe with {problems} problems: the device computes {busy / wall:.0%} of {wall:.1f} s")


def profiled() -> None:
    """At the end, print the share of each operation in our forward passes."""
    from torch.profiler import ProfilerActivity, profile

    from ssd_pipeline.models.packed import PackedModel

    spent: Counter[str] = Counter()
    real = PackedModel.measure

    def measure(self, parts, *, ranks):
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            found = real(self, parts, ranks=ranks)
        spent.update({event.key: event.self_cpu_time_total for event in watched.key_averages()})
        return found

    def tell() -> None:
        for name, time_us in spent.most_common(8):
            print(f"{time_us / spent.total():4.0%} {name}")

    PackedModel.measure = measure
    atexit.register(tell)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vllm")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--profile", action="store_true", help="where our time goes; the ratios are then of no use")
    parser.add_argument("--teacher", type=int)
    parser.add_argument("--serve-vllm")
    said = parser.parse_args()
    if said.teacher:
        ThreadingHTTPServer(("127.0.0.1", said.teacher), Fast).serve_forever()
    elif said.serve_vllm:
        serve_vllm(said.serve_vllm, said.device)
    else:
        if said.profile:
            profiled()
        if said.model:
            measure(said.model, said.device, said.rounds, said.at_once, said.vllm)
            return
        for size in said.sizes or (["30M"] if said.device == "cpu" else ["0.5B", "1.5B"]):
            with tempfile.TemporaryDirectory() as name:
                make_student(Path(name), size, said.device)
                measure(Path(name), said.device, said.rounds, said.at_once, said.vllm)
                end_to_end(Path(name), said.device, said.problems)


if __name__ == "__main__":
    main()
