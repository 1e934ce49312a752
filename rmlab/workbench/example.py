"""An example to try the workbench on: a shop's help desk, its preference file and tiny models, made in seconds.

The texts are made up: requests about 48 goods, answers assembled from sentences, annotators whose votes follow what helps
the customer and, a little, how much was written. The models are as real ones are: Llama with grouped keys, a byte-level
tokenizer that was trained on the texts, an EOS that is not number 2, a chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rmlab.backbone import fit_language_model
from rmlab.preferences import Preferences
from rmlab.recipe import require, stream, stream_seed
from rmlab.text import Chat, TextFormat
from rmlab.tokens import SpecialTokens, pad_right
from rmlab.workbench.judges import fit

GOODS = """kettle bicycle lamp rucksack tent jacket printer keyboard monitor headphones blender toaster mattress armchair
bookshelf curtain rug mirror clock watch camera tripod suitcase umbrella drill ladder hammock parasol grill freezer dryer
cooker scooter helmet pushchair cot guitar violin piano easel microscope telescope globe chessboard skateboard kayak paddle
wetsuit""".split()
TROUBLES = {  # trouble: how customers put it, and what helps
    "late": (
        ("My {} has not come yet.", "Where is my {}? I ordered it two weeks ago."),
        "I have asked the carrier where your {} is.",
    ),
    "broken": (
        ("The {} arrived broken.", "My {} stopped working after a day."),
        "We will send you a new {} free of charge.",
    ),
    "wrong": (
        ("You sent me the wrong {}.", "This is not the {} I ordered."),
        "Please send this {} back with the label that I attach.",
    ),
    "refund": (
        ("I want my money back for the {}.", "I sent the {} back. When do I get my money?"),
        "Your money for the {} is on its way.",
    ),
    "invoice": (
        ("I need an invoice for the {}.", "Can you send the bill for my {} again?"),
        "The invoice for the {} is attached.",
    ),
    "parts": (
        ("Can I buy a spare part for my {}?", "One screw of the {} is missing."),
        "The part for your {} leaves our store today.",
    ),
}
WHEN = ("You will hear from me by Friday.", "It takes three days.", "Please allow until Monday.")
SORRY = ("I am sorry about that.", "Sorry for the trouble.")
FILLER = (
    "Thank you so much for writing to our wonderful team.",
    "We value every customer very highly.",
    "Your happiness is what we get up for every morning.",
    "Please do not hesitate to contact us at any time.",
    "Have a look at our great offers this week!",
)
WORTH = {"helps": 1.5, "misses": -1.5, "when": 0.6, "sorry": 0.3, "filler": -0.4}  # to the customer
KEENNESS, LENGTH = 1.2, 0.06  # of a vote: for a unit of worth, and for a word more
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]


def make(folder: str | Path, pairs: int = 1200, steps: int = 300, seed: int = 0) -> pd.DataFrame:
    """Write `my-pairs.parquet` and the models `my-backbone`, `my-policy` and `my-gold-rm`; about 20 seconds on a core.

    The backbone has read the file's answers, the policy has gone on with those that were preferred, and gold, with a
    tokenizer of its own, has learnt from many comparisons by what is worth something to the customer, length aside.

    Parameters
    ----------
    folder : is created; files of these names in it are replaced
    pairs : rows of the preference file, at least 100
    steps : of the backbone's language modelling; the policy takes a fifth more

    Returns
    -------
    The preference file's rows.
    """
    require(pairs >= 100, "pairs", pairs, "at least 100")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = preferences(pairs, seed)
    rows.to_parquet(folder / "my-pairs.parquet")
    every = [(p, a) for side in ("chosen", "rejected") for p, a in zip(rows.prompt, rows[side], strict=True)]
    better = every[: len(rows)]
    model, text = _language_model(every, vocabulary=600, hidden=64, seed=stream_seed(seed, "backbone"))
    _study(model, text, every, steps=steps, lr=4e-3, seed=stream_seed(seed, "reading"))
    _save(model, text, folder / "my-backbone")
    _study(model, text, better, steps=max(1, steps // 5), lr=1e-3, seed=stream_seed(seed, "tuning"))
    _save(model, text, folder / "my-policy")
    careful = preferences(3 * pairs, stream_seed(seed, "careful"), biased=False)
    read = [(p, a) for p, a in zip(careful.prompt, careful.chosen, strict=True)]
    model, text = _language_model(read, vocabulary=500, hidden=64, seed=stream_seed(seed, "gold"))
    _study(model, text, read, steps=steps, lr=4e-3, seed=stream_seed(seed, "gold reading"))
    _save(model, text, folder / "gold-backbone")
    known = Preferences.read(careful, group="topic")
    gold = fit(folder / "gold-backbone", known, "heads", k=1, lr=2e-3, batch=8, seed=seed, device="cpu")
    gold.save(folder / "my-gold-rm")
    return rows


def preferences(count: int, seed: int, biased: bool = True) -> pd.DataFrame:
    """Rows of a preference file: prompt (a chat), chosen, rejected, topic, and soft_label, five annotators' votes.

    biased : whether votes follow length too; else the worthier answer has them all
    """
    rng = stream(seed, "preferences", biased)
    out = []
    while len(out) < count:
        good, trouble, prompt = request(rng)
        (one, worth), (two, other) = (answer(rng, good, trouble) for _ in range(2))
        gap = KEENNESS * (worth - other) + LENGTH * (len(one.split()) - len(two.split())) * biased
        votes = rng.binomial(5, 1 / (1 + np.exp(-gap))) if biased else 5 * (worth > other)
        if one == two or worth == other:
            continue
        sides = (one, two) if votes > 2 else (two, one)
        row = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1], "topic": good}
        out.append(row | {"soft_label": max(votes, 5 - votes) / 5})
    return pd.DataFrame(out)


def answers(count: int, seed: int) -> tuple[list[Chat], list[str], np.ndarray]:
    """Requests, an answer to each, and its true worth (count,): what judges and gold can be held against."""
    rng, out = stream(seed, "answers"), []
    for _ in range(count):
        good, trouble, prompt = request(rng)
        out.append((prompt, *answer(rng, good, trouble)))
    prompts, texts, worth = zip(*out, strict=True)
    return list(prompts), list(texts), np.array(worth)


def request(rng: np.random.Generator) -> tuple[str, str, Chat]:
    """What a customer writes about, the trouble, and the request as a chat."""
    good, trouble = str(rng.choice(GOODS)), str(rng.choice(list(TROUBLES)))
    return good, trouble, [{"role": "user", "content": str(rng.choice(TROUBLES[trouble][0])).format(good)}]


def answer(rng: np.random.Generator, good: str, trouble: str) -> tuple[str, float]:
    """A made-up answer to a customer, and its worth."""
    parts, kind = [], rng.choice(["helps", "misses", "neither"], p=[0.5, 0.3, 0.2])
    if rng.random() < 0.4:
        parts.append(("sorry", str(rng.choice(SORRY))))
    if kind != "neither":
        others = [name for name in TROUBLES if name != trouble]
        which = trouble if kind == "helps" else str(rng.choice(others))
        parts.append((kind, TROUBLES[which][1].format(good)))
    if rng.random() < 0.5 or not parts:
        parts.append(("when", str(rng.choice(WHEN))))
    fillers = rng.permutation(FILLER)[: rng.integers(4)]
    parts += [("filler", str(x)) for x in fillers]
    return " ".join(sentence for _, sentence in parts), sum(WORTH.get(kind, 0.0) for kind, _ in parts)


def _language_model(
    read: Sequence[tuple[Chat, str]], vocabulary: int, hidden: int, seed: int
) -> tuple[LlamaForCausalLM, TextFormat]:
    """A small Llama with random weights, and a byte-level tokenizer trained on (prompt, answer) texts.

    vocabulary : ids, the 256 bytes and four special tokens included; hidden : a multiple of 8
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator((text for prompt, a in read for text in (prompt[0]["content"], a)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=SPECIAL[0], eos_token=SPECIAL[3], extra_special_tokens=SPECIAL[1:3]
    )
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), TextFormat(tokenizer, SpecialTokens.of(model, tokenizer))


def _study(
    model: LlamaForCausalLM, text: TextFormat, read: Sequence, steps: int, lr: float, seed: int
) -> None:
    """Next-token training, in place, on prompts with their answers, 16 at a time."""
    ids = [text.prompt_ids(prompt) + text.answer_ids(prompt, a) for prompt, a in read]
    rng, pad = stream(seed, "batches"), text.special.pad
    batches = (
        torch.from_numpy(pad_right([ids[i] for i in rng.integers(len(ids), size=16)], pad)[0]).long()
        for _ in range(steps)
    )
    fit_language_model(model, batches, steps, lr, pad)
    model.eval()


def _save(model: LlamaForCausalLM, text: TextFormat, folder: Path) -> None:
    model.save_pretrained(folder)
    text.save(folder)
