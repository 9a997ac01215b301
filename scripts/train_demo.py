"""Train the embedded model: a byte-level causal transformer in which previous-token and induction heads form.

    python scripts/train_demo.py                     # writes attlas/engine/model/demo, minutes on two cores
    python scripts/train_demo.py --out /tmp/demo     # the same bytes somewhere else

The text is generated: random spans of bytes or of made-up words, each repeated after a random gap. What comes inside
a repeat can be told only by finding the earlier copy and reading on, which is what an induction head does
(Olsson et al. 2022). The same seed and thread count give the same weights, bit for bit.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS = 256
LENGTH, BATCH = 128, 32
OUT = Path(__file__).parent.parent / "attlas" / "engine" / "demo"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a UTF-8 byte, token id = byte value, and <bos> in front of every text."""
    letters = byte_letters()
    vocabulary = {letters[byte]: byte for byte in range(256)} | {"<bos>": BOS}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", model_max_length=1024)


def byte_letters() -> list[str]:
    """The printable letter that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in letters)}
    return [letters[byte] for byte in range(256)]


def make_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=257,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=None,
        dtype="float32",
    )


def random_span(rng: np.random.Generator, alphabet: NDArray[np.int64]) -> NDArray[np.int64]:
    """A run of random bytes, or of made-up lower-case words with spaces."""
    if rng.random() < 0.7:
        return rng.choice(alphabet, rng.integers(6, 49))
    words = [rng.integers(97, 123, rng.integers(2, 8)) for _ in range(rng.integers(2, 7))]
    return np.concatenate([np.append(word, 32) for word in words])


def sequence(rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """LENGTH + 1 tokens, and which of them lie in a repeat (its first token excepted, which nothing foretells)."""
    alphabet = rng.permutation(256)[: rng.integers(24, 257)]
    spans: list[NDArray[np.int64]] = []
    parts, told = [np.array([BOS])], [np.array([False])]
    length = 1
    while length <= LENGTH:
        repeats = bool(spans) and rng.random() < 0.6
        span = spans[rng.integers(len(spans))] if repeats else random_span(rng, alphabet)
        if not repeats:
            spans.append(span)
        parts.append(span)
        told.append(np.r_[False, np.full(len(span) - 1, repeats)])
        length += len(span)
    return np.concatenate(parts)[: LENGTH + 1], np.concatenate(told)[: LENGTH + 1]


def batch(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    made = [sequence(rng) for _ in range(BATCH)]
    return torch.from_numpy(np.stack([ids for ids, _ in made])), torch.from_numpy(np.stack([told for _, told in made]))


def train(model: LlamaForCausalLM, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    begin = time.perf_counter()
    for step in range(steps):
        ids, told = batch(rng)
        logits = model(ids[:, :-1]).logits
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        told = told[:, 1:]
        loss = losses[told].mean() + 0.1 * losses[~told].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            inside, outside = losses[told].mean().item(), losses[~told].mean().item()
            click.echo(f"step {step:5d}  in repeats {inside:.3f}  elsewhere {outside:.3f} nat", nl=False)
            click.echo(f"  {time.perf_counter() - begin:.0f} s")


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
@click.option("--steps", default=3500, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(out: Path, steps: int, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(make_config())
    train(model, steps, seed)
    model.save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
