"""What a step of the workbench takes on a model of N parameters: bytes and seconds from a formula, before anything is loaded.

The formulas count what cannot be avoided: weights, gradients and Adam's moments in float32, two operations a parameter and
token forward, four backward, and, where a policy samples, reading its weights once a token. Activations, attention over long
texts, batches that do not fill the machine and loading come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from rmlab.recipe import require


@dataclass(frozen=True)
class Work:
    """How much there is to do, and the machine: what the estimates assume."""

    members: int = 5  # K
    pairs: int = 20_000
    prompt_tokens: int = 200
    answer_tokens: int = 200
    pool_prompts: int = 100
    pool_answers: int = 256  # to each prompt
    ppo_steps: int = 200
    ppo_batch: int = 64  # answers a step
    ppo_epochs: int = 2
    operations: float = 2e14  # a second, that an accelerator keeps up
    bandwidth: float = 2e12  # bytes of its memory a second
    together: int = 512  # answers that grow at once

    @property
    def pair_tokens(self) -> int:
        """Tokens of a pair, its prompt read once."""
        return self.prompt_tokens + 2 * self.answer_tokens

    @property
    def pool_tokens(self) -> int:
        """Tokens of a pool's answers, the prompts beside them."""
        return self.pool_prompts * (self.prompt_tokens + self.pool_answers * self.answer_tokens)

    @property
    def ppo_tokens(self) -> int:
        """Tokens of all of PPO's prompts and answers."""
        return self.ppo_steps * self.ppo_batch * (self.prompt_tokens + self.answer_tokens)


def costs(parameters: float, work: Work | None = None) -> pd.DataFrame:
    """Memory and time of each step at one size; policy, judges and gold are of that size.

    Parameters
    ----------
    parameters : N, of a model
    work : the usual one unless given

    Returns
    -------
    A row a step: `step`; `memory`, bytes; `bytes_per_parameter` and `operations`, their formulas as text; `seconds`.

    Raises
    ------
    ValueError : a size that is not positive
    """
    require(parameters > 0, "parameters", parameters, "a number above 0")
    work = Work() if work is None else work
    k, train = work.members, 6 * work.pairs * work.pair_tokens
    score, ppo = 2 * work.pool_tokens, work.ppo_tokens
    grown = work.answer_tokens * -(-work.pool_prompts * work.pool_answers // work.together)
    rounds = work.answer_tokens * work.ppo_steps
    optimised = (4 + 6 * work.ppo_epochs) * ppo  # sample, reference, update
    table = [  # step, its formulas, bytes and operations a parameter, readings of the weights
        ("fit, K heads", "16", "6 D", 16, train, 0),
        ("fit, K adapters (LoRA)", "12", "6 D K", 12, k * train, 0),
        ("fit, K models", "16 + 4 (K - 1)", "6 D K", 16 + 4 * (k - 1), k * train, 0),
        ("sample a pool", "4", "2 A", 4, score, grown),
        ("score it, K heads", "4", "2 A", 4, score, 0),
        ("score it, K adapters", "8", "2 A K", 8, k * score, 0),
        ("score it, K models", "4 K", "2 A K", 4 * k, k * score, 0),
        ("PPO, K heads judge", "24", "(6 + 6 E) R", 24, optimised + 2 * ppo, rounds),
        ("PPO, K models judge", "20 + 4 K", "(4 + 6 E + 2 K) R", 20 + 4 * k, optimised + 2 * k * ppo, rounds),
    ]
    rows = []
    for step, memory, operations, held, counted, readings in table:
        reads = 4 * readings * parameters / work.bandwidth
        seconds = counted * parameters / work.operations + reads
        row = {"step": step, "bytes_per_parameter": memory, "operations": operations}
        rows.append(row | {"memory": held * parameters, "seconds": seconds})
    return pd.DataFrame(rows)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3.5 h, 2.1 days."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
