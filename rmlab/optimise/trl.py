"""A reward ensemble as one callable, for TRL's `RLOOTrainer` and `GRPOTrainer`, and for OpenRLHF's reward file.

TRL adds up several reward functions with weights: no minimum over members, no mean minus a spread. So members are
aggregated inside one function, which TRL's trainers take as it is::

    from transformers import AutoTokenizer
    from trl import RLOOConfig, RLOOTrainer
    from rmlab.optimise.trl import RewardFunction
    from rmlab.reward.model import RewardModel

    reward = RewardFunction(RewardModel.load("rewards"), "min", tokenizer=AutoTokenizer.from_pretrained("policy"), missing_eos=1.0)
    RLOOTrainer("policy", reward_funcs=reward, args=RLOOConfig("out", bf16=True), train_dataset=prompts).train()

What TRL (1.16) hands over, and what follows from it:

- `completions` is text decoded without special tokens: the EOS that reward models are trained to read is lost (and a
  PAD that was sampled with it). `completion_ids` has them, so those are scored, after the prompt tokenised as TRL does.
- A prompt is a string or a list of chat messages, never ids. What else decides its rendering (the config's
  `chat_template_kwargs`, the trainer's `tools`) is not handed over: give it here too, as `chat_template_kwargs`.
- A `None` or NaN is silently left out of the batch's advantages: here a NaN is an error.
- `beta > 0` reads the reference policy from the folder that the policy's config names, not from memory: save a policy
  and its tokenizer first, and give the trainer the folder.

For OpenRLHF the file named by `--reward.remote_url rewards.py` (in older versions `--remote_rm_url`) is::

    from transformers import AutoTokenizer
    from rmlab.optimise.trl import RewardFunction, openrlhf
    from rmlab.reward.model import RewardModel

    reward_func = openrlhf(RewardFunction(RewardModel.load("rewards"), "min", tokenizer=AutoTokenizer.from_pretrained("policy")))

Each vLLM engine loads the file for itself and scores answer by answer, from text, in threads; an error in it is only
logged, at level INFO, and the answer has no reward. Reward models must share the policy's vocabulary in both.
"""  # fmt: skip

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from rmlab.recipe import require
from rmlab.reward.aggregate import AGGREGATORS, aggregate
from rmlab.reward.model import Scorer
from rmlab.tokens import pad_right

Ids = Sequence[int]
# OpenRLHF calls from threads, and variants of one base may swap its weights to score.
TURNS = threading.Lock()


class Judged(NamedTuple):
    """What became of B answers, in the scorer's units: standard deviations of its reference set."""

    rewards: np.ndarray  # (B,) float32, aggregated, less the penalty on answers without EOS
    members: np.ndarray  # (B, K) float32, aligned
    ended: np.ndarray  # (B,) bool, the answer's last token is an EOS


class RewardFunction:
    """`(prompts, completions, completion_ids, ...) -> list[float]`: K members scored, aggregated, logged.

    Parameters
    ----------
    scorer : any rmlab scorer, on the device that it is to run on; its `forward` gives aligned scores
    how, lam : the aggregator and its strength, see `rmlab.reward.aggregate`; lam None for the usual one
    tokenizer : the policy's tokenizer (or processor), the one TRL uses; needed where prompts or answers are text
    batch : rows scored at a time
    missing_eos : taken off the reward of an answer that was cut before its EOS, in the scorer's units. With 0 such an
        answer is scored where it stops; TRL's `mask_truncated_completions=True` leaves it out of the loss instead
    name : TRL logs under it; two functions in one trainer need two names
    chat_template_kwargs : as in the trainer's config, and `tools` where it has some

    Raises
    ------
    ValueError : an unknown aggregator, lam out of range, a tokenizer of another vocabulary
    """

    def __init__(
        self, scorer: Scorer, how: str = "min", lam: float | None = None, tokenizer=None, batch: int = 64,
        missing_eos: float = 0.0, name: str = "ensemble", chat_template_kwargs: dict | None = None,
    ):  # fmt: skip
        usual = AGGREGATORS[how].lam if how in AGGREGATORS else None
        self.how, self.lam = how, (usual[2] if usual else 1.0) if lam is None else lam
        aggregate(np.zeros((1, scorer.members)), how, self.lam)  # refuses what it does not know
        require(batch >= 1, "batch", batch, "at least 1")
        require(0 <= missing_eos < float("inf"), "missing_eos", missing_eos, "a penalty of 0 or more")
        self.scorer, self.tokenizer, self.batch, self.missing_eos = scorer, tokenizer, batch, missing_eos
        self.__name__, self.chat_template_kwargs = name, dict(chat_template_kwargs or {})
        self.vocab, self.pads, self.ends = _vocabulary(scorer)
        self.eos = min(self.ends)
        if tokenizer is not None:
            words = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one inside
            require(len(words) <= self.vocab, "tokenizer", f"{len(words)} tokens", f"the scorer's: its model embeds {self.vocab}")  # fmt: skip
            self.eos = words.eos_token_id
            require(self.eos in self.ends, "tokenizer.eos_token_id", self.eos, f"the EOS that the scorer was trained with, {sorted(self.ends)}")  # fmt: skip

    def __call__(
        self, prompts: Sequence, completions: Sequence, completion_ids: Sequence[Ids] | None = None,
        log_metric: Callable[[str, float], None] | None = None, log_extra: Callable[[str, list], None] | None = None, **columns,
    ) -> list[float]:  # fmt: skip
        """One reward a completion; TRL calls it by keyword.

        Parameters
        ----------
        prompts : B strings, lists of chat messages, or lists of ids
        completions : B completions; read only where `completion_ids` is None, and then as finished answers: text
            gets an EOS, lists of ids are taken as they are
        completion_ids : B lists of ids as sampled, EOS included
        log_metric : called with NAME/mean (of all member scores), /std (over an answer's members, the mean), /cost
            (mean less aggregate), /min_share (of answers on which the member that is most often the lowest is: 1/K to
            1) and /ended (share with an EOS)
        log_extra : called with NAME/member_k and the K columns of member scores
        columns : anything else TRL passes, not read
        """
        got = {"completions": len(completions), "completion_ids": len(completions if completion_ids is None else completion_ids)}  # fmt: skip
        for what, count in got.items():
            require(count == len(prompts), what, f"{count} rows", f"one a prompt, {len(prompts)}")
        if not len(prompts):
            return []
        answers = self.answer_ids(completions) if completion_ids is None else completion_ids
        judged = self.judge(self.prompt_ids(prompts), answers)
        name, members = self.__name__, judged.members
        if log_metric is not None:
            cost = members.mean() - aggregate(members, self.how, self.lam).mean()
            lowest = np.bincount(members.argmin(1), minlength=members.shape[1])
            log_metric(f"{name}/mean", float(members.mean()))
            log_metric(f"{name}/std", float(members.std(1).mean()))
            log_metric(f"{name}/cost", float(cost))
            log_metric(f"{name}/min_share", float(lowest.max() / len(members)))
            log_metric(f"{name}/ended", float(judged.ended.mean()))
        if log_extra is not None:
            for k, column in enumerate(members.T):
                log_extra(f"{name}/member_{k}", column.tolist())
        return judged.rewards.tolist()

    def prompt_ids(self, prompts: Sequence) -> list[list[int]]:
        """Prompts as the ids that TRL's trainers sample from."""
        kind = _kind(prompts[0])
        if kind == "ids":
            return [list(map(int, p)) for p in prompts]
        self._need_tokenizer("prompts", kind)
        if kind == "messages":
            return self.tokenizer.apply_chat_template(
                conversation=list(prompts), add_generation_prompt=True, tokenize=True, return_dict=True, **self.chat_template_kwargs
            )["input_ids"]  # fmt: skip
        return self.tokenizer(text=list(prompts))["input_ids"]

    def answer_ids(self, completions: Sequence) -> list[list[int]]:
        """Completions without their sampled ids, as finished answers: text ends with EOS."""
        kind = _kind(completions[0])
        if kind == "ids":
            return [list(map(int, c)) for c in completions]
        self._need_tokenizer("completions", kind)
        if kind == "messages":
            longest = max(len(c) for c in completions)
            require(longest == 1, "completions", f"{longest} messages", "completion_ids, or one message each")
            completions = [c[0]["content"] for c in completions]
        rows = self.tokenizer(text=list(completions), add_special_tokens=False)["input_ids"]
        return [row if row and row[-1] in self.ends else [*row, self.eos] for row in rows]

    def judge(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Judged:
        """Score B answers given as ids. PAD at an answer's end is not part of it.

        Of an answer in which nothing is left, its bare end is scored, as one that was cut.
        """
        own, rows = [], []
        for prompt, answer in zip(prompts, answers, strict=True):
            own.append(self._real(answer))
            rows.append([*map(int, prompt), *(own[-1] or [self.eos])])
        ended = np.array([bool(a) and a[-1] in self.ends for a in own])
        strange = {t for row in rows for t in row if not 0 <= t < self.vocab}
        require(not strange, "token ids", sorted(strange)[:3], f"ids of the scorer's vocabulary, 0 to {self.vocab - 1}: the policy's tokenizer must be the scorer's")  # fmt: skip
        members = self.member_scores(rows)
        bad = ~np.isfinite(members)
        require(not bad.any(), f"scores of members {np.flatnonzero(bad.any(0)).tolist()}", f"not finite on {bad.any(1).sum()} of {len(rows)} completions", "a scorer whose weights and alignment are finite")  # fmt: skip
        rewards = aggregate(members, self.how, self.lam) - np.float32(self.missing_eos) * ~ended
        return Judged(rewards, members, ended)

    @torch.no_grad()
    def member_scores(self, rows: Sequence[Ids]) -> np.ndarray:
        """Aligned scores (B, K) of whole rows, prompt and answer; rows of like length together, in full precision."""
        place = self.scorer.centre.device
        out = np.empty((len(rows), self.scorer.members), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(rows), self.batch):
            some = order[start : start + self.batch]
            ids, mask = map(torch.from_numpy, pad_right([rows[i] for i in some], self.pads[0]))
            with TURNS, torch.autocast(place.type, enabled=False):  # a trainer's bf16 is not the reward's
                out[some] = self.scorer(ids.to(place), mask.to(place)).float().cpu().numpy()
        return out

    def _real(self, answer: Ids) -> list[int]:
        answer = list(map(int, answer))
        while answer and answer[-1] in self.pads:
            answer.pop()
        return answer

    def _need_tokenizer(self, what: str, kind: str) -> None:
        require(self.tokenizer is not None, "tokenizer", None, f"the policy's tokenizer: {what} are {kind}")


def openrlhf(function: RewardFunction) -> Callable:
    """The `reward_func(queries, prompts, labels)` of an OpenRLHF reward file (see above).

    OpenRLHF gives text: a query is the prompt and the answer decoded with their special tokens, so an EOS that was
    sampled is read again. Prompts are tokenised as OpenRLHF does, without added tokens. It returns tensors (B,):
    `rewards`; `scores`, the same, which dynamic filtering compares with its range (0 to 1 unless told); and
    `extra_logs` with each member's score, their std and whether the answer ended.
    """

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels=None, **_) -> dict:
        require(
            len(queries) == len(prompts), "queries", f"{len(queries)} rows", f"one a prompt, {len(prompts)}"
        )
        function._need_tokenizer("queries", "text")
        rows = [], []
        for query, prompt in zip(queries, prompts, strict=True):
            # apart, as they were sampled; in one piece where the prompt was cut or does not decode to itself
            at = len(prompt) if query.startswith(prompt) else 0
            for part, text in zip(rows, (query[:at], query[at:]), strict=True):
                part.append(function.tokenizer(text=text, add_special_tokens=False)["input_ids"])
        judged = function.judge(*rows)
        rewards, members = torch.from_numpy(judged.rewards), torch.from_numpy(judged.members)
        logs = {f"member_{k}": members[:, k] for k in range(members.shape[1])}
        logs |= {"std": members.std(1, correction=0), "ended": torch.from_numpy(judged.ended).float()}
        logs = {f"{function.__name__}/{key}": value for key, value in logs.items()}
        return {"rewards": rewards, "scores": rewards.clone(), "extra_logs": logs}

    return reward_func


def _kind(value) -> str:
    if isinstance(value, str):
        return "text"
    return "messages" if len(value) and isinstance(value[0], dict) else "ids"


def _vocabulary(scorer: Scorer) -> tuple[int, list[int], set[int]]:
    """How many tokens the scorer's models embed, the ids that are PAD, the ids that end an answer."""
    models = [m for m in scorer.modules() if hasattr(m, "get_input_embeddings")]
    require(len(models) > 0, "scorer", type(scorer).__name__, "one whose members are transformers")
    configs = [m.config.get_text_config() for m in models]
    ends = [c.eos_token_id for c in configs]
    ends = [frozenset(e if isinstance(e, list) else [e]) - {None} for e in ends]
    require(len(set(ends)) == 1 and ends[0], "scorer's eos_token_id", [sorted(e) for e in set(ends)], "models with one and the same")  # fmt: skip
    pads = sorted({c.pad_token_id for c in configs} - ends[0])
    require(len(pads) > 0, "scorer's pad_token_id", sorted(ends[0]), "a PAD that is no EOS")
    return min(m.get_input_embeddings().num_embeddings for m in models), pads, set(ends[0])
