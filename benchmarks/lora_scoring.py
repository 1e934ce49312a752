"""Scoring with K = 5 LoRA members: rmlab's merged copies against PEFT's adapters on the same weights.

Run: `python benchmarks/lora_scoring.py [--rounds N] [--quick] [--against COMMIT]`. Needs `peft` (the extra `trl`).

rmlab saves the members as PEFT folders, PEFT loads them, and the scores are checked to be the same. PEFT scores in
the two ways it offers: `set_adapter` and a forward per member, and one mixed batch that names each row's adapter.
Both read right-padded batches of 64 answers, prompt included. rmlab's merging is inside the clock.
"""

import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from common import harness, workload

from rmlab.reward.lora import TARGETS, Adapter, LoraModel
from rmlab.reward.model import from_backbone
from rmlab.tokens import pad_right

try:
    from peft import PeftModel
except ImportError as error:
    sys.exit(print(f"skipped: {error}; install the extra `trl`"))

run = harness.start(__doc__.splitlines()[0], rounds=5)
K, RANK, BATCH = 5, 8, 64
NAMES = [f"member_{k}" for k in range(K)]
Rows = list[tuple[list[int], list[list[int]]]]  # (prompt, its answers), ids


def members(layers: int) -> tuple[LoraModel, PeftModel]:
    """The same K members, ours and PEFT's: random adapters on the last `layers` layers (0: all), random heads."""
    base = from_backbone(workload.neox(), 1, seed=0).model
    noise = torch.Generator().manual_seed(0)
    adapters = [Adapter.fresh(base.gpt_neox, RANK, 16.0, TARGETS, layers, seed=k) for k in range(K)]
    for adapter in adapters:  # B starts at zero: as if trained
        for _, b in adapter.pairs.values():
            b.data = 0.02 * torch.randn(b.shape, generator=noise)
    heads = torch.randn(K, base.config.hidden_size, generator=noise) / base.config.hidden_size**0.5
    ours = LoraModel(base, adapters, heads)
    with tempfile.TemporaryDirectory(prefix="rmlab-bench-") as folder:
        ours.save(folder)
        other_base = from_backbone(workload.neox(), 1, seed=0).model
        theirs = PeftModel.from_pretrained(other_base, f"{folder}/{NAMES[0]}", adapter_name=NAMES[0])
        for name in NAMES[1:]:
            theirs.load_adapter(f"{folder}/{name}", adapter_name=name)
    return ours, theirs.eval()


def merged(model: LoraModel, rows: Rows) -> np.ndarray:
    """Ours: raw scores (R, K) of all rows."""
    out = []
    for prompt, answers in rows:
        ids, mask = pad_right(answers)
        out.append(model.raw_scores(np.array(prompt), ids, mask.sum(1)))
    return np.concatenate(out)


def batches(rows: Rows) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded ids and masks (B, T) of whole rows."""
    for prompt, answers in rows:
        for start in range(0, len(answers), BATCH):
            ids, mask = pad_right([prompt + answer for answer in answers[start : start + BATCH]])
            yield torch.from_numpy(ids), torch.from_numpy(mask).long()


@torch.no_grad()
def loop(model: PeftModel, rows: Rows) -> np.ndarray:
    """PEFT, a member at a time, so that an adapter is set K times in all; scores (R, K)."""
    out = []
    for name in NAMES:
        model.set_adapter(name)
        parts = [model(input_ids=i, attention_mask=m, use_cache=False).logits[:, 0] for i, m in batches(rows)]
        out.append(torch.cat(parts))
    return torch.stack(out, 1).numpy()


@torch.no_grad()
def mixed(model: PeftModel, rows: Rows) -> np.ndarray:
    """PEFT, every row once a member in one batch, adapters named row by row; scores (R, K)."""
    out = []
    for ids, mask in batches(rows):
        names = [name for name in NAMES for _ in ids]
        call = {"input_ids": ids.repeat(K, 1), "attention_mask": mask.repeat(K, 1), "use_cache": False}
        scores = model(**call, adapter_names=names).logits
        out.append(scores.view(K, len(ids)).T)
    return torch.cat(out).numpy()


def measure(name: str, layers: int, where: str, goal: str, rows: Rows) -> None:
    """One claim against each of PEFT's ways."""
    ours, theirs = members(layers)
    scores = merged(ours, rows)
    ways = {"loop": loop, "mixed": mixed}
    apart = max(harness.check_equal(scores, way(theirs, rows), f"{name}, {key}") for key, way in ways.items())
    variants = {key: lambda way=way: lambda: way(theirs, rows) for key, way in ways.items()}
    seconds = harness.interleave({"merged": lambda: lambda: merged(ours, rows), **variants}, run.rounds)
    settings = {
        "members": K,
        "rank": RANK,
        "adapted": where,
        "prompts": len(rows),
        "answers": len(rows[0][1]),
        "batch": BATCH,
        "model": workload.MODEL,
        "prompt_tokens": workload.PROMPT,
        "answer_tokens": workload.ANSWER,
        "largest_difference": apart,
        "std_of_scores": round(float(scores.std()), 3),
    }
    for key, alternative in (
        ("loop", "PEFT, set_adapter and a forward per member"),
        ("mixed", "PEFT, one mixed batch with adapter_names"),
    ):
        harness.report(
            f"{name}_{key}",
            run,
            seconds[key],
            seconds["merged"],
            claim=f"answers per second of {K} LoRA members, adapters on {where}, over PEFT",
            ours="rmlab LoraModel.raw_scores: prompt encoded once, layers below the adapters once, merged copies above",
            alternative=alternative,
            goal=goal,
            settings=settings,
            also={
                f"answers per second, {v}": [len(scores) / s for s in spent] for v, spent in seconds.items()
            },
        )


def main() -> None:
    """Adapters on all layers, then on the last quarter."""
    rng = np.random.default_rng(0)
    prompts = workload.prompts(1 if run.quick else 8, rng)
    rows = [(p, workload.answers(BATCH // 2 if run.quick else 2 * BATCH, rng)) for p in prompts]
    measure("lora_scoring_all", 0, "all layers", ">= 1.3x", rows)
    measure("lora_scoring_last", 1, "the last 1 of 4 layers", ">= 3x", rows)


if __name__ == "__main__":
    main()
