"""One PPO iteration (sample, score, improve): rmlab against TRL's PPOTrainer, the same weights, settings and threads.

Run: `python benchmarks/ppo_iteration.py [--rounds N] [--quick] [--against COMMIT]`. Needs the extra `trl`, and the
network once.

TRL had PPO until 1.12.0 and removed it: that version is put, alone, into `_build/benchmarks/trl-1.12.0` with pip, and
runs on the same torch and transformers; where it cannot be had the script says so and stops. To do without the
network, put it there: `pip install --no-deps --target _build/benchmarks/trl-1.12.0 trl==1.12.0`.

Every variant runs in a process of its own, in turn, and reports the median of its iterations after the first. Equal on
both sides: policy, reference, reward model (K = 1), prompts, answers' greatest length, epochs, minibatches, clipping of
ratio and value, KL penalty, learning rate, fp32. Not equal: TRL trains a second model for the values (ours, with
`value_trunk="own"`, does too; else the head is on the policy) and does not clip the gradient's norm (ours does).

What each cause is worth is measured by switching it off in ours: x of it is the time without it over the time with it.
"""

import copy
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import harness, workload
from torch import nn

from rmlab.optimise import ppo
from rmlab.optimise.reward import reward_function
from rmlab.recipe import Ppo
from rmlab.reward.model import RewardModel, from_backbone
from rmlab.sources.sandbox.vocabulary import SPECIAL_TOKENS, SPECIALS, build_tokenizer
from rmlab.tokens import pad_right

run = harness.start(__doc__.splitlines()[0], rounds=3)
TRL = "1.12.0"
PEER = harness.QUICK / f"trl-{TRL}"
EPOCHS, MINIBATCHES, MAX_NEW_TOKENS, LR, KL_COEF = 4, 4, 48, 3e-6, 0.05
COUNTED = 1 if run.quick else 3  # iterations, after one that is not counted
WORKLOADS = {  # batch, probability of <eos> at a token
    "64_ending": (16 if run.quick else 64, 0.024),
    "256_endless": (32 if run.quick else 256, 0.0),
}
CAUSES = {  # a variant that does without, and what it does without
    "own": "one trunk for policy and value",
    "padded": "packed tokens and our forward in the passes over answers (without: transformers' on padded rows)",
    "recomputed": "log-probabilities captured in sampling (without: a second pass of the policy)",
    "collected": "no gc.collect() (without: two an iteration, as TRL has)",
}
CLAIMS = {  # a variant of ours: its goal, in words, and what the claim adds
    "own": (
        "none of its own: TRL's algorithm",
        "rmlab ppo, fp32, value_trunk='own': a trunk of its own, as in TRL",
        "",
    ),
    "bf16": (
        ">= 3x",
        "rmlab ppo, shared value head, the update's products in bf16",
        ", ours in bf16, TRL in fp32",
    ),
    "fp32": (">= 2x", "rmlab ppo, fp32, shared value head", ", both in fp32"),
}


def models(name: str) -> tuple[nn.Module, RewardModel, RewardModel, list[list[int]]]:
    """Policy, reward model, value model and prompts of a workload, on both sides the same."""
    batch, share = WORKLOADS[name]
    policy = workload.ending(workload.neox(), share)
    others = [from_backbone(workload.neox(seed), 1, seed=seed) for seed in (1, 2)]
    return policy, *others, workload.prompts(batch * (COUNTED + 3), np.random.default_rng(0))


def padded_answers(trunk: nn.Module, prompts: list[list[int]], answers: list[list[int]]) -> torch.Tensor:
    """As `ppo.read_answers`, by the model's own forward on padded rows: hidden states (M, D) before the answers' tokens."""
    ids, mask = map(
        torch.from_numpy, pad_right([[*p, *a[:-1]] for p, a in zip(prompts, answers, strict=True)])
    )
    starts = torch.tensor([len(p) - 1 for p in prompts])
    hidden = trunk(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    return hidden[mask & (torch.arange(ids.shape[1]) >= starts[:, None])]


def do_without(variant: str) -> None:
    """Switch off, in this process, what a variant does without."""
    if variant == "padded":
        ppo.read_answers = padded_answers
    if variant == "recomputed":
        ppo.roll_out = roll_out_twice


@torch.no_grad()
def roll_out_twice(state: ppo.Run, prompts: ppo.Prompts, roll_out=ppo.roll_out) -> ppo.Batch:
    """`ppo.roll_out`, and a pass of the policy for what the sampler has captured."""
    batch = roll_out(state, prompts)
    for start in range(0, len(batch.answers), 64):
        part = batch.prompts[start : start + 64], batch.answers[start : start + 64]
        state.head.log_probs(ppo.read_answers(ppo.trunk(state.policy), *part), part[1])
    return batch


def ours(name: str, variant: str) -> dict:
    """Seconds of the counted iterations and what the rows say."""
    policy, reward, _, prompts = models(name)
    batch = WORKLOADS[name][0]
    settings = Ppo(
        steps=COUNTED + 1,
        batch=batch,
        max_new_tokens=MAX_NEW_TOKENS,
        kl_coef=KL_COEF,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        lr=LR,
        cliprange_value=0.2,
        value_trunk="own" if variant == "own" else "shared",
        precision="bf16" if variant == "bf16" else "fp32",
    )
    do_without(variant)
    starts, ends = iter(range(0, len(prompts), batch)), []

    def next_prompts(rng: np.random.Generator, count: int) -> list[list[int]]:
        start = next(starts)
        return prompts[start : start + count]

    def on_step(step: int) -> None:
        if variant == "collected":
            gc.collect()
            gc.collect()
        ends.append(time.perf_counter())

    rows = ppo.train(
        policy,
        next_prompts,
        reward_function(reward),
        settings,
        seed=0,
        on_step=on_step,
        special=SPECIAL_TOKENS,
    )
    counted = np.diff(ends)[:COUNTED]  # without the first step, and the last row, which has no update
    means = {key: float(np.mean([row[key] for row in rows[:-1]])) for key in ("length", "ended")}
    return {"seconds": counted.tolist(), "ratio_error": max(r["ratio_error"] for r in rows[:-1]), **means}


def theirs(name: str) -> dict:
    """PPOTrainer; its iterations are timed from the end of one to the end of the next."""
    import trl
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl.experimental.ppo import PPOTrainer

    if trl.__version__ != TRL:
        raise RuntimeError(f"trl {trl.__version__} at {trl.__file__}, not {TRL}")
    ends, logged = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    class LoggedTrainer(PPOTrainer):
        def log(self, logs, *_):
            logged.append(logs)

    disable_progress_bars()
    policy, reward, value, prompts = models(name)
    tokenizer = build_tokenizer([f"w{i}" for i in range(len(SPECIALS), workload.VOCAB)])
    tokenizer.padding_side = "left"
    with tempfile.TemporaryDirectory(prefix="rmlab-bench-") as folder:
        dataset = Dataset.from_dict({"input_ids": prompts})
        trainer = LoggedTrainer(
            trl_settings(Path(folder), *WORKLOADS[name]),
            tokenizer,
            policy,
            copy.deepcopy(policy),
            reward.model,
            dataset,
            value.model,
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    ended = float(np.mean([x["val/num_eos_tokens"] for x in logged])) / WORKLOADS[name][0]
    return {"seconds": np.diff(ends).tolist(), "ended": ended}


def trl_settings(folder: Path, batch: int, share: float):
    """A `PPOConfig` of a workload."""
    from trl.experimental.ppo import PPOConfig

    return PPOConfig(
        str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        total_episodes=batch * (COUNTED + 1),
        num_mini_batches=MINIBATCHES,
        num_ppo_epochs=EPOCHS,
        response_length=MAX_NEW_TOKENS,
        temperature=1.0,
        kl_coef=KL_COEF,
        local_rollout_forward_batch_size=batch,
        learning_rate=LR,
        bf16=False,
        gradient_checkpointing=False,
        num_sample_generations=0,
        stop_token="eos" if share else None,
        missing_eos_penalty=None,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


def peer() -> None:
    """TRL 1.12.0 in a folder of its own, or the end."""
    missing = [m for m in ("accelerate", "datasets") if importlib.util.find_spec(m) is None]
    if missing:
        sys.exit(print(f"skipped: no {' and no '.join(missing)}; install the extra `trl`"))
    if not (PEER / "trl").is_dir():
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEER)]
        done = subprocess.run([*install, f"trl=={TRL}"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(print(f"skipped: trl=={TRL} cannot be had: {done.stderr.strip()[-300:]}"))


def measure(name: str, causes: list[str]) -> None:
    """A workload: three claims of ours, and what each of the causes is worth."""
    replies: dict[str, list[dict]] = {}

    def variant(key: str):
        def once() -> float:
            first = str(PEER) if key == "trl" else None
            replies.setdefault(key, []).append(json.loads(harness.child(f"{name}/{key}", run, first)))
            return median(replies[key][-1]["seconds"])

        return once

    keys = dict.fromkeys(["trl", "fp32", "bf16", "own", *causes])
    seconds = harness.interleave_measured({key: variant(key) for key in keys}, run.rounds)
    errors = {key: max(x["ratio_error"] for x in replies[key]) for key in keys if key != "trl"}
    print(f"# {name}: largest |ratio - 1| of a first minibatch in fp32: {errors['fp32']:.1e}; goal <= 1e-5")
    batch, share = WORKLOADS[name]
    worth = {c: [a / b for a, b in zip(seconds[c], seconds["fp32"], strict=True)] for c in causes}
    settings = {
        "batch": batch,
        "epochs": EPOCHS,
        "minibatches": MINIBATCHES,
        "max_new_tokens": MAX_NEW_TOKENS,
        "prompt_tokens": workload.PROMPT,
        "eos_a_token": share,
        "iterations_a_process": COUNTED,
        "model": workload.MODEL,
        "answer_tokens_mean": round(float(np.mean([x["length"] for x in replies["fp32"]])), 1),
        "share_ended": {
            k: round(float(np.mean([x["ended"] for x in replies[k]])), 3) for k in ("trl", "fp32")
        },
        "ratio_error_of_first_minibatches": errors,
        "ratio_error_goal": "<= 1e-5 in fp32",
    }
    also = {f"seconds an iteration, {key}": spent for key, spent in seconds.items()}
    also |= {f"x of {CAUSES[c]}": values for c, values in worth.items()}
    answers = f"batch {batch}, answers that {'end' if share else 'do not end'}"
    for key, (goal, words, note) in CLAIMS.items():
        harness.report(
            f"ppo_iteration_{name}_{key}",
            run,
            seconds["trl"],
            seconds[key],
            claim=f"PPO iterations per second of rmlab over TRL's PPOTrainer, {answers}{note}",
            ours=words,
            alternative=f"TRL {TRL} PPOTrainer, fp32, a value model of its own",
            goal=">= 2.5x" if key == "fp32" and share else goal,
            settings=settings,
            also=also,
        )


def main() -> None:
    """In a child process one variant, else every workload."""
    if run.child:
        name, variant = run.child.split("/")
        print(json.dumps(theirs(name) if variant == "trl" else ours(name, variant)))
        return
    peer()
    for name in WORKLOADS:
        measure(name, list(CAUSES) if name == "64_ending" else [])


if __name__ == "__main__":
    main()
