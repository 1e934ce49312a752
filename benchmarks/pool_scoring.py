"""Scoring many answers a prompt: RewardModel.score against plain Hugging Face forwards of the same model.

Run: `python benchmarks/pool_scoring.py [--rounds N] [--quick]`.

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
from rmlab.sources.sandbox.vocabulary import EOS, SPECIAL_TOKENS
from rmlab.tokens import pad_right

run = harness.start(__doc__.splitlines()[0], rounds=9)
BATCH, K = 64, 5
Rows = list[tuple[list[int], list[list[int]]]]  # (prompt, its answers), ids


def sandbox() -> tuple[RewardModel, Rows]:
    """The sandbox's requests and authors' answers, and the recipes' Llama."""
    rng = np.random.default_rng(0)
    asked = world.requests(4 if run.quick else 16, rng)
    count = 256 if run.quick else 512
    rows = []
    for request in asked:
        skill = authors.skills(count, authors.POLICY_SKILL, rng)
        words = [authors.answer(request, s, rng) for s in skill]
        rows.append((request.ids(), [[world.ID[x] for x in a] + [EOS] for a in words]))
    return from_backbone(build(Size(), len(world.VOCAB), SPECIAL_TOKENS, seed=0), K, seed=0), rows


def long_prompts() -> tuple[RewardModel, Rows]:
    """Prompts longer than their answers, and the speed model."""
    rng = np.random.default_rng(0)
    asked = workload.prompts(4 if run.quick else 16, rng, (56, 72))
    rows = [(p, workload.answers(64 if run.quick else 128, rng, (16, 24))) for p in asked]
    return from_backbone(workload.neox(), K, seed=0), rows


def ours(model: RewardModel, rows: Rows) -> list[np.ndarray]:
    out = []
    for prompt, answers in rows:
        ids, mask = pad_right(answers)
        out.append(model.score(np.array(prompt), ids, mask.sum(1)))
    return out


@torch.no_grad()
def plain(model: RewardModel, rows: Rows, ordered: bool) -> list[np.ndarray]:
    out = []
    for prompt, answers in rows:
        order = np.argsort([len(a) for a in answers], kind="stable") if ordered else np.arange(len(answers))
        scores = np.empty((len(answers), K), np.float32)
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            ids, mask = (torch.from_numpy(x) for x in pad_right([prompt + answers[i] for i in some]))
            scores[some] = model.model(
                input_ids=ids, attention_mask=mask.long(), use_cache=False
            ).logits.numpy()
        out.append(scores)
    return out


def main() -> None:
    for name, make, goal, words in (
        ("pool_scoring_sandbox", sandbox, ">= 2x", "the sandbox's requests and answers, Llama 64 x 2"),
        ("pool_scoring_long_prompts", long_prompts, ">= 3x", f"prompts of 56-72 tokens, answers of 16-24; {workload.MODEL}"),
    ):  # fmt: skip
        model, rows = make()
        mine = np.concatenate(ours(model, rows))
        apart = max(
            harness.check_equal(mine, np.concatenate(plain(model, rows, o)), name) for o in (False, True)
        )
        seconds = harness.interleave(
            {
                "ours": lambda: lambda: ours(model, rows),  # noqa: B023 - called in this turn of the loop
                "plain": lambda: lambda: plain(model, rows, ordered=False),  # noqa: B023
                "sorted": lambda: lambda: plain(model, rows, ordered=True),  # noqa: B023
            },
            run.rounds,
        )
        lengths = [len(a) for _, answers in rows for a in answers]
        said = dict(
            ours="rmlab RewardModel.score, prompts encoded once",
            settings={"prompts": len(rows), "answers": len(rows[0][1]), "heads": K, "batch": BATCH, "workload": words,
                      "mean_prompt_tokens": round(float(np.mean([len(p) for p, _ in rows])), 1),
                      "mean_answer_tokens": round(float(np.mean(lengths)), 1), "largest_difference": apart},
            also={f"answers per second, {v}": [len(lengths) / s for s in spent] for v, spent in seconds.items()},
        )  # fmt: skip
        harness.report(
            name, run, seconds["plain"], seconds["ours"], goal=goal,
            claim=f"answers scored per second over Hugging Face forwards of the same model: {words}",
            alternative="AutoModelForSequenceClassification, right-padded batches of 64, in sampled order", **said,
        )  # fmt: skip
        harness.report(
            f"{name}_sorted", run, seconds["sorted"], seconds["ours"], goal="none of its own: the stronger alternative",
            claim=f"answers scored per second over Hugging Face forwards sorted by length: {words}",
            alternative="AutoModelForSequenceClassification, right-padded batches of 64, sorted by length within a prompt", **said,
        )  # fmt: skip


if __name__ == "__main__":
    main()
