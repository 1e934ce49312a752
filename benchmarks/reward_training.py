"""Training one reward model: pairs per second against TRL's RewardTrainer, same model, batch, pairs and epochs.

Run: `python benchmarks/reward_training.py [--rounds N] [--quick] [--against COMMIT]`. Needs the extra `trl`.

TRL runs with `use_cpu`, `bf16=False`, `gradient_checkpointing=False`, pairs already tokenised, no clipping, and
nothing saved, logged or reported; its trainer is built outside the clock, as is our model.
"""

import sys
import tempfile
from collections.abc import Callable

import torch
from common import harness, workload

from rmlab.recipe import Training
from rmlab.reward.model import from_backbone
from rmlab.reward.training import train
from rmlab.sources.sandbox.vocabulary import SPECIALS, build_tokenizer

try:
    from datasets import Dataset, disable_progress_bars
    from transformers.trainer_callback import PrinterCallback
    from trl import RewardConfig, RewardTrainer
except ImportError as error:
    sys.exit(print(f"skipped: {error}; install the extra `trl`"))

run = harness.start(__doc__.splitlines()[0], rounds=5)
COUNT = 96 if run.quick else 1280  # pairs
RECIPE = Training(epochs=1, batch=32)
PAIRS = workload.pairs(COUNT)
SCRATCH = tempfile.TemporaryDirectory(prefix="rmlab-bench-")
TOKENIZER = build_tokenizer([f"w{i}" for i in range(len(SPECIALS), workload.VOCAB)])


def ours(precision: str) -> Callable[[], object]:
    """rmlab's training, on a fresh model."""
    model = from_backbone(workload.neox(), 1, seed=0)
    return lambda: train(model, PAIRS, RECIPE, seed=0, precision=precision)


def trl(grouped: bool = False, bf16: bool = False) -> Callable[[], object]:
    """RewardTrainer on a copy of the same model; `grouped` batches pairs of like length."""
    rows = {
        "chosen_ids": [p + a for p, a in zip(PAIRS.prompts, PAIRS.chosen, strict=True)],
        "rejected_ids": [p + a for p, a in zip(PAIRS.prompts, PAIRS.rejected, strict=True)],
    }
    more = {}
    if grouped:
        rows["length"] = [max(len(a), len(b)) for a, b in zip(*rows.values(), strict=True)]
        more = {"train_sampling_strategy": "group_by_length", "length_column_name": "length"}
        more["remove_unused_columns"] = False
    settings = RewardConfig(
        SCRATCH.name,
        use_cpu=True,
        bf16=bf16,
        gradient_checkpointing=False,
        disable_tqdm=True,
        per_device_train_batch_size=RECIPE.batch,
        num_train_epochs=RECIPE.epochs,
        learning_rate=RECIPE.lr,
        weight_decay=RECIPE.weight_decay,
        max_grad_norm=0.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        seed=0,
        **more,
    )
    trainer = RewardTrainer(
        model=from_backbone(workload.neox(), 1, seed=0).model.train(),
        args=settings,
        train_dataset=Dataset.from_dict(rows),
        processing_class=TOKENIZER,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer.train


@torch.no_grad()
def check() -> None:
    """Both score the first batch alike before training."""
    model = from_backbone(workload.neox(), 1, seed=0)
    ids, mask = PAIRS.batch(range(RECIPE.batch))
    theirs = model.model(input_ids=ids, attention_mask=mask.long()).logits
    harness.check_equal(model.raw_forward(ids, mask), theirs, "scores before training")


def main() -> None:
    """Both precisions of ours, TRL as it comes, grouped by length, and in bf16."""
    disable_progress_bars()
    check()
    variants = {
        "trl": trl,
        "fp32": lambda: ours("fp32"),
        "bf16": lambda: ours("bf16"),
        "trl_grouped": lambda: trl(grouped=True),
    }
    if not run.quick:
        variants["trl_bf16"] = lambda: trl(bf16=True)
    seconds = harness.interleave(variants, run.rounds)
    seen = COUNT * RECIPE.epochs
    shared = {
        "alternative": "TRL RewardTrainer, fp32, its default random batches",
        "settings": {
            "pairs": COUNT,
            "batch": RECIPE.batch,
            "epochs": RECIPE.epochs,
            "model": workload.MODEL,
            "prompt_tokens": workload.PROMPT,
            "answer_tokens": workload.ANSWER,
        },
        "also": {f"pairs per second, {v}": [seen / s for s in spent] for v, spent in seconds.items()},
    }
    harness.report(
        "reward_training_fp32",
        run,
        seconds["trl"],
        seconds["fp32"],
        claim="pairs per second of rmlab over TRL's RewardTrainer, both in fp32, answers of uneven length",
        ours="rmlab train, fp32",
        goal=">= 1.5x",
        **shared,
    )
    harness.report(
        "reward_training_bf16",
        run,
        seconds["trl"],
        seconds["bf16"],
        claim="pairs per second of rmlab in bf16 over TRL's RewardTrainer in fp32 (not the same precision)",
        ours="rmlab train, bf16 in the trunk",
        goal=">= 2.5x",
        **shared,
    )


if __name__ == "__main__":
    main()
