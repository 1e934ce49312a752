"""Reward models of your own: fitted on your preferences, scoring your text, saved with all they need.

`fit` trains an ensemble on a model of yours, `load` reads one back; both give `Judges`: a `RewardEnsemble`, which knows
ids alone, with the tokenizer and the chat template that its text is read by.

Letters: B answers, K members.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rmlab.backbone import device_of
from rmlab.backbone import load as load_backbone
from rmlab.dialogues import words
from rmlab.measure.baselines import bag_of_words
from rmlab.optimise.reward import member_scores
from rmlab.optimise.trl import RewardFunction
from rmlab.preferences import Preferences
from rmlab.recipe import Training, require
from rmlab.reward.ensemble import RewardEnsemble
from rmlab.reward.ensemble import load as load_ensemble
from rmlab.reward.folder import replaced
from rmlab.reward.methods import TrainingInputs, train_ensemble
from rmlab.reward.training import PairIds, raw_score_pairs
from rmlab.text import TextFormat, ensure_pad, load_tokenizer
from rmlab.tokens import SpecialTokens
from rmlab.workbench.report import ScoreReport
from rmlab.workbench.scores import Scores

ALIGN_ON = 2048  # pairs whose answers set the members' scale, at most


class Judges:
    """An ensemble that reads text.

    Parameters
    ----------
    ensemble : its members
    text : their tokenizer and template
    max_length : tokens of prompt and answer that they were trained on, at most; longer pairs are cut in a report
    """

    def __init__(self, ensemble: RewardEnsemble, text: TextFormat, max_length: int | None = None):
        same = text.special.eos == ensemble.special.eos and text.special.pad == ensemble.special.pad
        require(same, "special tokens of the tokenizer", text.special, f"the ensemble's, {ensemble.special}")
        self.ensemble, self.text, self.max_length = ensemble, text, max_length

    @property
    def members(self) -> int:
        """K."""
        return self.ensemble.members

    def score(self, prompts: Sequence, answers: Sequence) -> np.ndarray:
        """Aligned scores (B, K) float32 of an answer to each prompt, in standard deviations of the reference answers.

        Parameters
        ----------
        prompts : B strings, chats (lists of messages) or lists of ids
        answers : B strings, messages or lists of ids; text is read as a finished answer, its EOS put behind it, ids are
            taken as they are

        Raises
        ------
        ValueError
            Another number of answers, something empty, ids outside the vocabulary, ids on one side and text on the other.
        """
        require(
            len(prompts) == len(answers), "answers", len(answers), f"one for each of {len(prompts)} prompts"
        )
        return member_scores(self.ensemble, *self.ids(prompts, answers))

    def ids(self, prompts: Sequence, answers: Sequence) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and answers as the members read them, lists of ids; arguments and errors of `score`."""
        sides = [], []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            as_ids = [
                not isinstance(x, str) and len(x) > 0 and not isinstance(x[0], dict) for x in (prompt, answer)
            ]
            require(
                as_ids[0] == as_ids[1], f"row {i}", "ids beside text", "text on both sides, or ids on both"
            )
            if all(as_ids):
                pair = [list(map(int, prompt)), list(map(int, answer))]
            else:
                pair = [self.text.prompt_ids(prompt), self.text.answer_ids(prompt, answer)]
            for side, ids in zip(sides, pair, strict=True):
                side.append(ids)
        return sides

    def reward(
        self, aggregator: str = "min", strength: float | None = None, missing_eos_penalty: float = 0.0
    ) -> RewardFunction:
        """The members' aggregate as one object for `rmlab.ppo`, and for TRL's RLOO and GRPO (`reward_funcs`).

        For OpenRLHF's reward file give it to `rmlab.optimise.trl.openrlhf`. Parameters as in `RewardFunction`.
        """
        return RewardFunction(
            self.ensemble,
            aggregator,
            strength,
            self.text.tokenizer,
            missing_eos_penalty=missing_eos_penalty,
            chat_template_kwargs=self.text.chat_template_kwargs,
        )

    def report(self, test: Preferences, train: Preferences | None = None) -> ScoreReport:
        """How good the members and their aggregates are on pairs that they were not trained on; print it.

        Accuracy with its interval beside length alone and a bag of words, log loss, Brier score and calibration against
        the votes where there are votes, by length and by group; whether members err together; in words, whether the
        ensemble is separated from length.

        Parameters
        ----------
        test : held-out pairs, as `Preferences.split` gives them
        train : what the bag of words is trained on; the other half of `test`, by group, unless given

        Raises
        ------
        ValueError
            No pair that can be read.
        """
        ids = test.encode(self.text, self.max_length, on_bad="drop")
        require(
            len(ids) > 0, "test", f"{len(test)} pairs, none readable", "pairs that the tokenizer can read"
        )
        raw = raw_score_pairs(self.ensemble, ids)  # (M, 2, K)
        pairs = [test.pairs[i] for i in ids.kept]
        texts = [[words(side) for side in (pair.chosen, pair.rejected)] for pair in pairs]
        columns = {
            "pair": np.arange(len(pairs)).repeat(2),
            "answer": ["chosen", "rejected"] * len(pairs),
            "label": [x for p in pairs for x in ((1.0, 0.0) if p.soft is None else (p.soft, 1 - p.soft))],
            "text": [text for both in texts for text in both],
            "group": np.repeat(ids.groups, 2),
        }
        columns |= {f"member {k}": raw[..., k].reshape(-1) for k in range(self.members)}
        scores = Scores.read(pd.DataFrame(columns), prompt="pair", label="label", text="text", group="group")
        counts = [f"{len(ids)} of {len(test)} test pairs"]
        counts += [f"{sum(ids.cut)} cut to {self.max_length} tokens"] * any(ids.cut)
        counts += [f"{len(rows)} left out, {reason}" for reason, rows in ids.dropped.items()]
        baseline = _bag_of_words(test, ids.kept, train)
        return dataclasses.replace(scores, source="; ".join(counts), words=baseline).report()

    def align(self, prompts: Sequence, answers: Sequence) -> None:
        """Set each member's offset and scale anew: on these answers its scores have mean 0 and std 1."""
        raw = self.score(prompts, answers)
        if self.ensemble.aligned:
            raw = raw * self.ensemble.scale.cpu().numpy() + self.ensemble.centre.cpu().numpy()
        self.ensemble.align(raw)

    def subset(self, members: Sequence[int]) -> Judges:
        """The members of these numbers; weights are shared."""
        return Judges(self.ensemble.subset(members), self.text, self.max_length)

    def to(self, device: str | torch.device) -> Judges:
        """Move everything that scores; returns itself."""
        self.ensemble.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write weights, alignment, tokenizer and template: a folder that `load` and transformers or PEFT read.

        Raises a `ValueError`, and touches nothing, where the folder holds anything but a saved ensemble.
        """
        with replaced(folder) as new:
            self.ensemble.write(new)
            self.text.save(new)


def fit(
    backbone: str | Path | Sequence[str | Path],
    pairs: Preferences,
    method: str = "heads",
    *,
    lr: float = 1e-5,
    epochs: int = 1,
    batch: int = 32,
    max_length: int = 1024,
    seed: int = 0,
    micro_batch: int = 0,
    max_grad_norm: float = 0.0,
    checkpointing: bool = False,
    precision: str = "fp32",
    device: str = "auto",
    votes: bool = False,
    **options: object,
) -> Judges:
    """Train an ensemble of reward models on your preferences, and align it on them.

    Parameters
    ----------
    backbone : a causal language model's folder or its name on the hub; several for the method "pretrain"
    pairs : what to train on; keep others for `Judges.report`
    method, options : see `rmlab.METHODS` and `rmlab.reward.methods`: "heads", "finetune", "lora", ... with `k`
    lr, epochs, batch : of each member; one epoch, as more overfit (Ahmed et al. 2406.01013)
    max_length : tokens of prompt and answer; longer pairs are cut from the prompt's left end
    micro_batch, max_grad_norm, checkpointing : for large models, see `rmlab.Training`
    precision : "fp32", or "bf16" for the products, with float32 weights
    device : "auto", "cpu", "cuda" or "cuda:1"
    votes : train on the share of votes where the pairs have them (soft Bradley-Terry)

    Raises
    ------
    ValueError
        A folder that is no model or has no tokenizer, too few pairs, an unknown method or option, a training that
        runs off. A warning counts the pairs that were read with on_bad="drop" and cannot be encoded.
    """
    names = [backbone] if isinstance(backbone, str | Path) else list(backbone)
    require(len(names) > 0, "backbone", names, "at least one model")
    models = [load_backbone(name, device=device_of(device)) for name in names]
    tokenizer = load_tokenizer(names[0])
    vocabulary = tokenizer.get_vocab()
    for name in names[1:]:
        same = load_tokenizer(name).get_vocab() == vocabulary
        require(same, "backbone", str(name), f"backbones with the vocabulary of the first, {names[0]}")
    for model in models:
        ensure_pad(model, tokenizer)
    text = TextFormat(tokenizer, SpecialTokens.of(models[0], tokenizer))
    for model in models:  # a generation config and a tokenizer may name an EOS that the config does not
        model.config.get_text_config().eos_token_id = list(text.special.eos)
    max_length = min(max_length, _longest(models[0]))
    ids = pairs.encode(text, max_length, votes=votes)
    _say_dropped(ids, len(pairs))
    memory = {"micro_batch": micro_batch, "checkpointing": checkpointing}
    training = Training(epochs=epochs, batch=batch, lr=lr, max_grad_norm=max_grad_norm, **memory)
    inputs = TrainingInputs(models, ids, training, seed, precision=precision)
    ensemble = train_ensemble(method, inputs, **options)
    ensemble.align(raw_score_pairs(ensemble, _first(ids, ALIGN_ON)).reshape(-1, ensemble.members))
    return Judges(ensemble, text, max_length)


def load(folder: str | Path, device: str = "auto") -> Judges:
    """Judges that `save` wrote, or any reward model's folder with a tokenizer and a linear head.

    Raises
    ------
    ValueError
        No such folder, no tokenizer in it, weights that are missing, unexpected, cut or of another shape.
    """
    ensemble, tokenizer = load_ensemble(folder).to(device_of(device)), load_tokenizer(folder)
    eos = {*ensemble.special.eos, tokenizer.eos_token_id} - {None}
    ensemble.special = dataclasses.replace(ensemble.special, eos=tuple(eos))
    return Judges(ensemble, TextFormat(tokenizer, ensemble.special))


def _say_dropped(ids: PairIds, count: int) -> None:
    """Warn of pairs that are not trained on, under their reasons."""
    if ids.dropped:
        reasons = ", ".join(f"{reason} {len(rows)}" for reason, rows in ids.dropped.items())
        warnings.warn(f"trained on {len(ids)} of {count} pairs; left out: {reasons}", stacklevel=3)


def _longest(model: torch.nn.Module) -> int:
    """Tokens that a model's positions reach."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9


def _first(ids: PairIds, count: int) -> PairIds:
    return ids.take(range(min(count, len(ids))))


def _bag_of_words(test: Preferences, kept: Sequence[int], train: Preferences | None) -> np.ndarray | None:
    """Scores (2M,) of a bag of words for the kept pairs' answers, in turn; None without scikit-learn or a second group."""
    if importlib.util.find_spec("sklearn") is None:
        return None
    texts = [(words(pair.chosen), words(pair.rejected)) for pair in test.pairs]
    won = np.full(len(texts), 0.5)
    if train is not None:
        won = bag_of_words([(words(pair.chosen), words(pair.rejected)) for pair in train.pairs], texts)
    else:
        second = np.array(test.halves())
        if second.all() or not second.any():
            return None
        for half in (second, ~second):
            rest, here = ([texts[i] for i in np.flatnonzero(x)] for x in (~half, half))
            won[half] = bag_of_words(rest, here)
    won = won[list(kept)].clip(1e-9, 1 - 1e-9)
    return np.stack([np.log(won / (1 - won)), np.zeros(len(won))], 1).reshape(-1)
