"""Sampling answers with their log-probabilities: rmlab's sampler against transformers' `generate` with its cache.

Run: `python benchmarks/sampling.py [--rounds N] [--quick]`.

Both draw at temperature 1, without top-k and top-p, in fp32, from the same weights, until <eos> or the longest answer.
`generate` returns ids alone; ours returns their log-probabilities too (`also` has `generate` with its scores kept and
read, which is the same work). `generate` is not told which tokens rmlab never draws, as a rule for that would slow it:
the NeoX never draws them, the Llama at times. Checked first: the captured log-probabilities are those of the model's own forward.

The floor is 2 x parameters x tokens over the rate of one product at a decode step's shape, measured in the same run.
"""

from statistics import median

import numpy as np
import torch
from common import harness, workload

from rmlab.optimise.ppo import picked
from rmlab.optimise.sampling import sample
from rmlab.sources.sandbox import world
from rmlab.sources.sandbox.vocabulary import EOS, PAD

run = harness.start(__doc__.splitlines()[0], rounds=7)
PROMPTS, BEST, ROWS = (32, 2, 16) if run.quick else (256, 8, 128)
Ids = list[list[int]]
Count = list[tuple[int, int]]  # of each call: answers, and answer tokens


def ours(model, asked: Ids, rows: int, longest: int, seed: int, chunk: int = 512) -> Count:
    drawn = sample(model, asked, rows, longest, seed, chunk)
    return [(len(drawn.ids), int(drawn.lengths.sum()))]


@torch.no_grad()
def generate(model, asked: Ids, rows: int, longest: int, seed: int, size: int, logp: bool = False) -> Count:
    """`size` prompts a call, left-padded as transformers wants it."""
    torch.manual_seed(seed)
    counts = []
    for start in range(0, len(asked), size):
        some = asked[start : start + size]
        width = max(map(len, some))
        ids = torch.tensor([[PAD] * (width - len(p)) + p for p in some])
        out = model.generate(
            input_ids=ids, attention_mask=(ids != PAD).long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=longest, num_return_sequences=rows, use_cache=True, pad_token_id=PAD, eos_token_id=EOS,
            return_dict_in_generate=True, output_scores=logp,
        )  # fmt: skip
        answers = out.sequences[:, width:]
        if logp:
            torch.stack(out.scores, 1).log_softmax(-1).gather(2, answers[..., None])
        counts.append((len(answers), int(lengths(answers).sum())))
    return counts


def lengths(answers: torch.Tensor) -> torch.Tensor:
    """Tokens of each answer, <eos> included."""
    before = (answers == EOS).cumsum(1) - (answers == EOS).long()
    return (before == 0).sum(1)


@torch.no_grad()
def check(model, asked: Ids, longest: int) -> float:
    """Captured log-probabilities against the model's own forward, under the same ban."""
    same = np.array([p for p in asked if len(p) == len(asked[0])][:8])
    drawn = sample(model, same, 4, longest, seed=1)
    apart = 0.0
    for i, (ids, logp, length) in enumerate(zip(drawn.ids, drawn.logp, drawn.lengths, strict=True)):
        answer = ids[:length].tolist()
        whole = torch.tensor([[*same[i // 4].tolist(), *answer[:-1]]])
        plain = picked(model(input_ids=whole, use_cache=False).logits[0, same.shape[1] - 1 :], [answer])
        apart = max(apart, harness.check_equal(logp[:length], plain, "captured log-probabilities"))
    return apart


def measure(name: str, goal: str, model, said: str, asked: Ids, rows: int, longest: int) -> None:
    apart = check(model, asked, longest)
    counts: dict[str, Count] = {}
    seeds = iter(range(10**6))

    def variant(which: str, work, *more):
        def prepare():
            seed = next(seeds)
            return lambda: counts.setdefault(which, []).extend(work(model, asked, rows, longest, seed, *more))

        return prepare

    variants = {
        "rmlab": variant("rmlab", ours),
        "generate": variant("generate", generate, len(asked)),
        "generate_logp": variant("generate_logp", generate, len(asked), True),
    }
    if rows > 1:  # a prompt at a time: the claim is over the faster way of generate, and of ours as it comes
        variants["rmlab_each"] = variant(
            "rmlab_each", ours, 2 * rows
        )  # the prompt is read once for all its answers
        variants["generate_each"] = variant("generate_each", generate, 1)
    rate = harness.matrix_rate(min(512, rows * len(asked)), model.config.hidden_size, model.config.intermediate_size)  # fmt: skip
    seconds = harness.interleave(variants, run.rounds)
    best = min((v for v in seconds if v in ("generate", "generate_each")), key=lambda v: median(seconds[v]))
    total = len(asked) * rows
    mean = {v: sum(t for _, t in c) / sum(n for n, _ in c) for v, c in counts.items()}
    reads = (
        model.get_output_embeddings().weight
    )  # a tied embedding is the head's matrix; else looking up is free
    looked_up = model.get_input_embeddings().weight
    weights = sum(p.numel() for p in model.parameters()) - (0 if reads is looked_up else looked_up.numel())
    floor = {v: 2 * weights * (sum(map(len, asked)) + total * (m - 1)) / rate for v, m in mean.items()}
    harness.report(
        name, run, seconds[best], seconds["rmlab"], goal=goal,
        claim=f"answers per second of rmlab's sampler over transformers' generate, {len(asked)} prompts, {rows} answers each",
        ours="rmlab sample: log-probabilities captured, finished answers dropped, its own chunks",
        alternative=f"transformers generate, fp32, its cache, ids only, {len(asked) if best == 'generate' else 1} prompts a call",
        settings={"prompts": len(asked), "prompt_tokens": sorted({len(p) for p in asked}), "answers": rows,
                  "max_answer": longest, "model": said, "parameters_in_products": weights,
                  "answer_tokens_mean": {v: round(m, 1) for v, m in mean.items()},
                  "matrix_gflops_at_decode_shape": round(rate / 1e9, 1), "largest_difference_of_logp": apart},
        also={f"answers per second, {v}": [total / s for s in spent] for v, spent in seconds.items()}
        | {f"share of the arithmetic floor, {v}": [floor[v] / s for s in spent] for v, spent in seconds.items()}
        | {"x over generate with log-probabilities": [a / b for a, b in zip(seconds["generate_logp"], seconds["rmlab"], strict=True)]},
    )  # fmt: skip


def main() -> None:
    rng = np.random.default_rng(0)
    neox = workload.ending(workload.neox(), 0.024), workload.MODEL + "; <eos> at 2.4% a token"
    llama = workload.llama(), "Llama of the recipes, hidden 64, 2 layers, vocabulary 152, random weights"
    requests = [r.ids() for r in world.requests(PROMPTS, rng)]
    even = workload.prompts(PROMPTS, rng, (20, 20))
    measure("sampling_neox", ">= 2x", *neox, even, 1, 48)
    uneven = workload.prompts(PROMPTS, rng)
    measure("sampling_neox_uneven", "none of its own: nine lengths of prompts", *neox, uneven, 1, 48)
    measure("sampling_llama", ">= 2x", *llama, requests, 1, 44)
    measure("best_of_n_neox", ">= 3x", *neox, even[:BEST], ROWS, 48)
    measure("best_of_n_llama", ">= 3x", *llama, requests[:BEST], ROWS, 44)


if __name__ == "__main__":
    main()
