"""One step of TRL's RLOO and of its GRPO, against one PPO iteration of rmlab on as many answers and gradient passes.

Run: `python benchmarks/trl_rl.py [--rounds N] [--quick] [--against COMMIT]`. Needs the extra `trl`.

rmlab has PPO alone, so the algorithms differ. Equal: the policy's weights, 16 prompts with 4 answers each, the greatest
length, the reward (one `rmlab.optimise.trl.RewardFunction`, K = 5 members, the minimum), a reference and a KL penalty,
one pass with gradients over every answer and one optimiser step, the gradient's norm clipped, fp32. Not equal:

- ours also trains a value head and clips its ratios; RLOO and GRPO have no values, their baseline is the prompt's answers;
- RLOO reads the answers once more with the policy for its log-probabilities; GRPO (one iteration) does not; ours
  captures them while sampling;
- ours reads a prompt once for its four answers, when it samples, updates and asks the reference; TRL reads it with each;
  the reward function is the same on both sides, and reads it once;
- ours works on token ids; TRL tokenises and decodes, and measures and keeps more for its logs.

Every variant runs in a process of its own, in turn. A trainer is built, and its first step taken, outside the clock;
then every step is timed and the median kept.
"""

import json
import sys
import tempfile
import time
from statistics import median

import numpy as np
from common import harness, workload

from rmlab.optimise import ppo
from rmlab.optimise.trl import RewardFunction
from rmlab.recipe import Ppo
from rmlab.reward.model import from_backbone
from rmlab.reward.training import raw_score_pairs
from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS, SPECIALS, build_tokenizer

try:
    import trl
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
except ImportError as error:
    sys.exit(print(f"skipped: {error}; install the extra `trl`"))

run = harness.start(__doc__.splitlines()[0], rounds=5)
BATCH, GROUP, MAX_NEW_TOKENS, K = (4 if run.quick else 16), 4, 48, 5  # prompts a step, answers to each
STEPS = 2 if run.quick else 8  # timed, after one that is not
LR, KL_COEF = 3e-6, 0.05
SCRATCH = tempfile.TemporaryDirectory(prefix="rmlab-bench-")
POLICY = f"{SCRATCH.name}/policy"
TOKENIZER = build_tokenizer([f"w{i}" for i in range(len(SPECIALS), workload.VOCAB)])
PROMPTS = {
    "uneven": workload.prompts(BATCH * (STEPS + 2), np.random.default_rng(0)),
    "even": workload.prompts(BATCH * (STEPS + 2), np.random.default_rng(0), (20, 20)),
}


def reward_function() -> RewardFunction:
    """The minimum of K members, aligned on random answers."""
    ensemble = from_backbone(workload.neox(1), K, seed=1)
    ensemble.align(raw_score_pairs(ensemble, workload.pairs(32)).reshape(-1, K))
    return RewardFunction(ensemble, "min", tokenizer=TOKENIZER)


class Ends(TrainerCallback):
    """When each step of a trainer ended."""

    def __init__(self):
        self.at = []

    def on_step_end(self, *_, **__):
        """Keep the time."""
        self.at.append(time.perf_counter())


def ours(lengths: str, precision: str) -> dict:
    """Seconds a step and the answers' mean length."""
    settings = Ppo(
        steps=STEPS + 1,
        batch=BATCH * GROUP,
        max_new_tokens=MAX_NEW_TOKENS,
        kl_coef=KL_COEF,
        epochs=1,
        minibatches=1,
        lr=LR,
        precision=precision,
    )
    function, starts, ends = reward_function(), iter(range(0, len(PROMPTS[lengths]), BATCH)), []

    def next_prompts(rng: np.random.Generator, count: int) -> list[list[int]]:
        start = next(starts)
        return [prompt for prompt in PROMPTS[lengths][start : start + BATCH] for _ in range(GROUP)]

    def reward(prompts: list[list[int]], answers: list[list[int]]) -> np.ndarray:
        return np.array(function(prompts, [""] * len(answers), completion_ids=answers))

    def on_step(step: int) -> None:
        ends.append(time.perf_counter())

    policy = workload.ending(workload.neox(), 0.024)
    rows = ppo.train(policy, next_prompts, reward, settings, 0, on_step=on_step, special=SPECIAL_TOKENS)
    seconds = median(np.diff(ends)[:STEPS])  # without the first step and the last row, which has no update
    return {"seconds": seconds, "length": float(np.mean([r["length"] for r in rows]))}


def theirs(lengths: str, name: str) -> dict:
    """The same of TRL's trainer of this name."""
    disable_progress_bars()
    workload.ending(workload.neox(), 0.024).save_pretrained(POLICY)
    TOKENIZER.save_pretrained(POLICY)
    settings = getattr(trl, f"{name}Config")(
        f"{SCRATCH.name}/out",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        max_steps=STEPS + 1,
        per_device_train_batch_size=BATCH * GROUP,
        num_generations=GROUP,
        max_completion_length=MAX_NEW_TOKENS,
        temperature=1.0,
        beta=KL_COEF,
        learning_rate=LR,
        max_grad_norm=1.0,
        num_iterations=1,
        seed=0,
    )
    texts = [" ".join(TOKENIZER.convert_ids_to_tokens(prompt)) for prompt in PROMPTS[lengths]]
    dataset, ends = Dataset.from_dict({"prompt": texts}), Ends()
    trainer = getattr(trl, f"{name}Trainer")(
        POLICY, reward_funcs=reward_function(), args=settings, train_dataset=dataset, callbacks=[ends]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    key = "completions/mean_length"
    logged = [row[key] for row in trainer.state.log_history if key in row]
    return {"seconds": median(np.diff(ends.at)), "length": float(np.mean(logged))}


def measure(lengths: str) -> None:
    """Both trainers of TRL against ours, on prompts of one length ("even") or of several."""
    replies: dict[str, list[dict]] = {}

    def variant(key: str):
        def once() -> float:
            replies.setdefault(key, []).append(json.loads(harness.child(f"{lengths}/{key}", run)))
            return replies[key][-1]["seconds"]

        return once

    keys = ("RLOO", "GRPO", "fp32", "bf16")
    seconds = harness.interleave_measured({key: variant(key) for key in keys}, run.rounds)
    several = "one length" if lengths == "even" else "several lengths"
    workload_words = f"{BATCH} prompts of {several} with {GROUP} answers each, one gradient pass"
    settings = {
        "prompts": BATCH,
        "answers_a_prompt": GROUP,
        "max_new_tokens": MAX_NEW_TOKENS,
        "members": K,
        "model": workload.MODEL,
        "prompt_tokens": sorted({len(prompt) for prompt in PROMPTS[lengths]}),
        "steps_a_process": STEPS,
        "kl_coef": KL_COEF,
        "answer_tokens_mean": {k: round(float(np.mean([x["length"] for x in replies[k]])), 1) for k in keys},
    }
    for name in ("RLOO", "GRPO"):
        in_bf16 = [a / b for a, b in zip(seconds[name], seconds["bf16"], strict=True)]
        harness.report(
            f"trl_{name.lower()}_{lengths}",
            run,
            seconds[name],
            seconds["fp32"],
            claim=f"steps per second of rmlab's PPO over TRL's {name}: {workload_words}",
            ours="rmlab ppo, fp32, shared value head, one epoch of one minibatch: "
            "another algorithm than the alternative's",
            alternative=f"TRL {name}Trainer, fp32, one optimiser step a generation",
            goal=">= 2x",
            settings=settings,
            also={f"seconds a step, {key}": spent for key, spent in seconds.items()}
            | {"x, ours in bf16": in_bf16},
        )


def main() -> None:
    """In a child process one variant, else both kinds of prompts (one of them in a quick run)."""
    if run.child:
        lengths, name = run.child.split("/")
        print(json.dumps((theirs if name in ("RLOO", "GRPO") else ours)(lengths, name)))
        return
    for lengths in ["uneven"] if run.quick else PROMPTS:
        measure(lengths)


if __name__ == "__main__":
    main()
