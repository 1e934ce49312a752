"""A pool of your own: N answers of a policy to each of P prompts as text, scored by any judges, each by its own tokenizer.

    pool = Pool.sample("my-policy", test.prompts, n=256)
    pool.score(judges, gold=load("my-gold-reward-model"))
    pool.best_of_n(["mean", "min"]).plot()

Letters: P prompts, N answers a prompt, T tokens, K members.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rmlab.backbone import device_of
from rmlab.backbone import load as load_backbone
from rmlab.measure.score_curves import GOLD, HELD_OUT, curve_rows, score_curves
from rmlab.optimise.compact import CompactPool
from rmlab.optimise.sampling import sample
from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS
from rmlab.text import Chat, TextFormat, ensure_pad, load_tokenizer, plain_chat, read_answer, same_tokens
from rmlab.tokens import SpecialTokens
from rmlab.workbench.curves import Curves
from rmlab.workbench.judges import Judges

Gold = Callable[[list, list[str]], Sequence[float]]  # B prompts, B answers -> B rewards


@dataclass
class Pool:
    """Answers, and what judges and gold say of them.

    Parameters
    ----------
    prompts : P strings or chats
    answers : P lists of N texts
    ended : (P, N) bool, False where an answer was cut before its EOS: it is scored where it stops
    scores : (P, N, K) float32, aligned; None until scored
    gold : (P, N) float64, in gold's own unit; None where there is none
    ids, text : the sampled ids (P lists of N) and their format: judges with the same tokenizer read them as they are
    """

    prompts: list[str | Chat]
    answers: list[list[str]]
    ended: np.ndarray
    scores: np.ndarray | None = None
    gold: np.ndarray | None = None
    ids: list[list[list[int]]] | None = field(default=None, repr=False)
    text: TextFormat | None = field(default=None, repr=False)

    def __post_init__(self):
        require(len(self.prompts) > 0, "prompts", 0, "at least one")
        counts = {len(row) for row in self.answers}
        fits = len(self.answers) == len(self.prompts) and len(counts) == 1 and min(counts) > 0
        require(
            fits, "answers", sorted(counts), f"as many to each of {len(self.prompts)} prompts, at least one"
        )
        self.ended = np.asarray(self.ended, bool)
        shape = len(self.prompts), counts.pop()
        require(self.ended.shape == shape, "shape of ended", self.ended.shape, f"{shape}, one an answer")

    @classmethod
    def sample(
        cls,
        policy: str | Path,
        prompts: Sequence[str | Chat],
        n: int = 256,
        max_new_tokens: int = 128,
        seed: int = 0,
        device: str = "auto",
    ) -> Pool:
        """Sample N answers to each prompt at temperature 1, until the policy's own EOS.

        Parameters
        ----------
        policy : a causal language model's folder or its name on the hub, with its tokenizer
        max_new_tokens : most tokens an answer may have, the EOS included

        Raises
        ------
        ValueError
            No such model or tokenizer, an empty prompt, a policy whose own logits the sampler does not give.
        """
        model, tokenizer = load_backbone(policy, device=device_of(device)), load_tokenizer(policy)
        ensure_pad(model, tokenizer)
        text = TextFormat(tokenizer, SpecialTokens.of(model, tokenizer))
        prompts = list(prompts)
        rows = [text.prompt_ids(prompt) for prompt in prompts]
        samples = sample(model, rows, n, max_new_tokens, seed, text.special)
        cut = [ids[:length].tolist() for ids, length in zip(samples.ids, samples.lengths, strict=True)]
        ids = [cut[i : i + n] for i in range(0, len(cut), n)]
        answers = [[text.text(answer) for answer in row] for row in ids]
        return cls(prompts, answers, samples.ended.reshape(-1, n), ids=ids, text=text)

    def score(self, judges: Judges, gold: Judges | Gold | Sequence | None = None) -> Pool:
        """Score every answer by K members and, where it can be had, by gold; returns itself.

        Parameters
        ----------
        gold : other judges (their mean, in their aligned unit; a single never aligned model's raw score), a function of
            prompts and answers, or an array (P, N)

        Raises
        ------
        ValueError
            A gold that is not one finite number an answer.
        """
        self.scores = self._scores_of(judges)
        if gold is not None:
            self.gold = self._gold_of(gold)
        return self

    def best_of_n(self, aggregators: Sequence[str] = ("mean", "min", "mean_std")) -> Curves:
        """Best-of-n at the powers of two up to N, exact, by every member and under each aggregator.

        Judged by gold; without gold by members that are held out in turn, which share what all members get wrong.

        Raises
        ------
        ValueError
            A pool that was not scored, one answer a prompt, one member and no gold, an unknown aggregator.
        """
        return self._curves(aggregators, "best_of_n")

    def tilt(self, aggregators: Sequence[str] = ("mean", "min", "mean_std")) -> Curves:
        """The exact KL-regularised optimum on the pool at several KL; arguments and errors of `best_of_n`."""
        return self._curves(aggregators, "tilt")

    def compact(self, keep: int | None = None) -> CompactPool:
        """The answers that can win and a weighted sample of the others: what `rmlab.Explorer` shows.

        keep : answers a prompt; as many as a page holds unless said
        """
        require(self.scores is not None, "scores", None, "pool.score(judges) first")
        prompts = [p if isinstance(p, str) else plain_chat(p).strip() for p in self.prompts]
        names = [f"member {k}" for k in range(self.members)]
        return CompactPool.from_text(prompts, self.answers, self.scores, self.gold, columns=names, keep=keep)

    def _curves(self, aggregators: Sequence[str], optimiser: str) -> Curves:
        require(self.scores is not None, "scores", None, "pool.score(judges) first")
        for name in aggregators:
            require(name in AGGREGATORS, "aggregator", name, f"one of {', '.join(AGGREGATORS)}")
        names = [f"member {k}" for k in range(self.members)]
        curves = score_curves(self.scores, names, aggregators, np.ones_like(self.ended), self.gold)
        rows = curve_rows(curves, np.arange(len(self.prompts)), HELD_OUT if self.gold is None else GOLD)
        return Curves(rows[rows.optimiser == optimiser].reset_index(drop=True))

    @property
    def members(self) -> int:
        """K, 0 until scored."""
        return 0 if self.scores is None else self.scores.shape[-1]

    def save(self, folder: str | Path) -> None:
        """Write `pool.jsonl`, a line an answer: prompt, answer, text, ended, gold and a column a member."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "pool.jsonl").open("w", encoding="utf-8") as file:
            for row in self.rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def rows(self) -> list[dict]:
        """An entry an answer: `prompt` and `answer` (their numbers), `request`, `text`, `ended`, `gold`, `member_0`, ..."""
        out = []
        for p, row in enumerate(self.answers):
            for i, text in enumerate(row):
                entry = {"prompt": p, "answer": i, "request": self.prompts[p], "text": text}
                entry["ended"] = bool(self.ended[p, i])
                if self.gold is not None:
                    entry["gold"] = float(self.gold[p, i])
                for k in range(self.members):
                    entry[f"member_{k}"] = float(self.scores[p, i, k])
                out.append(entry)
        return out

    @classmethod
    def load(cls, folder: str | Path) -> Pool:
        """Read what `save` wrote."""
        path = Path(folder) / "pool.jsonl"
        require(path.is_file(), "folder", str(folder), "one that Pool.save wrote, with pool.jsonl")
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        n = 1 + max(row["answer"] for row in rows)
        by_prompt = [rows[i : i + n] for i in range(0, len(rows), n)]
        names = [name for name in rows[0] if name.startswith("member_")]
        return cls(
            [group[0]["request"] for group in by_prompt],
            [[row["text"] for row in group] for group in by_prompt],
            np.array([[row["ended"] for row in group] for group in by_prompt]),
            np.array([[[row[m] for m in names] for row in group] for group in by_prompt], np.float32)
            if names
            else None,
            np.array([[row["gold"] for row in group] for group in by_prompt]) if "gold" in rows[0] else None,
        )

    def _scores_of(self, judges: Judges) -> np.ndarray:
        """(P, N, K), by the sampled ids where the judges' tokenizer is the policy's, else by text."""
        same = self.ids is not None and same_tokens(self.text, judges.text)
        out = np.empty((*self.ended.shape, judges.members), np.float32)
        for p, prompt in enumerate(self.prompts):
            if same:
                rows = self.ids[p]
            else:
                answers = zip(self.answers[p], self.ended[p], strict=True)
                rows = [read_answer(judges.text, prompt, text, ended) for text, ended in answers]
            out[p] = judges.score([judges.text.prompt_ids(prompt)] * len(rows), rows)
        return out

    def _gold_of(self, gold: Judges | Gold | Sequence) -> np.ndarray:
        """(P, N) float64."""
        if isinstance(gold, Judges):
            values = self._scores_of(gold).astype(np.float64).mean(-1)
        elif callable(gold):
            rows = zip(self.prompts, self.answers, strict=True)
            values = np.array([np.asarray(gold([prompt] * len(row), row)) for prompt, row in rows])
        else:
            values = np.asarray(gold)
        values = np.asarray(values, np.float64)
        require(
            values.shape == self.ended.shape,
            "shape of gold",
            values.shape,
            f"{self.ended.shape}, one an answer",
        )
        bad = np.argwhere(~np.isfinite(values))
        require(
            len(bad) == 0,
            "gold",
            f"not finite at prompt, answer {bad[:1].tolist()}",
            "a finite number an answer",
        )
        return values
