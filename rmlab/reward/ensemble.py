"""Stands in until `RewardEnsemble` is here: the names that `rmlab.optimise` reads, on today's `Scorer`."""

from rmlab.recipe import require
from rmlab.reward import methods
from rmlab.reward.methods import load
from rmlab.reward.model import Scorer as RewardEnsemble
from rmlab.reward.model import Union
from rmlab.tokens import SpecialTokens

__all__ = ["RewardEnsemble", "Union", "load", "require_scores"]
methods.TrainingInputs, methods.train_ensemble = methods.Ingredients, methods.build
RewardEnsemble.align_raw = lambda self, raw: (raw - self.centre) / self.scale
RewardEnsemble.prompt_scorer = lambda self, prompt, max_new_tokens: self.reader(prompt, max_new_tokens)
RewardEnsemble.aligned = property(lambda self: bool((self.centre != 0).any() or (self.scale != 1).any()))


class _Special:
    def __get__(self, ensemble, kind):
        return SpecialTokens.of(next(m for m in ensemble.modules() if hasattr(m, "get_input_embeddings")))


RewardEnsemble.special = _Special()


def require_scores(raw, *shape):
    require(
        tuple(raw.shape) == shape,
        "shape of the scores",
        tuple(raw.shape),
        f"{shape}: a row an answer, a column a member",
    )
    return raw
