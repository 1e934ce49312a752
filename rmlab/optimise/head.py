"""A policy's head: from hidden states to the log-probabilities that answers are drawn from, in one place.

A policy is a transformer that ends in one linear layer. What is never sampled is banned, and the rest
renormalised: in sampling, in training and in the reference alike. A model that does more to its logits than
its linear layer does (soft caps, scales) is refused: another distribution would be sampled, silently.

Letters: M tokens end to end, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from rmlab.recipe import require
from rmlab.tokens import SpecialTokens

# What families call a number that they apply to their logits: Gemma 2, RecurrentGemma, Cohere, Granite, Falcon.
RESCALED = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
)
EXACT, ROUNDED = 1e-3, 3e-2  # of the largest logit: float32's rounding is 1e-6 of it, bfloat16's 4e-3


class Head:
    """The last layer of a policy, under the ban on what is never sampled.

    Parameters
    ----------
    model : a transformers causal language model; its weights are read where they are, so training is seen
    special : its special tokens; None reads them from the model

    Raises
    ------
    ValueError
        A model whose head is not one linear layer, or whose config rescales the logits; special ids that it
        does not embed.
    """

    def __init__(self, model: nn.Module, special: SpecialTokens | None = None):
        from transformers import PreTrainedModel

        linear = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        mend = (
            "a transformers causal language model that ends in one linear layer; merge_and_unload() adapters"
        )
        require(isinstance(linear, nn.Linear), "policy", type(model).__name__, mend)
        config = model.config.get_text_config()
        for name in RESCALED:
            value = getattr(config, name, None)
            require(
                value in (None, 1),
                f"policy's config.{name}",
                value,
                "a policy whose logits are its linear layer's",
            )
        self.model, self.linear, self.special = model, linear, special or SpecialTokens.of(model)
        self.vocab_size = linear.weight.shape[0]
        highest = max(*self.special.eos, *self.special.never_sampled)
        mend = f"special tokens below {self.vocab_size}, all that the policy embeds: resize its embeddings"
        require(highest < self.vocab_size, "special tokens", highest, mend)

    def log_probs(self, hidden: torch.Tensor, answers: Iterable[Sequence[int]]) -> torch.Tensor:
        """Log-probabilities (M,) of the answers' tokens, one after another, from the hidden states before them.

        hidden : (M, D); gradients flow
        """
        return self.pick(self.logits(hidden), answers)

    def pick(self, logits: torch.Tensor, answers: Iterable[Sequence[int]]) -> torch.Tensor:
        """The same from float32 logits (M, V) without the ban, which are used up."""
        logits[:, list(self.special.never_sampled)] = -torch.inf
        tokens = torch.tensor([t for answer in answers for t in answer], device=logits.device)
        return -F.cross_entropy(logits, tokens, reduction="none")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (M, D) -> float32 logits (M, V), without the ban; gradients flow."""
        logits = hidden.float() @ self.linear.weight.float().T
        return logits if self.linear.bias is None else logits + self.linear.bias.float()

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The prompts as lists; a `ValueError` names what is empty or no id of the policy's."""
        prompts = [[int(t) for t in prompt] for prompt in prompts]
        empty = [i for i, prompt in enumerate(prompts) if not prompt]
        state = f"{len(prompts)} lists, empty: {empty}"
        require(len(prompts) > 0 and not empty, "prompts", state, "lists of ids, none empty")
        strange = sorted({t for prompt in prompts for t in prompt if not 0 <= t < self.vocab_size})
        require(
            not strange,
            "prompts' ids",
            strange[:3],
            f"ids from 0 to {self.vocab_size - 1}, the policy's vocabulary",
        )
        return prompts

    @torch.no_grad()
    def check_model(self, prompt: Sequence[int]) -> None:
        """Hold the head on the trunk's hidden state against the model's own logits, after one prompt (T,).

        Raises
        ------
        ValueError
            They differ by more than rounding: the model does what its config does not name, or drops out.
        """
        ids = torch.tensor([list(prompt)], device=self.linear.weight.device)
        with torch.autocast(ids.device.type, enabled=False):
            own = self.model(input_ids=ids, use_cache=False).logits[0, -1].float()
            hidden = trunk(self.model)(input_ids=ids, use_cache=False).last_hidden_state[0, -1:]
            ours = self.logits(hidden)[0]
        error = ((ours - own).abs().max() / own.abs().max().clamp_min(1)).item()
        most = EXACT if self.linear.weight.dtype == torch.float32 else ROUNDED
        mend = "a policy in eval mode whose logits are its linear layer's on its trunk's last hidden states"
        require(
            error <= most, "policy's logits", f"{error:.2g} of the largest away from its linear layer's", mend
        )


def trunk(model: nn.Module) -> nn.Module:
    """The transformer below a causal language model's head."""
    return getattr(model, model.base_model_prefix)
