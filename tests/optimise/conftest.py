"""What the optimisers' tests share: a source of eight words that counts, and policies of other vocabularies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from rmlab.sources.base import Prompt, Source
from rmlab.tokens import SpecialTokens

WORDS = ("<pad>", "<bos>", "<eos>", "<sep>", "<unk>", "five", "six", "seven")


@dataclass(frozen=True)
class Counting(Source):
    """Prompts of one or two words; gold is twice the fives less the tokens; a term is called as a column of PPO's is."""

    explained: bool = True
    special = SpecialTokens(0, (2,), (0, 1, 3, 4))
    vocab_size, max_new_tokens = len(WORDS), 5

    def prompts(self, count, rng):
        rows = [(1, *rng.integers(5, 8, rng.integers(1, 3)).tolist(), 3) for _ in range(count)]
        return [Prompt(self.text(row), row) for row in rows]

    def gold(self, prompts, answers):
        assert len(prompts) == len(answers)
        return self._counts(answers) @ np.array([2.0, -1.0]) + np.array([len(p.ids) for p in prompts])

    def gold_terms(self, prompts, answers):
        return self._counts(answers).astype(np.uint8) if self.explained else None

    @property
    def bill(self):
        return [
            {"name": n, "label": n, "values": [0.0], "slope": s}
            for n, s in (("fives", 2.0), ("length", -1.0))
        ]

    def text(self, ids):
        return " ".join(WORDS[t] for t in ids if t > 4)

    def _counts(self, answers):
        return np.stack([(answers == 5).sum(1), (answers != 0).sum(1)], 1).astype(float)


class Goldless(Counting):
    """The same without gold."""

    def gold(self, prompts, answers):
        return None


@pytest.fixture(scope="session")
def counting():
    return Counting()


@pytest.fixture(scope="session")
def goldless():
    return Goldless()


@pytest.fixture(scope="session")
def tiny_policy():
    """A function (vocab_size, seed, width) -> an untrained Llama of one layer over the sandbox's special ids."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(vocab_size=8, seed=1, width=16):
        size = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(
                LlamaConfig(vocab_size=vocab_size, max_position_embeddings=128, **size, **heads, **ids)
            ).eval()
            for name, weight in model.named_parameters():
                if weight.ndim == 2:
                    torch.nn.init.normal_(weight, 0.0, 0.08 if "embed" in name else width**-0.5)
        model.generation_config.suppress_tokens = [0, 1, 3, 4]
        return model

    return build


VOCABULARIES = {
    "eos 119 of 120": SpecialTokens(0, (119,), (3,)),
    "several eos": SpecialTokens(7, (2, 50, 119)),
    "pythia: eos 0, pad elsewhere": SpecialTokens(1, (0,)),
    "gemma: eos 1": SpecialTokens(0, (1,), (2,)),
}


@pytest.fixture(scope="session", params=VOCABULARIES)
def vocabulary(request):
    """The special tokens of another vocabulary, and a Llama of 120 tokens that has them in its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    special = VOCABULARIES[request.param]
    eos = list(special.eos) if len(special.eos) > 1 else special.eos[0]
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": special.pad, "eos_token_id": eos, "bos_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=120, **size, **ids)).eval()
        for weight in model.parameters():
            weight.data += 0.2 * torch.randn_like(weight)
    model.generation_config.suppress_tokens = list(special.never_sampled)
    assert SpecialTokens.of(model) == special
    return special, model
