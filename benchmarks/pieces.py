"""What each piece of the fast path is worth: rmlab with the piece, against rmlab with it switched off.

Run: `python benchmarks/pieces.py [--rounds N] [--quick]`.

Each piece is measured where it is meant to help, on the workloads' GPT-NeoX unless it says another. Both sides are checked to give the same
numbers first. A piece that is worth less than 1.3x there does not stay.
"""

from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from common import harness, workload

from rmlab.fast import decode, prefix, rows
from rmlab.optimise.sampling import sample
from rmlab.reward.lora import TARGETS, Adapter
from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS
from rmlab.tokens import pad_right

run = harness.start(__doc__.splitlines()[0], rounds=7)
GOAL, LONGEST = ">= 1.3x", 48
SMALL = run.quick
Work = Callable[[], np.ndarray | torch.Tensor]


def prompts_keys(model) -> tuple[Work, Work]:
    """Many answers on the keys of one prompt longer than they are, against every answer read with its prompt."""
    rng = np.random.default_rng(0)
    (prompt,), answers = workload.prompts(1, rng, (120, 120)), workload.answers(64 if SMALL else 512, rng)
    ids, mask = map(torch.from_numpy, pad_right(answers, pad=0))
    lengths = mask.sum(1)
    blocks = [[prompt + answer for answer in answers[i : i + 64]] for i in range(0, len(answers), 64)]
    whole = [tuple(map(torch.from_numpy, pad_right(block, pad=0))) for block in blocks]

    @torch.no_grad()
    def apart() -> torch.Tensor:
        with mock.patch.object(rows, "first_alike", every_row_alone):
            return torch.cat([rows.read_ends(model.gpt_neox, *block) for block in whole])

    return lambda: prefix.open_prompts(model, torch.tensor([prompt]), ids.shape[1])(ids, lengths), apart


def common_beginnings(model) -> tuple[Work, Work]:
    """Four answers to each of 16 prompts, trained on: what they begin with is computed once, against every row whole."""
    rng = np.random.default_rng(0)
    prompts = [p for p in workload.prompts(4 if SMALL else 16, rng, (60, 60)) for _ in range(4)]
    answers = workload.answers(len(prompts), rng)

    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        hidden = rows.read_answers(model.gpt_neox, prompts, answers)
        hidden.square().mean().backward()
        return hidden.detach()

    return step, without(rows, "first_alike", every_row_alone, step)


def top_layer(model) -> tuple[Work, Work]:
    """Answers scored, two layers as in the sandbox: the top layer at the last tokens alone, against all of it."""
    rng, model = np.random.default_rng(0), llama(64, 2)
    (prompt,), answers = workload.prompts(1, rng), workload.answers(64 if SMALL else 512, rng)
    ids, mask = map(torch.from_numpy, pad_right(answers, pad=0))

    def read() -> torch.Tensor:
        return prefix.open_prompts(model, torch.tensor([prompt]), ids.shape[1])(ids, mask.sum(1))

    def in_full(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        weights, time = self.weights, x.shape[1]
        causal = x.new_full((time, time), -torch.inf).triu(1)
        rotations = self.rotations[self.start : self.start + time]
        for layer, cached in zip(self.layers, self.cached, strict=True):
            q, k, v = weights.split(weights.qkv(layer, x, rotations))
            x = weights.after(layer, x, self._attend(q, k, v, causal, *cached))
        above = self.layers.stop == len(weights.layers)
        return weights.end(x[torch.arange(len(x)), lengths - 1]) if above else x

    return read, without(prefix._Prefix, "run", in_full, read)


def edits_above(model) -> tuple[Work, Work]:
    """Five adapters on the last of four layers: the layers below once, against once an adapter."""
    rng = np.random.default_rng(0)
    trunk = model.gpt_neox
    variants = [Adapter.fresh(trunk, 8, 16.0, TARGETS, 1, seed=k).merged(trunk) for k in range(5)]
    (prompt,), answers = workload.prompts(1, rng), workload.answers(64 if SMALL else 512, rng)
    ids, mask = map(torch.from_numpy, pad_right(answers, pad=0))

    def read() -> torch.Tensor:
        return prefix.open_variants(model, variants, torch.tensor([prompt]), ids.shape[1])(ids, mask.sum(1))

    return read, without(prefix, "lowest_edit", lambda variants, layers: 0, read)


def shared_keys(model) -> tuple[Work, Work]:
    """128 answers to each of 8 prompts: a prompt's keys kept once, against once an answer."""
    draw = sampler(model, 2 if SMALL else 8, 16 if SMALL else 128, (60, 60))
    return draw, without(decode, "SHARED", 10**9, draw)


def closing_up(model) -> tuple[Work, Work]:
    """128 answers to each of 2 prompts: answers that ended make room, against steps of full width to the end."""
    draw = sampler(workload.ending(model, 0.08), 2, 16 if SMALL else 128, (20, 20))
    return draw, without(decode.Decoder, "shrink", lambda self, going: None, draw)


def few_rows(model) -> tuple[Work, Work]:
    """One row of 12 tokens read once, hidden 512, 6 layers: the model's own forward, against weights packed for it."""
    model = llama(64, 2) if SMALL else llama(512, 6)
    ids = torch.tensor(workload.prompts(1, np.random.default_rng(0), (12, 12)))

    @torch.no_grad()
    def read() -> torch.Tensor:
        return rows.read_ends(model.model, ids, torch.ones_like(ids))

    return read, without(rows, "FEW", 0, read)


def llama(hidden: int, layers: int) -> torch.nn.Module:
    """A Llama of this size over the workloads' vocabulary, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": workload.VOCAB}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=0)).eval()


def sampler(model, prompts: int, answers: int, size: tuple[int, int]) -> Work:
    """A function that draws the same answers every time: their log-probabilities."""
    ids = workload.prompts(prompts, np.random.default_rng(0), size)
    return lambda: sample(model, ids, answers, LONGEST, 0, SPECIAL_TOKENS).logprobs


def without(home, name: str, other, work: Work) -> Work:
    """The same work with `other` in the place of a piece."""

    def off():
        with mock.patch.object(home, name, other):
            return work()

    return off


def every_row_alone(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """No row shares a beginning with another."""
    return np.repeat(np.arange(len(ids))[:, None], ids.shape[1], 1)


PIECES = {
    "prompts_keys": prompts_keys,
    "common_beginnings": common_beginnings,
    "top_layer": top_layer,
    "edits_above": edits_above,
    "shared_keys": shared_keys,
    "closing_up": closing_up,
    "few_rows": few_rows,
}


def main() -> None:
    """A claim a piece."""
    for name, make in PIECES.items():
        on, off = make(workload.ending(workload.neox(), 0.024))
        apart = harness.check_equal(np.asarray(on()), np.asarray(off()), name)
        seconds = harness.interleave({"on": lambda: on, "off": lambda: off}, run.rounds)  # noqa: B023
        harness.report(
            f"piece_{name}",
            run,
            seconds["off"],
            seconds["on"],
            goal=GOAL,
            claim=make.__doc__,
            ours="rmlab",
            alternative="rmlab without the piece",
            settings={
                "model": workload.MODEL + ", unless the claim says another",
                "longest_answer": LONGEST,
                "largest_difference": apart,
            },
        )


if __name__ == "__main__":
    main()
