"""Sampling answers with their log-probabilities: rmlab's sampler against transformers' `generate` with its cache.

Run: `python benchmarks/sampling.py [--rounds N] [--quick] [--against COMMIT]`.

Both draw at temperature 1, without top-k and top-p, in fp32, from the same weights, until <eos> or the longest answer.
`generate` returns ids alone; ours returns their log-probabilities too (`also` has `generate` with its scores kept and
read, which is the same work). `generate` does not know which tokens rmlab never draws, as a rule for that would slow it:
the NeoX never draws them, the Llama at times. Checked first: the captured log-probabilities are those of the model's own
forward.

The floor is 2 x parameters x tokens over the rate of one product at a decode step's shape, measured in the same run.
"""

from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from common import harness, workload
from torch import nn

from rmlab.optimise.head import Head
from rmlab.optimise.sampling import sample
from rmlab.sources.sandbox.source import Sandbox
from rmlab.sources.sandbox.vocabulary import EOS, PAD, SPECIAL_TOKENS

run = harness.start(__doc__.splitlines()[0], rounds=7)
PROMPTS, BEST, ROWS = (32, 2, 16) if run.quick else (256, 8, 128)
Ids = list[list[int]]
Count = list[tuple[int, int]]  # of each call: answers, and answer tokens


def ours(model: nn.Module, prompts: Ids, rows: int, longest: int, seed: int, chunk: int = 512) -> Count:
    """`rows` answers to each prompt, of `longest` tokens at most."""
    answers = sample(model, prompts, rows, longest, seed, SPECIAL_TOKENS, chunk)
    return [(len(answers.ids), int(answers.lengths.sum()))]


@torch.no_grad()
def generate(
    model: nn.Module, prompts: Ids, rows: int, longest: int, seed: int, size: int, logprobs: bool = False
) -> Count:
    """The same of transformers: `size` prompts a call, left-padded as it wants them."""
    torch.manual_seed(seed)
    counts = []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        width = max(map(len, batch))
        ids = torch.tensor([[PAD] * (width - len(p)) + p for p in batch])
        out = model.generate(
            input_ids=ids,
            attention_mask=(ids != PAD).long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=longest,
            num_return_sequences=rows,
            use_cache=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            return_dict_in_generate=True,
            output_scores=logprobs,
        )
        answers = out.sequences[:, width:]
        if logprobs:
            torch.stack(out.scores, 1).log_softmax(-1).gather(2, answers[..., None])
        counts.append((len(answers), int(lengths(answers).sum())))
    return counts


def lengths(answers: torch.Tensor) -> torch.Tensor:
    """Tokens of each answer (R, T), <eos> included: (R,)."""
    before = (answers == EOS).cumsum(1) - (answers == EOS).long()
    return (before == 0).sum(1)


@torch.no_grad()
def check(model: nn.Module, prompts: Ids, longest: int) -> float:
    """Captured log-probabilities against the model's own forward, under the same ban."""
    head, prompts = Head(model, SPECIAL_TOKENS), prompts[:8]
    answers = sample(model, prompts, 4, longest, 1, SPECIAL_TOKENS)
    difference = 0.0
    for i, (ids, captured) in enumerate(zip(answers.ids, answers.logprobs, strict=True)):
        prompt, answer = prompts[i // 4], ids[: answers.lengths[i]].tolist()
        whole = torch.tensor([[*prompt, *answer[:-1]]])
        logits = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 :]
        plain = head.pick(logits, [answer])
        one = harness.check_equal(captured[: len(answer)], plain, "captured log-probabilities")
        difference = max(difference, one)
    return difference


def in_products(model: nn.Module) -> int:
    """Parameters that a token is multiplied with: looking up is free, but a tied embedding is the head's matrix."""
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return sum(p.numel() for p in model.parameters()) - (0 if head is embedding else embedding.numel())


def ways(prompts: Ids, rows: int) -> dict[str, tuple[Callable, tuple]]:
    """What is timed: a function, and what it takes after the seed."""
    every = {
        "rmlab": (ours, ()),
        "generate": (generate, (len(prompts),)),
        "generate_logp": (generate, (len(prompts), True)),
    }
    if rows > 1:  # a prompt at a time: the claim is over the faster way of generate, and of ours as it comes
        every["rmlab_each"] = ours, (2 * rows,)
        every["generate_each"] = generate, (1,)
    return every


def measure(
    name: str, goal: str, model: nn.Module, words: str, prompts: Ids, rows: int, longest: int
) -> None:
    """One claim: `rows` answers to each prompt, of `longest` tokens at most; `words` say which model."""
    difference = check(model, prompts, longest)
    counts: dict[str, Count] = {}
    seeds = iter(range(10**6))

    def variant(key: str, draw: Callable, more: tuple) -> harness.Variant:
        def prepare():
            call = (model, prompts, rows, longest, next(seeds), *more)
            return lambda: counts.setdefault(key, []).extend(draw(*call))

        return prepare

    variants = {key: variant(key, *way) for key, way in ways(prompts, rows).items()}
    shape = min(512, rows * len(prompts)), model.config.hidden_size, model.config.intermediate_size
    rate = harness.matrix_rate(*shape)
    seconds = harness.interleave(variants, run.rounds)
    best = min((v for v in seconds if v in ("generate", "generate_each")), key=lambda v: median(seconds[v]))
    total, weights, read = len(prompts) * rows, in_products(model), sum(map(len, prompts))
    mean = {v: sum(t for _, t in count) / sum(n for n, _ in count) for v, count in counts.items()}
    floor = {v: 2 * weights * (read + total * (m - 1)) / rate for v, m in mean.items()}
    with_logprobs = [a / b for a, b in zip(seconds["generate_logp"], seconds["rmlab"], strict=True)]
    each = f"{len(prompts)} prompts, {rows} answers each"
    calls = len(prompts) if best == "generate" else 1
    harness.report(
        name,
        run,
        seconds[best],
        seconds["rmlab"],
        claim=f"answers per second of rmlab's sampler over transformers' generate, {each}",
        ours="rmlab sample: log-probabilities captured, finished answers dropped, its own chunks",
        alternative=f"transformers generate, fp32, its cache, ids only, {calls} prompts a call",
        goal=goal,
        settings={
            "prompts": len(prompts),
            "prompt_tokens": sorted({len(p) for p in prompts}),
            "answers": rows,
            "max_new_tokens": longest,
            "model": words,
            "parameters_in_products": weights,
            "answer_tokens_mean": {v: round(m, 1) for v, m in mean.items()},
            "matrix_gflops_at_decode_shape": round(rate / 1e9, 1),
            "largest_difference_of_logprobs": difference,
        },
        also={f"answers per second, {v}": [total / s for s in spent] for v, spent in seconds.items()}
        | {
            f"share of the arithmetic floor, {v}": [floor[v] / s for s in spent]
            for v, spent in seconds.items()
        }
        | {"x over generate with log-probabilities": with_logprobs},
    )


def main() -> None:
    """One answer a prompt on two families, and prompts of several lengths; then many answers a prompt."""
    rng = np.random.default_rng(0)
    neox = workload.ending(workload.neox(), 0.024), workload.MODEL + "; <eos> at 2.4% a token"
    llama = workload.llama(), "Llama of the recipes, hidden 64, 2 layers, vocabulary 152, random weights"
    requests = [list(prompt.ids) for prompt in Sandbox().prompts(PROMPTS, rng)]
    even = workload.prompts(PROMPTS, rng, (20, 20))
    measure("sampling_neox", ">= 2x", *neox, even, 1, 48)
    uneven = workload.prompts(PROMPTS, rng)
    measure("sampling_neox_uneven", "none of its own: nine lengths of prompts", *neox, uneven, 1, 48)
    measure("sampling_llama", ">= 2x", *llama, requests, 1, 44)
    measure("best_of_n_neox", ">= 3x", *neox, even[:BEST], ROWS, 48)
    measure("best_of_n_llama", ">= 3x", *llama, requests[:BEST], ROWS, 44)


if __name__ == "__main__":
    main()
