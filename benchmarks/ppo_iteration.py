"""One PPO iteration (sample, score, improve): rmlab against TRL's PPOTrainer, the same weights, settings and threads.

Run: `python benchmarks/ppo_iteration.py [--rounds N] [--quick]`. Needs the extra `trl`, and the network once.

TRL had PPO until 1.12.0 and removed it: that version is put, alone, into `_build/benchmarks/trl-1.12.0` with pip, and
runs on the same torch and transformers; where it cannot be had the script says so and stops. To do without the
network, put it there: `pip install --no-deps --target _build/benchmarks/trl-1.12.0 trl==1.12.0`.

Every variant runs in a process of its own, in turn, and reports the median of its iterations after the first. Equal on
both sides: policy, reference, reward model (K = 1), prompts, answers' greatest length, epochs, minibatches, clipping of
ratio and value, price of KL, learning rate, fp32. Not equal: TRL trains a second model for the values (ours, with
`value="own"`, does too; else the head is on the policy) and does not clip the gradient's norm (ours does).

What each cause is worth is measured by switching it off in ours: x of it is the time without it over the time with it.
"""

import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from statistics import median

import numpy as np
from common import harness, workload

from rmlab.sources.sandbox.vocabulary import SPECIALS, build_tokenizer

run = harness.start(__doc__.splitlines()[0], rounds=3)
TRL = "1.12.0"
PEER = harness.QUICK / f"trl-{TRL}"
EPOCHS, MINIBATCHES, ANSWER, LR, BETA = 4, 4, 48, 3e-6, 0.05
COUNTED = 1 if run.quick else 3  # iterations, after one that is not counted
WORKLOADS = {  # batch, probability of <eos> at a token, tokens of the prompts
    "64_ending": (16 if run.quick else 64, 0.024, workload.PROMPT),
    "256_endless": (32 if run.quick else 256, 0.0, workload.PROMPT),
}
CAUSES = {  # a variant that does without, and what it does without
    "own": "one trunk for policy and value",
    "padded": "packed tokens and our forward in the passes over answers (without: transformers' on padded rows)",
    "recomputed": "log-probabilities captured in sampling (without: a second pass of the policy)",
    "collected": "no gc.collect() (without: two an iteration, as TRL has)",
}


def models(name: str):
    """Policy, reward model, value model and prompts of a workload, on both sides the same."""
    from rmlab.reward.model import from_backbone

    batch, share, size = WORKLOADS[name]
    policy = workload.ending(workload.neox(), share)
    others = [from_backbone(workload.neox(seed), 1, seed=seed) for seed in (1, 2)]
    return policy, *others, workload.prompts(batch * (COUNTED + 3), np.random.default_rng(0), size)


def ours(name: str, variant: str) -> dict:
    """Seconds of the counted iterations and what the rows say."""
    import torch

    from rmlab.fast import rows as fastpath
    from rmlab.optimise import ppo
    from rmlab.optimise.reward import reward_function
    from rmlab.recipe import Ppo

    policy, reward, _, prompts = models(name)
    batch = WORKLOADS[name][0]
    settings = Ppo(
        steps=COUNTED + 1, batch=batch, max_answer=ANSWER, beta=BETA, epochs=EPOCHS, minibatches=MINIBATCHES, lr=LR,
        value_clip=0.2, value="own" if variant == "own" else "shared", precision="bf16" if variant == "bf16" else "fp32",
    )  # fmt: skip
    if variant == "padded":
        fastpath.packed = lambda *_: None
    if variant == "recomputed":
        roll_out = ppo.roll_out

        @torch.no_grad()
        def twice(run, prompts):
            made = roll_out(run, prompts)
            for start in range(0, batch, 64):
                some = made.prompts[start : start + 64], made.answers[start : start + 64]
                hidden = ppo.read_answers(ppo.trunk(run.policy), *some)
                ppo.log_probs(run.policy, hidden, some[1])
            return made

        ppo.roll_out = twice
    ends = []

    def tick(step: int) -> None:
        if variant == "collected":
            gc.collect()
            gc.collect()
        ends.append(time.perf_counter())

    start = iter(range(0, len(prompts), batch))

    def asked(rng, count: int):
        at = next(start)
        return prompts[at : at + count]

    rows = ppo.train(policy, asked, reward_function(reward), settings, seed=0, tick=tick)[:-1]
    return {
        "seconds": np.diff(ends)[
            :COUNTED
        ].tolist(),  # the first step and the last row, without updates, left out
        "ratio_error": max(r["ratio_error"] for r in rows),
        "length": float(np.mean([r["length"] for r in rows])),
        "ended": float(np.mean([r["ended"] for r in rows])),
    }


def theirs(name: str) -> dict:
    """PPOTrainer; its iterations are timed from the end of one to the end of the next."""
    import copy

    import trl
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    if trl.__version__ != TRL:
        raise RuntimeError(f"trl {trl.__version__} at {trl.__file__}, not {TRL}")
    ends, lengths = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    class Watched(PPOTrainer):
        def log(self, logs, *_):
            lengths.append(logs)

    disable_progress_bars()
    policy, reward, value, prompts = models(name)
    batch, share, _ = WORKLOADS[name]
    tokenizer = build_tokenizer([f"w{i}" for i in range(len(SPECIALS), workload.VOCAB)])
    tokenizer.padding_side = "left"
    with tempfile.TemporaryDirectory(prefix="rmlab-bench-") as folder:
        settings = PPOConfig(
            folder, per_device_train_batch_size=batch, gradient_accumulation_steps=1, total_episodes=batch * (COUNTED + 1),
            num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, response_length=ANSWER, temperature=1.0, kl_coef=BETA,
            local_rollout_forward_batch_size=batch, learning_rate=LR, bf16=False, gradient_checkpointing=False,
            num_sample_generations=0, stop_token="eos" if share else None, missing_eos_penalty=None, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = Watched(
            settings, tokenizer, policy, copy.deepcopy(policy), reward.model,
            Dataset.from_dict({"input_ids": prompts}), value.model, callbacks=[Clock()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    found = float(np.mean([x["val/num_eos_tokens"] for x in lengths])) / batch
    return {"seconds": np.diff(ends).tolist(), "ended": found}


def peer() -> None:
    """TRL 1.12.0 in a folder of its own, or the end."""
    missing = [m for m in ("accelerate", "datasets") if importlib.util.find_spec(m) is None]
    if missing:
        sys.exit(print(f"skipped: no {' and no '.join(missing)}; install the extra `trl`"))
    if not (PEER / "trl").is_dir():
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEER), f"trl=={TRL}"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(print(f"skipped: trl=={TRL} cannot be had: {done.stderr.strip()[-300:]}"))


def measure(name: str, causes: dict[str, str]) -> None:
    batch, share, size = WORKLOADS[name]
    said: dict[str, list[dict]] = {}

    def variant(which: str):
        def once() -> float:
            first = str(PEER) if which == "trl" else None
            said.setdefault(which, []).append(json.loads(harness.child(f"{name}/{which}", run, first)))
            return median(said[which][-1]["seconds"])

        return once

    which = ["trl", "fp32", "bf16", "own", *(c for c in causes if c != "own")]
    seconds = harness.interleave_measured({v: variant(v) for v in which}, run.rounds)
    error = {v: max(x["ratio_error"] for x in said[v]) for v in which if v != "trl"}
    facts = dict(
        alternative=f"TRL {TRL} PPOTrainer, fp32, a value model of its own",
        settings={"batch": batch, "epochs": EPOCHS, "minibatches": MINIBATCHES, "max_answer": ANSWER,
                  "prompt_tokens": size, "eos_a_token": share, "iterations_a_process": COUNTED, "model": workload.MODEL,
                  "answer_tokens_mean": round(float(np.mean([x["length"] for x in said["fp32"]])), 1),
                  "share_ended": {v: round(float(np.mean([x["ended"] for x in said[v]])), 3) for v in ("trl", "fp32")},
                  "ratio_error_of_first_minibatches": error, "ratio_error_goal": "<= 1e-5 in fp32"},
        also={f"seconds an iteration, {v}": spent for v, spent in seconds.items()}
        | {f"x of {CAUSES[v]}": [a / b for a, b in zip(seconds[v], seconds["fp32"], strict=True)] for v in causes},
    )  # fmt: skip
    print(f"# {name}: largest |ratio - 1| of a first minibatch in fp32: {error['fp32']:.1e}; goal <= 1e-5")
    for key, goal, ours, note in (
        ("own", "none of its own: TRL's algorithm", "rmlab ppo, fp32, value='own': a trunk of its own, as in TRL", ""),
        ("bf16", ">= 3x", "rmlab ppo, shared value head, the update's products in bf16", ", ours in bf16, TRL in fp32"),
        ("fp32", ">= 2.5x" if share else ">= 2x", "rmlab ppo, fp32, shared value head", ", both in fp32"),
    ):  # fmt: skip
        harness.report(
            f"ppo_iteration_{name}_{key}", run, seconds["trl"], seconds[key], goal=goal, ours=ours,
            claim=f"PPO iterations per second of rmlab over TRL's PPOTrainer, batch {batch}, answers that {'end' if share else 'do not end'}{note}",
            **facts,
        )  # fmt: skip


def main() -> None:
    if run.child:
        name, variant = run.child.split("/")
        print(json.dumps(theirs(name) if variant == "trl" else ours(name, variant)))
        return
    peer()
    for name in WORKLOADS:
        measure(name, CAUSES if name == "64_ending" else {})


if __name__ == "__main__":
    main()
