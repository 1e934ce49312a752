"""The workbench from the command line: `rmlab fit`, `report`, `sample`, `score`, `curve`, `ppo`; each reads what another wrote."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rmlab.recipe import Ppo, require

FIT = """Train an ensemble of reward models on preferences, and report it on a part that was held out. That part is
written beside it, as judges-test.jsonl: sample and report on it, not on what the judges were trained on.

  rmlab fit my-backbone pairs.jsonl --method heads --k 5 --out judges
  rmlab fit my-backbone pairs.parquet --method lora --k 3 --lr 1e-4 --group topic --out judges"""
REPORT = """What a table of reward models' scores says: who is right how often, whether an aggregator or the best member is
separated from length alone, whether members err together, what best-of-n makes of them.

A row is an answer with its prompt's id and a column of scores a member (CSV, TSV, JSON lines, Parquet):

  prompt,votes,rm_a,rm_b
  p1,0.8,1.31,0.92
  p1,0.2,0.44,1.05

Two answers a prompt with --label, the share of votes for each; or any number with --gold, or with neither; or a pair a
row, with columns rm_a_chosen and rm_a_rejected. With --judges the table is a preference file, scored here.

  rmlab report pairs.csv --label votes
  rmlab report pairs.csv --label votes --members a b c --length words --out report
  rmlab report pool.parquet --prompt question --answer sample --gold gold --group topic
  rmlab report judges-test.jsonl --judges judges --group group"""
SAMPLE = """Sample many answers of a policy to every prompt of a preference file: a pool.

  rmlab sample my-policy judges-test.jsonl --n 256 --max-new-tokens 128 --out pool"""
SCORE = """Score a pool's answers by an ensemble and, where there is one, by gold: another reward model.

  rmlab score pool --judges judges --gold my-gold-rm"""
CURVE = """Best-of-n of a scored pool, exact, with intervals over prompts: rows and a figure in its folder.

  rmlab curve pool --aggregators mean min mean_std"""
PPO = """Optimise a policy by PPO against an ensemble, on the prompts of a preference file.

  rmlab ppo my-policy pairs.jsonl --judges judges --aggregator min --ppo.steps 200 --out run"""


@dataclass(frozen=True)
class Fit:
    """Options of `rmlab fit`, as `rmlab.fit` has them."""

    backbone: tyro.conf.Positional[str]  # a causal language model's folder, or its name on the hub
    pairs: tyro.conf.Positional[str]  # a preference file, or a data set's name on the hub
    method: str = "heads"  # heads, finetune, lora, ...
    k: int = 5  # members
    lr: float = 1e-5
    epochs: int = 1
    batch: int = 32  # pairs
    max_length: int = 1024  # tokens of prompt and answer
    micro_batch: int = 0  # pairs read at a time; 0: the whole batch
    max_grad_norm: float = 0.0  # above which gradients are scaled down; 0: never
    checkpointing: bool = False  # compute layers again in the backward pass, to keep less
    precision: str = "fp32"  # or "bf16" for the products, with float32 weights
    held_out: float = 0.2  # share of the pairs for the report
    group: str | None = None  # column of what pairs belong to, such as a topic
    on_bad: str = "error"  # "drop" leaves bad rows out and counts them
    votes: bool = False  # train on the share of votes
    seed: int = 0
    device: str = "auto"
    out: Path = Path("judges")


@dataclass(frozen=True)
class Report:
    """Options of `rmlab report`, as `rmlab.Scores.read` has them."""

    table: tyro.conf.Positional[Path]  # CSV, TSV, JSON lines, JSON or Parquet
    judges: Path | None = None  # an ensemble's folder that is to score the table's pairs
    device: str = "auto"  # of the judges
    prompt: str = "prompt"  # column of prompt or pair ids
    answer: str | None = "answer"  # column of answer ids; where there is none they are numbered
    members: tuple[str, ...] = ()  # columns of scores; none: all numbers that are named for nothing else
    gold: str | None = None  # column of true rewards
    label: str | None = None  # column of shares of votes, 0 to 1
    text: str | None = None  # column of the answers' text, for its length
    length: str | None = None  # column of the answers' length
    group: str | None = None  # column of what intervals count, such as a topic
    out: Path | None = None  # folder for report.txt, tidy rows as CSV, and the figure


@dataclass(frozen=True)
class Sample:
    """Options of `rmlab sample`, as `rmlab.Pool.sample` has them."""

    policy: tyro.conf.Positional[str]  # a causal language model's folder, or its name on the hub
    pairs: tyro.conf.Positional[str]  # a preference file whose prompts are answered
    prompts: int = 64  # the first so many of them
    n: int = 256  # answers to each
    max_new_tokens: int = 128  # of an answer, the EOS included
    seed: int = 0
    device: str = "auto"
    out: Path = Path("pool")


@dataclass(frozen=True)
class Score:
    """Options of `rmlab score`."""

    pool: tyro.conf.Positional[Path]  # what `rmlab sample` wrote
    judges: Path  # an ensemble's folder
    gold: Path | None = None  # a reward model's folder, of any tokenizer
    device: str = "auto"


@dataclass(frozen=True)
class Curve:
    """Options of `rmlab curve`."""

    pool: tyro.conf.Positional[Path]  # a pool that `rmlab score` scored
    aggregators: tuple[str, ...] = ("mean", "min", "mean_std")
    optimiser: str = "best_of_n"  # or "tilt"


@dataclass(frozen=True)
class Tune:
    """Options of `rmlab ppo`; those of PPO itself are `--ppo.steps` and so on."""

    policy: tyro.conf.Positional[str]  # a causal language model's folder, or its name on the hub
    pairs: tyro.conf.Positional[str]  # a preference file whose prompts are answered
    judges: Path  # an ensemble's folder
    aggregator: str = "min"
    ppo: Ppo = field(default_factory=Ppo)
    lora: int = 0  # rank of what is trained in the place of the weights; 0: the weights
    seed: int = 0
    device: str = "auto"
    out: Path = Path("run")


def fit(args: list[str]) -> None:
    """Split the pairs, train on one part, save, and print the report on the other."""
    from rmlab.preferences import Preferences
    from rmlab.reward.folder import require_ours
    from rmlab.workbench.judges import fit as train

    o = tyro.cli(Fit, args=args, prog="rmlab fit", description=FIT)
    require_ours(o.out.resolve())  # before the training, not after it
    prefs = Preferences.read(o.pairs, group=o.group, on_bad=o.on_bad)
    print(prefs.report(baselines=False), flush=True)
    part, test = prefs.split(o.held_out)
    options = {} if o.method == "single" else {"k": o.k}
    same = "lr epochs batch max_length micro_batch max_grad_norm checkpointing precision seed device votes"
    options |= {name: getattr(o, name) for name in same.split()}
    judges = train(o.backbone, part, o.method, **options)
    judges.save(o.out)
    held_out = o.out.with_name(f"{o.out.name}-test.jsonl")
    test.write(held_out)
    print(f"\n{judges.report(test, part)}\n\nwritten: {o.out}, and {held_out}: the pairs that were held out")


def report(args: list[str]) -> None:
    """Read a table, print its report, and write its rows and figure where a folder is named."""
    from rmlab.workbench.scores import Scores

    o = tyro.cli(Report, args=args, prog="rmlab report", description=REPORT)
    if o.judges is not None:
        from rmlab.preferences import Preferences
        from rmlab.workbench.judges import load

        result = load(o.judges, o.device).report(Preferences.read(o.table, group=o.group))
    else:
        names = ("prompt", "answer", "gold", "label", "text", "length", "group")
        columns = {name: getattr(o, name) for name in names}
        result = Scores.read(o.table, members=o.members or None, **columns).report()
    print(result)
    if o.out is not None:
        print(f"\nwritten: {', '.join(map(str, result.save(o.out)))}")


def sample(args: list[str]) -> None:
    """Sample a pool and write it."""
    from rmlab.preferences import Preferences
    from rmlab.workbench.pool import Pool

    o = tyro.cli(Sample, args=args, prog="rmlab sample", description=SAMPLE)
    prompts = Preferences.read(o.pairs, on_bad="drop").prompts[: o.prompts]
    pool = Pool.sample(o.policy, prompts, o.n, o.max_new_tokens, o.seed, o.device)
    pool.save(o.out)
    cut = 1 - pool.ended.mean()
    print(f"{len(prompts)} prompts, {o.n} answers each; {cut:.1%} were cut at {o.max_new_tokens} tokens")
    print(f"written: {o.out}")


def score(args: list[str]) -> None:
    """Score a pool in its folder."""
    from rmlab.workbench.judges import load
    from rmlab.workbench.pool import Pool

    o = tyro.cli(Score, args=args, prog="rmlab score", description=SCORE)
    gold = None if o.gold is None else load(o.gold, o.device)
    pool = Pool.load(o.pool).score(load(o.judges, o.device), gold)
    pool.save(o.pool)
    print(f"{pool.ended.size} answers scored by {pool.members} members{' and gold' * (gold is not None)}")


def curve(args: list[str]) -> None:
    """Write a pool's curves beside it, as CSV and PNG, and print them."""
    from rmlab.workbench.pool import Pool

    o = tyro.cli(Curve, args=args, prog="rmlab curve", description=CURVE)
    require(o.optimiser in ("best_of_n", "tilt"), "optimiser", o.optimiser, "best_of_n or tilt")
    curves = getattr(Pool.load(o.pool), o.optimiser)(o.aggregators)
    curves.save(o.pool / f"{o.optimiser}.csv")
    curves.plot().save(o.pool / f"{o.optimiser}.png")
    print(f"{curves}\n\nwritten: {o.pool / o.optimiser}.csv and .png")


def ppo(args: list[str]) -> None:
    """Run PPO, going on from where it stopped; write its rows and the policy as it ends."""
    from rmlab.files import write_atomic
    from rmlab.preferences import Preferences
    from rmlab.workbench.judges import load
    from rmlab.workbench.tune import ppo as optimise

    o = tyro.cli(Tune, args=args, prog="rmlab ppo", description=PPO)
    prompts = Preferences.read(o.pairs, on_bad="drop").prompts
    reward = load(o.judges, o.device).reward(o.aggregator)
    progress = steps_left(o.ppo.steps)
    more = {"seed": o.seed, "out": o.out, "device": o.device, "lora": o.lora, "on_step": progress}
    rows = optimise(o.policy, prompts, reward, o.ppo, **more)
    write_atomic(o.out / "rows.csv", rows.to_csv(index=False))
    first, last = rows.iloc[0], rows.iloc[-1]
    print(f"reward {first.reward:.2f} to {last.reward:.2f}, KL {last.k1:.2f} nats; written: {o.out}")


def steps_left(steps: int) -> Callable[[int], None]:
    """Prints a line at most every ten seconds: updates done, of `steps`, and how long the others will take.

    PPO calls what it gives after each step, 0 to `steps`: the last one measures and updates nothing.
    """
    began = last = time.monotonic()
    first: list[int] = []

    def on_step(step: int) -> None:
        nonlocal last
        first.append(step) if not first else None
        now = time.monotonic()
        if now - last < 10 and step < steps:
            return
        last, done = now, step - first[0] + 1
        left = (now - began) / done * (steps - step)
        print(
            f"step {min(step + 1, steps)} of {steps}, about {left / 60:.1f} minutes left",
            file=sys.stderr,
            flush=True,
        )

    return on_step
