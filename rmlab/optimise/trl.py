"""A reward ensemble as one callable, for TRL's `RLOOTrainer` and `GRPOTrainer` and OpenRLHF's reward file.

TRL adds up several reward functions with weights: no minimum over members, no mean minus a spread. So members
are aggregated inside one function, which TRL's trainers take as it is::

    from transformers import AutoTokenizer
    from trl import RLOOConfig, RLOOTrainer
    from rmlab.optimise.trl import RewardFunction
    from rmlab.reward.ensemble import load

    tokenizer = AutoTokenizer.from_pretrained("policy")
    reward = RewardFunction(load("rewards"), "min", tokenizer=tokenizer, missing_eos_penalty=1.0)
    args = RLOOConfig("out", bf16=True)
    RLOOTrainer("policy", reward_funcs=reward, args=args, train_dataset=prompts).train()

What TRL (1.16) hands over, and what follows from it:

- `completions` is text decoded without special tokens: the EOS that reward models are trained to read is lost
  (and a PAD that was sampled with it). `completion_ids` has them, so those are scored, after the prompt as
  `rmlab.text.TextFormat` reads it: in training, in scoring and here alike, and TRL samples from the same ids.
- A prompt is a string or a list of chat messages, never ids. What else decides its rendering (the config's
  `chat_template_kwargs`, the trainer's `tools`) is not handed over: give it here, as `chat_template_kwargs`.
- A `None` or NaN is silently left out of the batch's advantages: here a NaN is an error.
- `beta > 0` reads the reference policy from the folder that the policy's config names, not from memory: save
  a policy and its tokenizer first, and give the trainer the folder.

For OpenRLHF the file named by `--reward.remote_url rewards.py` (in older versions `--remote_rm_url`) is::

    from transformers import AutoTokenizer
    from rmlab.optimise.trl import RewardFunction, openrlhf
    from rmlab.reward.ensemble import load

    tokenizer = AutoTokenizer.from_pretrained("policy")
    reward_func = openrlhf(RewardFunction(load("rewards"), "min", tokenizer=tokenizer))

Each vLLM engine loads the file for itself and scores answer by answer, from text, in threads; an error in it
is only logged, at level INFO, and the answer has no reward. In both, reward models must share the policy's
vocabulary.

Letters: B completions, K members.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import dropwhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from rmlab.optimise.reward import check_aggregator, check_ids, vocabulary_size
from rmlab.recipe import require
from rmlab.reward.aggregate import aggregate
from rmlab.reward.ensemble import RewardEnsemble
from rmlab.text import TextFormat
from rmlab.tokens import pad_right

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = Sequence[int]
# OpenRLHF calls from threads, and variants of one base may swap its weights to score.
TURNS = threading.Lock()


class Judged(NamedTuple):
    """What became of B answers, in the ensemble's aligned unit: standard deviations of its reference set."""

    rewards: np.ndarray  # (B,) float32, aggregated, less the penalty on answers without EOS
    members: np.ndarray  # (B, K) float32, aligned
    ended: np.ndarray  # (B,) bool, the answer's last token is an EOS


class RewardFunction:
    """`(prompts, completions, completion_ids, ...) -> list[float]`: K members scored, aggregated, logged.

    Parameters
    ----------
    ensemble : any rmlab ensemble, on the device that it is to run on
    aggregator, strength : see `rmlab.reward.aggregate`; strength None for the usual one
    tokenizer : the policy's tokenizer (or processor), the one TRL uses; needed where something is text
    batch : rows scored at a time
    missing_eos_penalty : taken off the reward of an answer that was cut before its EOS, in the aligned unit.
        With 0 such an answer is scored where it stops; TRL's `mask_truncated_completions=True` leaves it out
        of the loss instead
    name : TRL logs under it; two functions in one trainer need two names
    chat_template_kwargs : as in the trainer's config, and `tools` where it has some

    Raises
    ------
    ValueError
        An unknown aggregator, a strength out of range, an ensemble that was never aligned under any
        aggregator but the mean, a tokenizer of another vocabulary, a processor with a template of its own.
    """

    def __init__(
        self,
        ensemble: RewardEnsemble,
        aggregator: str = "min",
        strength: float | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch: int = 64,
        missing_eos_penalty: float = 0.0,
        name: str = "ensemble",
        chat_template_kwargs: dict | None = None,
    ):
        self.aggregator, self.strength = aggregator, check_aggregator(ensemble, aggregator, strength)
        require(batch >= 1, "batch", batch, "at least 1")
        fine = 0 <= missing_eos_penalty < float("inf")
        require(fine, "missing_eos_penalty", missing_eos_penalty, "a penalty of 0 or more")
        self.ensemble, self.batch, self.missing_eos_penalty = ensemble, batch, missing_eos_penalty
        self.__name__ = name
        self.vocabulary, self.special = vocabulary_size(ensemble), ensemble.special
        self.text, self.eos = None, self.special.eos[0]
        if tokenizer is not None:
            words = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one inside
            mend = f"the ensemble's: its models embed {self.vocabulary}"
            require(len(words) <= self.vocabulary, "tokenizer", f"{len(words)} tokens", mend)
            template = getattr(tokenizer, "chat_template", None)
            same = template in (None, getattr(words, "chat_template", None))
            require(
                same, "chat_template of the processor", template, "its tokenizer's, or give the tokenizer"
            )
            self.text = TextFormat(words, self.special, chat_template_kwargs)
            self.eos = self.text.eos

    def __call__(
        self,
        prompts: Sequence,
        completions: Sequence,
        completion_ids: Sequence[Ids] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        **columns: object,
    ) -> list[float]:
        """One reward a completion; TRL calls it by keyword.

        Parameters
        ----------
        prompts : B strings, lists of chat messages, or lists of ids
        completions : B completions; read only where `completion_ids` is None, and then as finished answers:
            text gets an EOS, lists of ids are taken as they are
        completion_ids : B lists of ids as sampled, EOS included
        log_metric : called with NAME/mean (of all member scores), /std (over an answer's members, the mean),
            /cost (mean less aggregate), /min_share (of answers on which the member that is most often the
            lowest is: 1/K to 1) and /ended (share with an EOS)
        log_extra : called with NAME/member_k and the K columns of member scores
        columns : anything else TRL passes, not read
        """
        counts = {"completions": completions, "completion_ids": completion_ids}
        for name, rows in counts.items():
            right = rows is None or len(rows) == len(prompts)
            require(right, name, f"{len(rows or ())} rows", f"one a prompt, {len(prompts)}")
        if not len(prompts):
            return []
        answers = self.answer_ids(prompts, completions) if completion_ids is None else completion_ids
        judged = self.judge(self.prompt_ids(prompts), answers)
        if log_metric is not None:
            self._log(judged, log_metric)
        if log_extra is not None:
            for k, column in enumerate(judged.members.T):
                log_extra(f"{self.__name__}/member_{k}", column.tolist())
        return judged.rewards.tolist()

    def _log(self, judged: Judged, log_metric: Callable[[str, float], None]) -> None:
        members = judged.members
        lowest = np.bincount(members.argmin(1), minlength=members.shape[1])
        metrics = {
            "mean": members.mean(),
            "std": members.std(1).mean(),
            "cost": members.mean() - aggregate(members, self.aggregator, self.strength).mean(),
            "min_share": lowest.max() / len(members),
            "ended": judged.ended.mean(),
        }
        for name, value in metrics.items():
            log_metric(f"{self.__name__}/{name}", float(value))

    def prompt_ids(self, prompts: Sequence) -> list[list[int]]:
        """Prompts as the ids that TRL's trainers sample from, by `TextFormat.prompt_ids`."""
        kind = _kind(prompts[0])
        if kind == "ids":
            return [list(map(int, p)) for p in prompts]
        return [self._format("prompts", kind).prompt_ids(p) for p in prompts]

    def answer_ids(self, prompts: Sequence, completions: Sequence) -> list[list[int]]:
        """Completions without their sampled ids, as finished answers by `TextFormat.answer_ids`: text ends with EOS."""
        kind = _kind(completions[0])
        if kind == "ids":
            return [list(map(int, c)) for c in completions]
        text = self._format("completions", kind)
        if kind == "messages":
            odd = [c for c in completions if len(c) != 1 or not isinstance(c[0].get("content"), str)]
            mend = "completion_ids, or one message of plain text each"
            require(not odd, "completions", f"{odd[0] if odd else ''}", mend)
        if _kind(prompts[0]) == "ids":
            prompts = [""] * len(prompts)  # what stands behind ids is text as it is
        return [text.answer_ids(p, c) for p, c in zip(prompts, completions, strict=True)]

    def judge(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Judged:
        """Score B answers given as ids. PAD at an answer's end is not part of it.

        Of an answer in which nothing is left, its bare end is scored, as one that was cut.
        """
        answers = [self._without_pad(answer) for answer in answers]
        rows = [[*map(int, p), *(a or [self.eos])] for p, a in zip(prompts, answers, strict=True)]
        ended = np.array([bool(a) and a[-1] in self.special.eos for a in answers])
        check_ids("prompts and answers", rows, self.vocabulary)
        members = self.member_scores(rows)
        bad = ~np.isfinite(members)
        name = f"scores of members {np.flatnonzero(bad.any(0)).tolist()}"
        count = f"not finite on {bad.any(1).sum()} of {len(rows)} completions"
        require(not bad.any(), name, count, "an ensemble whose weights and alignment are finite")
        rewards = aggregate(members, self.aggregator, self.strength)
        return Judged(rewards - np.float32(self.missing_eos_penalty) * ~ended, members, ended)

    @torch.no_grad()
    def member_scores(self, rows: Sequence[Ids]) -> np.ndarray:
        """Aligned scores (B, K) of whole rows, prompt and answer; rows of like length together, in float32."""
        device = self.ensemble.centre.device
        out = np.empty((len(rows), self.ensemble.members), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(rows), self.batch):
            chunk = order[start : start + self.batch]
            ids, mask = map(torch.from_numpy, pad_right([rows[i] for i in chunk], self.special.pad))
            with TURNS, torch.autocast(device.type, enabled=False):  # a trainer's bf16 is not the reward's
                scores = self.ensemble(ids.to(device), mask.to(device))
            out[chunk] = scores.float().cpu().numpy()
        return out

    def _without_pad(self, answer: Ids) -> list[int]:
        answer = list(map(int, answer))
        while answer and answer[-1] == self.special.pad:
            answer.pop()
        return answer

    def _format(self, side: str, kind: str) -> TextFormat:
        require(self.text is not None, "tokenizer", None, f"the policy's tokenizer: {side} are {kind}")
        return self.text


def openrlhf(function: RewardFunction) -> Callable:
    """The `reward_func(queries, prompts, labels)` of an OpenRLHF reward file (see above).

    OpenRLHF gives text: a query is the prompt and the answer decoded with their special tokens, so an EOS
    that was sampled is read again. Prompts are tokenised as OpenRLHF does, without added tokens. It returns
    tensors (B,): `rewards`; `scores`, the same, which dynamic filtering compares with its range (0 to 1
    unless told); and `extra_logs` with each member's score, their std and whether the answer ended.
    """

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence | None = None, **_: object
    ) -> dict:
        right = len(queries) == len(prompts)
        require(right, "queries", f"{len(queries)} rows", f"one a prompt, {len(prompts)}")
        text, rows = function._format("queries", "text"), ([], [])
        for query, prompt in zip(queries, prompts, strict=True):
            # apart, as they were sampled; in one piece where the prompt was cut or does not decode to itself
            at = len(prompt) if query.startswith(prompt) else 0
            parts = [text.ids(query[:at]), text.ids(query[at:])]
            if not at:  # older versions pad queries on the left
                parts[1] = list(dropwhile(lambda token: token == function.special.pad, parts[1]))
            for side, ids in zip(rows, parts, strict=True):
                side.append(ids)
        judged = function.judge(*rows)
        rewards, members = torch.from_numpy(judged.rewards), torch.from_numpy(judged.members)
        logs = {f"member_{k}": members[:, k] for k in range(members.shape[1])}
        logs |= {"std": members.std(1, correction=0), "ended": torch.from_numpy(judged.ended).float()}
        logs = {f"{function.__name__}/{key}": value for key, value in logs.items()}
        return {"rewards": rewards, "scores": rewards.clone(), "extra_logs": logs}

    return reward_func


def _kind(value: str | Sequence) -> str:
    if isinstance(value, str):
        return "text"
    return "messages" if len(value) and isinstance(value[0], dict) else "ids"
