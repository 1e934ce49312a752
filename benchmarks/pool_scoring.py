"""Scoring many answers a prompt: RewardModel.raw_scores against plain Hugging Face forwards of the same model.

Run: `python benchmarks/pool_scoring.py [--rounds N] [--quick] [--against COMMIT]`.

The alternative is `AutoModelForSequenceClassification` on right-padded batches of 64 rows (prompt and answer), once
in the order the answers were sampled and once sorted by length; scores are checked to be the same.
"""

import numpy as np
import torch
from common import harness, workload

from rmlab.backbone import build
from rmlab.recipe import Size
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.sources.sandbox import authors, world
from rmlab.sources.sandbox.source import Sandbox
from rmlab.tokens import pad_right

run = harness.start(__doc__.splitlines()[0], rounds=9)
BATCH, K = 64, 5
Rows = list[tuple[list[int], list[list[int]]]]  # (prompt, its answers), ids


def sandbox() -> tuple[RewardModel, Rows]:
    """The sandbox's requests and authors' answers, and the recipes' Llama."""
    rng, source = np.random.default_rng(0), Sandbox()
    requests = world.requests(2 if run.quick else 16, rng)
    count = 128 if run.quick else 512
    rows = []
    for request in requests:
        skills = authors.skills(count, authors.POLICY_SKILL, rng)
        answers = [source.ids(" ".join(authors.answer(request, skill, rng))) for skill in skills]
        rows.append((request.ids(), answers))
    return from_backbone(build(Size(), source.vocab_size, source.special, seed=0), K, seed=0), rows


def long_prompts() -> tuple[RewardModel, Rows]:
    """Prompts longer than their answers, and the speed model."""
    rng = np.random.default_rng(0)
    prompts = workload.prompts(2 if run.quick else 16, rng, (56, 72))
    rows = [(p, workload.answers(64 if run.quick else 128, rng, (16, 24))) for p in prompts]
    return from_backbone(workload.neox(), K, seed=0), rows


def ours(model: RewardModel, rows: Rows) -> np.ndarray:
    """Raw scores (R, K) of all rows."""
    out = []
    for prompt, answers in rows:
        ids, mask = pad_right(answers)
        out.append(model.raw_scores(np.array(prompt), ids, mask.sum(1)))
    return np.concatenate(out)


@torch.no_grad()
def plain(model: RewardModel, rows: Rows, by_length: bool) -> np.ndarray:
    """The same scores from the Hugging Face model, in the sampled order or sorted by length within a prompt."""
    out = []
    for prompt, answers in rows:
        lengths = [len(answer) for answer in answers]
        order = np.argsort(lengths, kind="stable") if by_length else np.arange(len(answers))
        scores = np.empty((len(answers), K), np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            ids, mask = (torch.from_numpy(x) for x in pad_right([prompt + answers[i] for i in batch]))
            call = {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}
            scores[batch] = model.model(**call).logits.numpy()
        out.append(scores)
    return np.concatenate(out)


def measure(name: str, model: RewardModel, rows: Rows, goal: str, words: str) -> None:
    """One claim, and the same against batches sorted by length; `words` say what is scored."""
    own = ours(model, rows)
    apart = max(harness.check_equal(own, plain(model, rows, by_length), name) for by_length in (False, True))
    variants = {
        "ours": lambda: lambda: ours(model, rows),
        "plain": lambda: lambda: plain(model, rows, by_length=False),
        "sorted": lambda: lambda: plain(model, rows, by_length=True),
    }
    seconds = harness.interleave(variants, run.rounds)
    lengths = [len(answer) for _, answers in rows for answer in answers]
    shared = {
        "ours": "rmlab RewardModel.raw_scores, prompts encoded once",
        "settings": {
            "prompts": len(rows),
            "answers": len(rows[0][1]),
            "heads": K,
            "batch": BATCH,
            "workload": words,
            "mean_prompt_tokens": round(float(np.mean([len(prompt) for prompt, _ in rows])), 1),
            "mean_answer_tokens": round(float(np.mean(lengths)), 1),
            "largest_difference": apart,
        },
        "also": {f"answers per second, {v}": [len(own) / s for s in spent] for v, spent in seconds.items()},
    }
    batches = "AutoModelForSequenceClassification, right-padded batches of 64"
    harness.report(
        name,
        run,
        seconds["plain"],
        seconds["ours"],
        claim=f"answers scored per second over Hugging Face forwards of the same model: {words}",
        alternative=f"{batches}, in sampled order",
        goal=goal,
        **shared,
    )
    harness.report(
        f"{name}_sorted",
        run,
        seconds["sorted"],
        seconds["ours"],
        claim=f"answers scored per second over Hugging Face forwards sorted by length: {words}",
        alternative=f"{batches}, sorted by length within a prompt",
        goal="none of its own: the stronger alternative",
        **shared,
    )


def main() -> None:
    """The sandbox, then long prompts."""
    words = "the sandbox's requests and answers, Llama 64 x 2"
    measure("pool_scoring_sandbox", *sandbox(), ">= 2x", words)
    words = f"prompts of 56-72 tokens, answers of 16-24; {workload.MODEL}"
    measure("pool_scoring_long_prompts", *long_prompts(), ">= 3x", words)


if __name__ == "__main__":
    main()
