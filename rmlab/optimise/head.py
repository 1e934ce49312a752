"""A policy's head: from hidden states to the log-probabilities that answers are drawn from, in one place.

A policy is a transformer that ends in one linear layer, whose logits its family may scale (Cohere, Granite) or cap
(Gemma 2). What is never sampled is banned, and the rest renormalised: in sampling, in training and in the reference
alike. A model that does more to its logits is refused: another distribution would be sampled, silently.

Letters: M tokens end to end, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from rmlab.recipe import require
from rmlab.tokens import SpecialTokens

# What families' configs call a number that their logits are multiplied by, divided by, or capped at.
TIMES = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon H1
OVER = ("logits_scaling",)  # Granite
CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2, RecurrentGemma
EXACT, ROUNDED = 1e-3, 3e-2  # of the largest logit: float32's rounding is 1e-6 of it, bfloat16's 4e-3


class Head:
    """The last layer of a policy, under the ban on what is never sampled.

    Parameters
    ----------
    model : a transformers causal language model; its weights are read where they are, so training is seen
    special : its special tokens; None reads them from the model

    `scale` is what the linear layer's logits are multiplied by, `cap` (None: none) what they are then capped at.

    Raises
    ------
    ValueError
        A model that is no causal language model, or whose head is not one linear layer; special ids that it
        does not embed.
    """

    def __init__(self, model: nn.Module, special: SpecialTokens | None = None):
        from transformers import PreTrainedModel

        ours = isinstance(model, PreTrainedModel) and model.can_generate()
        linear = model.get_output_embeddings() if ours and not model.config.is_encoder_decoder else None
        mend = (
            "a transformers causal language model that ends in one linear layer; merge_and_unload() adapters"
        )
        require(isinstance(linear, nn.Linear), "policy", type(model).__name__, mend)
        config = model.config.get_text_config()
        times, over, caps = (
            [x for x in (getattr(config, name, None) for name in names) if x] for names in (TIMES, OVER, CAPS)
        )
        self.scale, self.cap = math.prod(times) / math.prod(over), next(iter(caps), None)
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
        if self.linear.bias is not None:
            logits = logits + self.linear.bias.float()
        if self.scale != 1:
            logits = logits * self.scale
        return self.capped(logits)

    def capped(self, logits: torch.Tensor) -> torch.Tensor:
        """Scaled logits under the family's soft cap, if it has one."""
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

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

        The model's own are those before one more token, of another id: what comes later must not show.

        Raises
        ------
        ValueError
            They differ by more than rounding: the model does what its config does not name, sees ahead, or drops out.
        """
        ids = torch.tensor([list(prompt)], device=self.linear.weight.device)
        with torch.autocast(ids.device.type, enabled=False):
            longer = torch.cat([ids, (ids[:, -1:] + 1) % self.vocab_size], 1)
            own = self.model(input_ids=longer, use_cache=False).logits[0, -2].float()
            hidden = trunk(self.model)(input_ids=ids, use_cache=False).last_hidden_state[0, -1:]
            error = math.inf  # where a layer between the two changes the width
            if hidden.shape[-1] == self.linear.in_features:
                error = ((self.logits(hidden)[0] - own).abs().max() / own.abs().max().clamp_min(1)).item()
        most = EXACT if self.linear.weight.dtype == torch.float32 else ROUNDED
        mend = "a causal policy in eval mode whose logits are its linear layer's on its trunk's last hidden states"
        require(
            error <= most, "policy's logits", f"{error:.2g} of the largest away from its linear layer's", mend
        )


def trunk(model: nn.Module) -> nn.Module:
    """The transformer below a causal language model's head."""
    return getattr(model, model.base_model_prefix)
