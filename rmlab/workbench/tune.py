"""PPO on a policy of your own, against judges that may read another tokenizer's text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rmlab.backbone import device_of
from rmlab.backbone import load as load_backbone
from rmlab.optimise.lora import low_rank
from rmlab.optimise.ppo import train
from rmlab.optimise.trl import RewardFunction
from rmlab.recipe import Ppo, require
from rmlab.text import Chat, TextFormat, ensure_pad, load_tokenizer, read_answer, same_tokens
from rmlab.tokens import SpecialTokens

Ids = list[list[int]]


def ppo(
    policy: str | Path,
    prompts: Sequence[str | Chat],
    reward: RewardFunction | Callable[[list, list[str]], Sequence[float]],
    settings: Ppo | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    lora: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Optimise a policy by PPO against a reward, at a penalty for leaving where it starts.

    Parameters
    ----------
    policy : a causal language model's folder or its name on the hub; it is not changed
    prompts : strings or chats; each step draws from them with replacement
    reward : `Judges.reward(...)`, or a function of prompts and answers, text both, that gives a number an answer
    settings : see `rmlab.Ppo`; the defaults unless given
    out : a folder for the state (`run`), from which the same call goes on, and for the policy as it ends (`policy`)
    lora : rank of changes that are trained in the place of the weights, with a higher `lr`; 0: the weights. One copy
        of the policy then serves as policy and reference, on its own forward; what is written has them added
    on_step : called with the step when it is done

    Returns
    -------
    A row a step, see `rmlab.optimise.ppo.train`: reward, KL, entropy, length and what the update did.

    Raises
    ------
    ValueError
        No such model, a policy whose own logits the sampler does not give, a reward that is not finite, a folder of
        another run.
    """
    settings = Ppo() if settings is None else settings
    require(len(prompts) > 0, "prompts", 0, "at least one")
    model, tokenizer = load_backbone(policy, device=device_of(device)), load_tokenizer(policy)
    ensure_pad(model, tokenizer)
    text = TextFormat(tokenizer, SpecialTokens.of(model, tokenizer))
    rows = [text.prompt_ids(prompt) for prompt in prompts]
    by_ids = {tuple(ids): prompt for ids, prompt in zip(rows, prompts, strict=True)}

    def draw(rng: np.random.Generator, count: int) -> Ids:
        return [rows[i] for i in rng.integers(len(rows), size=count)]

    def scored(prompt_rows: Ids, answers: Ids) -> np.ndarray:
        originals = [by_ids[tuple(ids)] for ids in prompt_rows]
        return np.asarray(_rewards(reward, text, prompt_rows, originals, answers), np.float64)

    folder = None if out is None else Path(out) / "run"
    more = {"folder": folder, "on_step": on_step, "special": text.special}
    with low_rank(model, lora, seed):
        table = train(model, draw, scored, settings, seed, **more)
    if out is not None:
        model.save_pretrained(str(Path(out) / "policy"))
        text.save(Path(out) / "policy")
    return pd.DataFrame(table)


def _rewards(
    reward: Callable, text: TextFormat, prompt_rows: Ids, prompts: list[str | Chat], answers: Ids
) -> Sequence[float]:
    """A reward for sampled ids: as they are where the judges read the same tokens, else by text."""
    if not isinstance(reward, RewardFunction):
        return reward(prompts, [text.text(answer) for answer in answers])
    other = reward.text
    if other is None or same_tokens(text, other):
        return reward(prompt_rows, answers)
    ended = text.special.ended
    read = [
        read_answer(other, prompt, text.text(answer), bool(ended(np.array([answer]))[0]))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return reward([other.prompt_ids(prompt) for prompt in prompts], read)
