"""Tiny random causal language models with a tokenizer and a chat template, made on the fly and never downloaded.

The head is scaled so that log-probabilities are far from flat: a mistake in positions, masks or caches then shows as an
error of whole nats instead of hiding below a tolerance. The tokenizer is a byte-level BPE, so every text round-trips
and characters may straddle tokens. What it knows of the package: nothing.
"""

from __future__ import annotations

from pathlib import Path

SPECIALS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|assistant|>{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% elif m.role == 'system' %}{{ m.content }}\n"
    "{% else %}<|user|>{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = (
    "Leo had 82 coins, sold 63, got 65, lost 32. How many coins now?",
    "82-63: 12-3=9, 7-6=1, so 19.\n19+65=84.\n\nAnswer: 52",
    "First we add the two numbers, then we check the result. Wait, no.\n\nSo the answer is \\boxed{42}.",
    "naïve café, 東京 is a city, 😀 is a face and Ω is a letter",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
)


def tokenizer(vocab: int = 384, template: str | None = TEMPLATE):
    """A byte-level BPE fast tokenizer with a GPT-2-like split, end token `<|end|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS * 4, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>")
    made.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    if template is not None:
        made.chat_template = template
    return made


def make(
    folder: Path,
    arch: str = "llama",
    vocab: int = 384,
    seed: int = 0,
    *,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    kv_heads: int | None = None,
    context: int = 512,
    scale: float = 20.0,
    dtype: str = "float32",
    template: str | None = TEMPLATE,
    **config: object,
) -> Path:
    """Write a random model (arch: llama, qwen2, qwen3, mistral) and its tokenizer into `folder`; returns the folder.

    `config` goes into the model's config. `scale` multiplies the head; 0 makes the model uniform, so that its
    perplexity is `len(tokenizer)` exactly.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    words = tokenizer(vocab, template)
    setting = AutoConfig.for_model(
        arch,
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        head_dim=hidden // heads,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **config,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(setting, dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(scale)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
