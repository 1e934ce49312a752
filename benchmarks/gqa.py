"""Families whose heads share keys (Llama-3's form, Qwen2, Qwen3, Mistral): rmlab against plain Hugging Face.

Run: `python benchmarks/gqa.py [--rounds N] [--quick]`.

Of each family a model of the sandbox's size: scoring many answers a prompt against right-padded forwards, a training
step on pairs against two padded rows a pair, sampling against `generate`. The numbers of both sides are checked to be
the same before anything is measured.
"""

from collections.abc import Callable

import numpy as np
import torch
from common import harness, workload
from torch.nn.functional import logsigmoid

from rmlab.fast.decode import open_decoder
from rmlab.fast.prefix import read_pairs
from rmlab.optimise.sampling import sample
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.tokens import pad_right

run = harness.start(__doc__.splitlines()[0], rounds=7)
FAMILIES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}
GOAL, BATCH, K, EOS = ">= 1.5x", 64, 5, 2
ANSWERS = 128 if run.quick else 512  # to each of 4 prompts
PAIRS, PROMPTS, LONGEST = 32, (32 if run.quick else 256), 44
Rows = list[list[int]]


def build(family: str):
    """A causal language model, two heads of four sharing a key, random weights; `<eos>` is often likely."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=workload.VOCAB,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=192,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[EOS] *= 3.0
    return model


def scoring(model) -> tuple[Callable, Callable, float]:
    """Five heads on the trunk, 4 prompts: ours, theirs (right-padded batches of 64 as they come), largest difference."""
    rng = np.random.default_rng(0)
    judge: RewardModel = from_backbone(model, K, seed=0)
    prompts = workload.prompts(4, rng)
    answers = [workload.answers(ANSWERS, rng) for _ in prompts]
    rows = [p + a for p, group in zip(prompts, answers, strict=True) for a in group]

    def ours() -> np.ndarray:
        blocks = [pad_right(group, pad=0) for group in answers]
        parts = zip(prompts, blocks, strict=True)
        return np.concatenate([judge.score(np.array(p), ids, mask.sum(1)) for p, (ids, mask) in parts])

    @torch.no_grad()
    def theirs() -> np.ndarray:
        out = []
        for start in range(0, len(rows), BATCH):
            ids, mask = map(torch.from_numpy, pad_right(rows[start : start + BATCH], pad=0))
            out.append(judge.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits.numpy())
        return np.concatenate(out)

    return ours, theirs, harness.check_equal(ours(), theirs(), "scores")


def pairs(model) -> tuple[Callable, Callable, float]:
    """A training step's loss and gradients on 32 pairs: ours, theirs (two right-padded rows a pair), largest difference."""
    data = workload.pairs(PAIRS)
    head = torch.randn(64, generator=torch.Generator().manual_seed(0)) / 8
    rows = [p + a for side in (data.chosen, data.rejected) for p, a in zip(data.prompts, side, strict=True)]
    ids, mask = map(torch.from_numpy, pad_right(rows, pad=0))

    def ends() -> torch.Tensor:
        hidden = model.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        return hidden[torch.arange(len(ids)), mask.sum(1) - 1]

    def step(read: Callable) -> float:
        model.zero_grad(set_to_none=True)
        chosen, rejected = (read() @ head).chunk(2)
        loss = -logsigmoid(chosen - rejected).mean()
        loss.backward()
        return loss.item()

    def ours() -> float:
        return step(lambda: read_pairs(model, data.prompts, data.chosen, data.rejected))

    return ours, lambda: step(ends), harness.check_equal(ours(), step(ends), "losses")


def sampling(model) -> tuple[Callable, Callable, float]:
    """One answer each to 256 prompts of one length: ours, theirs (`generate` with its cache), largest difference of hidden states."""
    prompts = workload.prompts(PROMPTS, np.random.default_rng(0), (20, 20))
    whole = torch.tensor(prompts)
    seeds = iter(range(10**6))

    @torch.no_grad()
    def theirs() -> None:
        torch.manual_seed(next(seeds))
        model.generate(
            input_ids=whole,
            attention_mask=torch.ones_like(whole),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=LONGEST,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=EOS,
        )

    with torch.no_grad():
        last = model.model(input_ids=whole, use_cache=False).last_hidden_state[:, -1]
    apart = harness.check_equal(open_decoder(model, prompts, 1, LONGEST).last, last, "hidden states")
    return lambda: sample(model, prompts, 1, LONGEST, next(seeds)), theirs, apart


WORK = {
    "scoring": (
        scoring,
        "answers scored",
        f"AutoModelForSequenceClassification, right-padded batches of {BATCH}",
    ),
    "pairs": (
        pairs,
        "pairs trained on",
        "transformers' own forward and backward, two right-padded rows a pair",
    ),
    "sampling": (
        sampling,
        "answers sampled",
        "transformers generate, fp32, its cache, ids only, all prompts in a call",
    ),
}


def main() -> None:
    for family, name in FAMILIES.items():
        for work, (make, done, alternative) in WORK.items():
            ours, theirs, apart = make(build(family))
            variants = {"ours": lambda: ours, "theirs": lambda: theirs}  # noqa: B023 - called in this turn of the loop
            seconds = harness.interleave(variants, run.rounds)
            harness.report(
                f"gqa_{work}_{family}",
                run,
                seconds["theirs"],
                seconds["ours"],
                goal=GOAL,
                claim=f"{done} per second of rmlab over plain Hugging Face, {name} whose heads share keys by two",
                ours="rmlab, the packed forward",
                alternative=alternative,
                settings={
                    "family": family,
                    "hidden": 64,
                    "layers": 2,
                    "heads": 4,
                    "key_heads": 2,
                    "vocabulary": workload.VOCAB,
                    "answers_a_prompt": ANSWERS,
                    "pairs": PAIRS,
                    "prompts_sampled": PROMPTS,
                    "longest_answer": LONGEST,
                    "largest_difference": apart,
                },
            )


if __name__ == "__main__":
    main()
