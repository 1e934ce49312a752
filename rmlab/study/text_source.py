"""Text as a source: a policy's folder, a preference file, and gold from a larger reward model that reads the text.

It is settings: names of folders and files, and digests of what they hold, so that another file of the same name is another
study. What they hold is read when it is needed, once a process.

Letters: B rows, T tokens, M pairs.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rmlab.dialogues import Text
from rmlab.files import seal
from rmlab.preferences import Preferences
from rmlab.recipe import Size, digest, require
from rmlab.sources.base import Prompt, Source, check_answers
from rmlab.tables import rows
from rmlab.text import TextFormat, ensure_pad, load_tokenizer, plain_chat, read_answer, same_tokens
from rmlab.tokens import SpecialTokens

if TYPE_CHECKING:
    from rmlab.reward.ensemble import RewardEnsemble

DECIDING = {".safetensors", ".json", ".jinja", ".txt", ".model"}  # files of a folder that decide numbers


@dataclass(frozen=True)
class TextSource(Source):
    """Prompts and pairs of a preference file, answers of a policy, gold by a reward model of any tokenizer.

    Parameters
    ----------
    policy : folder of a causal language model with its tokenizer: what samples, and what PPO trains
    backbones : folders of what reward models are trained from, one a pretraining seed; the policy's vocabulary
    pairs : a file or a data set's name, read by `rmlab.Preferences.read`
    gold_model : a reward model's folder, also of another tokenizer; its members' mean is gold. None: no gold
    group : column that pairs are split and drawn by; how prompts open unless said
    reading : further options of `Preferences.read`, such as (("on_bad", "drop"),)
    heldout : share of the pairs, whole groups, that is held out; the pool's prompts come from there
    split_seed : of that split
    max_new_tokens : of an answer, the EOS included
    max_length : tokens of prompt and answer; longer pairs are cut, prompts that leave no room for an answer left out
    prompts_from : the part that `prompts` draws from, "heldout" or "train"
    contents : (name, SHA-256) of every folder and file, read off them

    Raises
    ------
    ValueError
        A folder or file that is not there, or, when it is used, one that has changed since.
    """

    policy: str
    backbones: tuple[str, ...]
    pairs: str
    gold_model: str | None = None
    group: str | None = None
    reading: tuple[tuple[str, object], ...] = ()
    heldout: float = 0.2
    split_seed: int = 0
    max_new_tokens: int = 128
    max_length: int = 512
    prompts_from: str = "heldout"
    contents: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self):
        gold = None if self.gold_model is None else str(self.gold_model)
        names = {"policy": str(self.policy), "pairs": str(self.pairs), "gold_model": gold}
        names["backbones"] = tuple(map(str, self.backbones))
        folders = [names["policy"], *names["backbones"], *([gold] if gold else [])]
        held = {name: folder_digest(name) for name in folders}
        held[names["pairs"]] = pairs_digest(names["pairs"], dict(self.reading).get("split", "train"))
        for name, value in {**names, "contents": tuple(held.items())}.items():
            object.__setattr__(self, name, value)

    def validate(self) -> None:
        """Raise a `ValueError` that names the field, the value and the mend; reads tokenizers, configs and pairs."""
        require(0 < self.heldout < 1, "source.heldout", self.heldout, "a share between 0 and 1")
        mend = "a reward model's folder; without gold use rmlab.Pool, where held-out members judge"
        require(self.gold_model is not None, "source.gold_model", None, mend)
        mend = f"a number of tokens from 1 to max_length - 1 = {self.max_length - 1}"
        ok = 1 <= self.max_new_tokens < self.max_length
        require(ok, "source.max_new_tokens", self.max_new_tokens, mend)
        vocabulary = self.format.tokenizer.get_vocab()
        for name in self.backbones:
            mend = f"backbones with the vocabulary of the policy's tokenizer, {self.policy}"
            same = load_tokenizer(name).get_vocab() == vocabulary
            require(same, "source.backbones", name, mend)
        for name in (self.policy, *self.backbones):
            reach = self._shell(name).reach or self.max_length
            mend = f"at most {reach}, the positions of {name}"
            require(self.max_length <= reach, "source.max_length", self.max_length, mend)
        load_tokenizer(self.gold_model)
        mend = "raise source.max_length or lower source.max_new_tokens"
        require(len(self.listed) > 0, "held-out prompts that leave room for an answer", 0, mend)

    @property
    def format(self) -> TextFormat:
        """The policy's tokenizer and template, by which members read too."""
        return self._shell(self.policy).format

    @property
    def special(self) -> SpecialTokens:
        """The policy's special tokens, PAD of its own."""
        return self.format.special

    @property
    def vocab_size(self) -> int:
        """Tokens that the policy embeds."""
        return self._shell(self.policy).vocab_size

    @property
    def size(self) -> Size:
        """The first backbone's layers and widths, which estimates of time and memory count with."""
        return self._shell(self.backbones[0]).size

    @property
    def parts(self) -> tuple[Preferences, Preferences]:
        """The pairs to train on and those held out; no group and no prompt in both."""
        content = self._content(self.pairs)
        return _parts(self.pairs, content, self.group, self.reading, self.heldout, self.split_seed)

    @property
    def listed(self) -> list[Prompt]:
        """Every distinct prompt of the part `prompts_from` that leaves room for an answer, in the file's order."""
        return list(_listed(self.for_evaluation)[self.prompts_from])

    @property
    def for_evaluation(self) -> TextSource:
        """Prompts from the held-out part; without gold and backbones, on which they do not depend."""
        return self._view(gold_model=None, backbones=(), prompts_from="heldout")

    @property
    def for_training(self) -> TextSource:
        """Prompts from the part that members are trained on, so that no evaluated prompt is trained on."""
        return self._view(prompts_from="train")

    def prompts(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        """Draw `count` prompts without replacement, as long as there are any; then all of them again."""
        prompts, order = self.listed, []
        require(len(prompts) > 0, f"{self.prompts_from} prompts that leave room for an answer", 0, "others")
        while len(order) < count:
            order += rng.permutation(len(prompts)).tolist()
        return [prompts[i] for i in order[:count]]

    def gold(self, prompts: Sequence[Prompt], answers: np.ndarray) -> np.ndarray | None:
        """The mean of the gold model's members for an answer to each of B prompts, (B,) float64; None without one.

        Aligned where they are aligned, else raw. With another tokenizer they read the decoded answer, a cut one without EOS.

        answers : ids (B, T) of the policy, right-padded
        """
        if self.gold_model is None:
            return None
        from rmlab.optimise.reward import member_scores

        answers = check_answers(answers, self.vocab_size, self.special.pad)
        require(len(prompts) == len(answers), "prompts", len(prompts), f"one an answer, {len(answers)}")
        ensemble, reader = _gold(self.gold_model, self._content(self.gold_model))
        lengths, ended = self.special.lengths(answers), self.special.ended(answers)
        cut = [row[:length].tolist() for row, length in zip(answers, lengths, strict=True)]
        ids = {prompt: list(prompt.ids) for prompt in prompts}
        if not same_tokens(self.format, reader):
            texts = {prompt: self._text_of(prompt) for prompt in ids}
            ids = {prompt: reader.prompt_ids(text) for prompt, text in texts.items()}
            both = zip(prompts, cut, ended, strict=True)
            cut = [read_answer(reader, texts[p], self.text(row), bool(end)) for p, row, end in both]
        scores = member_scores(ensemble, [ids[prompt] for prompt in prompts], cut)
        return scores.astype(np.float64).mean(-1)

    def prompt(self, text: str) -> Prompt:
        """The prompt of the file whose text it is, or else a new one, a string."""
        known = (prompt for part in _listed(self.for_evaluation).values() for prompt in part)
        same = next((prompt for prompt in known if prompt.text == text), None)
        return same or Prompt(text, tuple(self.format.prompt_ids(text)))

    def ids(self, text: str) -> list[int]:
        """An answer's text as ids (T,), an EOS last."""
        return self.format.answer_ids(" ", text)

    def text(self, ids: Sequence[int]) -> str:
        """An answer's ids (T,), PAD and EOS left out, as text."""
        return self.format.text(ids)

    def _view(self, **changes: object) -> TextSource:
        """The same source with other fields, and contents as they were when it was made."""
        view = copy.copy(self)
        names = {*changes.get("backbones", self.backbones), changes.get("gold_model", self.gold_model)}
        contents = tuple(x for x in self.contents if x[0] in {self.policy, self.pairs, *names})
        for name, value in {**changes, "contents": contents}.items():
            object.__setattr__(view, name, value)
        return view

    def _content(self, name: str) -> str:
        return dict(self.contents)[name]

    def _shell(self, name: str) -> Shell:
        return _shell(name, self._content(name))

    def _text_of(self, prompt: Prompt) -> Text:
        """What a prompt is in the file, a string or a chat; its own text where it is from elsewhere."""
        parts = _listed(self.for_evaluation).values()
        return next((part[prompt] for part in parts if prompt in part), prompt.text)


def folder_digest(name: str) -> str:
    """SHA-256 over a model folder's weights, configs and tokenizer files; a `ValueError` where it is no folder."""
    folder = Path(name)
    require(folder.is_dir(), "folder", name, "a model's folder on this machine")
    files = sorted(p for p in folder.rglob("*") if p.suffix in DECIDING and p.is_file())
    return digest([[p.relative_to(folder).as_posix(), _file_digest(str(p), *_stamp(p))] for p in files])


def pairs_digest(name: str, split: str) -> str:
    """SHA-256 of a preference file's bytes, or of the rows of a folder or a named data set."""
    if Path(name).is_file():
        return _file_digest(name, *_stamp(name))
    return digest([json.dumps(row, default=str) for _, row in rows(name, split)])


def require_unchanged(name: str, digest_now: str, digest_before: str) -> None:
    """Raise a `ValueError` where a folder or file has changed since the source was made."""
    require(digest_now == digest_before, "source", name, "one that does not change while a study runs")


def _stamp(path: str | Path) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, changed: int) -> str:
    """A file's SHA-256, read again only where its size or time is another."""
    return seal(Path(path))["sha256"]


class Shell(NamedTuple):
    """What a model's folder says without its weights: how it reads, tokens it embeds, positions it reaches, its size."""

    format: TextFormat
    vocab_size: int
    reach: int | None
    size: Size


def shell_of(folder: str | Path) -> Shell:
    """The shell of a causal language model's folder, with a PAD of its own; a `ValueError` where it is none."""
    return _shell(str(folder), folder_digest(str(folder)))


@functools.lru_cache(maxsize=32)
def _shell(folder: str, content: str) -> Shell:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    require_unchanged(folder, folder_digest(folder), content)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"folder = {folder!r}: give a causal language model's ({error})") from error
    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    ensure_pad(model, tokenizer)
    text, tokens = config.get_text_config(), model.get_input_embeddings().num_embeddings
    wide = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    size = Size(text.hidden_size, text.num_hidden_layers, text.num_attention_heads, wide)
    reach = getattr(text, "max_position_embeddings", None)
    return Shell(TextFormat(tokenizer, SpecialTokens.of(model, tokenizer)), tokens, reach, size)


@functools.lru_cache(maxsize=4)
def _parts(
    pairs: str,
    content: str,
    group: str | None,
    reading: tuple[tuple[str, object], ...],
    heldout: float,
    seed: int,
) -> tuple[Preferences, Preferences]:
    require_unchanged(pairs, pairs_digest(pairs, dict(reading).get("split", "train")), content)
    return Preferences.read(pairs, group=group, **dict(reading)).split(heldout, seed)


@functools.lru_cache(maxsize=4)
def _listed(source: TextSource) -> dict[str, dict[Prompt, Text]]:
    """Prompts of both parts that leave room for an answer, each once: as the policy reads it, and as the file has it."""
    listed, room = {}, source.max_length - source.max_new_tokens
    for name, part in zip(("train", "heldout"), source.parts, strict=True):
        listed[name] = {}
        for text in part.prompts:
            try:
                ids = tuple(source.format.prompt_ids(text))
            except Exception:  # a template refuses as it likes; a pair of such a prompt is dropped too
                if part.on_bad == "error":
                    raise
                continue
            words = text if isinstance(text, str) else plain_chat(text).strip()
            if len(ids) <= room:
                listed[name].setdefault(Prompt(words, ids), text)
    return listed


@functools.lru_cache(maxsize=1)
def _gold(folder: str, content: str) -> tuple[RewardEnsemble, TextFormat]:
    """The gold model on `device_of()`, and how it reads."""
    from rmlab.backbone import device_of
    from rmlab.reward.ensemble import load

    require_unchanged(folder, folder_digest(folder), content)
    ensemble = load(folder).to(device_of())
    return ensemble, TextFormat(load_tokenizer(folder), ensemble.special)
