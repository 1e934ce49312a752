"""One step of TRL's RLOO and of its GRPO, against one PPO iteration of rmlab on as many answers and gradient passes.

Run: `python benchmarks/trl_rl.py [--rounds N] [--quick]`. Needs the extra `trl`.

rmlab has PPO alone, so the algorithms differ. Equal: the policy's weights, 16 prompts with 4 answers each, the greatest
length, the reward (one `rmlab.optimise.trl.RewardFunction`, K = 5 members, the minimum), a reference and a price of KL,
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
from rmlab.sources.sandbox.vocabulary import SPECIALS, build_tokenizer

try:
    import trl
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
except ImportError as error:
    sys.exit(print(f"skipped: {error}; install the extra `trl`"))

run = harness.start(__doc__.splitlines()[0], rounds=5)
PROMPTS, GROUP, ANSWER, K = (4 if run.quick else 16), 4, 48, 5
STEPS = 2 if run.quick else 8  # timed, after one that is not
LR, BETA = 3e-6, 0.05
SCRATCH = tempfile.TemporaryDirectory(prefix="rmlab-bench-")
POLICY = f"{SCRATCH.name}/policy"
WORDS = [f"w{i}" for i in range(len(SPECIALS), workload.VOCAB)]
TOKENIZER = build_tokenizer(WORDS)
ASKED = {
    "uneven": workload.prompts(PROMPTS * (STEPS + 2), np.random.default_rng(0)),
    "even": workload.prompts(PROMPTS * (STEPS + 2), np.random.default_rng(0), (20, 20)),
}
REWARD = RewardFunction(from_backbone(workload.neox(1), K, seed=1), "min", tokenizer=TOKENIZER)


class Ends(TrainerCallback):
    def __init__(self):
        self.at = []

    def on_step_end(self, *_, **__):
        self.at.append(time.perf_counter())


def ours(prompts: str, precision: str) -> dict:
    """Seconds a step and the answers' mean length."""
    policy = workload.ending(workload.neox(), 0.024)
    batch = PROMPTS * GROUP
    settings = Ppo(steps=STEPS + 1, batch=batch, max_answer=ANSWER, beta=BETA, epochs=1, minibatches=1, lr=LR, precision=precision)  # fmt: skip
    start, ends = iter(range(0, len(ASKED[prompts]), PROMPTS)), []

    def asked(rng, count: int):
        at = next(start)
        return [p for p in ASKED[prompts][at : at + PROMPTS] for _ in range(GROUP)]

    def reward(asked, answers):
        return np.array(REWARD(asked, [""] * len(answers), completion_ids=answers))

    rows = ppo.train(
        policy, asked, reward, settings, seed=0, tick=lambda step: ends.append(time.perf_counter())
    )
    seconds = median(np.diff(ends)[:STEPS])  # without the first step and the last row, which has no update
    return {"seconds": seconds, "length": float(np.mean([r["length"] for r in rows]))}


def theirs(prompts: str, name: str) -> dict:
    """The same of TRL's trainer of this name."""
    disable_progress_bars()
    workload.ending(workload.neox(), 0.024).save_pretrained(POLICY)
    TOKENIZER.save_pretrained(POLICY)
    settings = getattr(trl, f"{name}Config")(
        f"{SCRATCH.name}/out", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_steps=1, max_steps=STEPS + 1, per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP, max_completion_length=ANSWER, temperature=1.0, beta=BETA, learning_rate=LR, max_grad_norm=1.0,
        num_iterations=1, seed=0,
    )  # fmt: skip
    texts = [" ".join(TOKENIZER.convert_ids_to_tokens(p)) for p in ASKED[prompts]]
    trainer = getattr(trl, f"{name}Trainer")(
        POLICY, reward_funcs=REWARD, args=settings, train_dataset=Dataset.from_dict({"prompt": texts})
    )
    trainer.remove_callback(PrinterCallback)
    ends = Ends()
    trainer.add_callback(ends)
    trainer.train()
    logged = [x["completions/mean_length"] for x in trainer.state.log_history if "completions/mean_length" in x]  # fmt: skip
    return {"seconds": median(np.diff(ends.at)), "length": float(np.mean(logged))}


def measure(prompts: str) -> None:
    said: dict[str, list[dict]] = {}

    def variant(name: str):
        def once() -> float:
            said.setdefault(name, []).append(json.loads(harness.child(f"{prompts}/{name}", run)))
            return said[name][-1]["seconds"]

        return once

    seconds = harness.interleave_measured(
        {v: variant(v) for v in ("RLOO", "GRPO", "fp32", "bf16")}, run.rounds
    )
    for name in ("RLOO", "GRPO"):
        harness.report(
            f"trl_{name.lower()}_{prompts}", run, seconds[name], seconds["fp32"], goal=">= 2x",
            claim=f"steps per second of rmlab's PPO over TRL's {name}: {PROMPTS} prompts of {'one length' if prompts == 'even' else 'several lengths'} with {GROUP} answers each, one gradient pass",
            ours="rmlab ppo, fp32, shared value head, one epoch of one minibatch: another algorithm than the alternative's",
            alternative=f"TRL {name}Trainer, fp32, one optimiser step a generation",
            settings={"prompts": PROMPTS, "answers_a_prompt": GROUP, "max_answer": ANSWER, "members": K, "model": workload.MODEL,
                      "prompt_tokens": sorted({len(p) for p in ASKED[prompts]}), "steps_a_process": STEPS, "beta": BETA,
                      "answer_tokens_mean": {v: round(float(np.mean([x["length"] for x in said[v]])), 1) for v in said}},
            also={f"seconds a step, {v}": spent for v, spent in seconds.items()}
            | {"x, ours in bf16": [a / b for a, b in zip(seconds[name], seconds["bf16"], strict=True)]},
        )  # fmt: skip


def main() -> None:
    if run.child:
        prompts, name = run.child.split("/")
        print(json.dumps((theirs if name in ("RLOO", "GRPO") else ours)(prompts, name)))
        return
    for prompts in ASKED:
        measure(prompts)


if __name__ == "__main__":
    main()
