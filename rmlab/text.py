"""Text to ids and back: one tokenizer and one chat template, in training, in scoring and in RL alike.

A prompt is a string or a chat, a list of messages {role, content}. Strings are tokenised as they are; a chat is
rendered by the tokenizer's template, or, where it has none, as "\\n\\nHuman: ...\\n\\nAssistant:" (Bai et al. 2204.05862).
An answer continues its prompt and ends in an EOS, which is where a reward model reads its score.

Letters: T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmlab.recipe import require
from rmlab.tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = Mapping[str, str]  # role and content
Chat = Sequence[Message]
SPEAKERS = {"user": "Human", "human": "Human", "assistant": "Assistant", "system": "System"}
MARK = "\n\nAssistant:"  # where an answer begins in a chat without a template
FILES = (  # what a tokenizer's save leaves
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)


class TextFormat:
    """How prompts and answers become ids, for one model.

    Parameters
    ----------
    tokenizer : the model's
    special : the model's special tokens
    chat_template_kwargs : what else its chat template is given, such as `enable_thinking`

    Raises
    ------
    ValueError
        A tokenizer whose EOS does not end the model's answers.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        special: SpecialTokens,
        chat_template_kwargs: Mapping | None = None,
    ):
        eos = tokenizer.eos_token_id
        self.eos = special.eos[0] if eos is None else int(eos)
        require(
            self.eos in special.eos,
            "tokenizer.eos_token_id",
            eos,
            f"an EOS of the model's, {list(special.eos)}",
        )
        self.tokenizer, self.special = tokenizer, special
        self.chat_template_kwargs = dict(chat_template_kwargs or {})

    @classmethod
    def of(cls, model: PreTrainedModel, folder: str | Path) -> TextFormat:
        """The format of a model from a folder or the hub, with the tokenizer that is there."""
        tokenizer = load_tokenizer(folder)
        return cls(tokenizer, SpecialTokens.of(model, tokenizer))

    def prompt_ids(self, prompt: str | Chat) -> list[int]:
        """A prompt as the model reads it, (T,): special tokens in front of it included, none behind.

        Raises a `ValueError` where it holds no text.
        """
        if isinstance(prompt, str):
            require(bool(prompt.strip()), "prompt", prompt, "some text")
            ids = list(self.tokenizer(prompt)["input_ids"])
            while ids and ids[-1] in self.special.eos:  # BERT's and T5's tokenizers end every text
                ids.pop()
            return ids
        return self.ids(self.render(prompt))

    def answer_ids(self, prompt: str | Chat, answer: str | Chat) -> list[int]:
        """An answer to this prompt, (T,), an EOS last: what a policy would have sampled.

        A chat's answer is what the template puts behind the prompt, up to the EOS.

        Raises
        ------
        ValueError
            An answer to a string that is several messages, or a template whose answer does not continue its prompt.
        """
        if isinstance(prompt, str):
            if not isinstance(answer, str):
                require(len(answer) == 1, "answer", list(answer), "one message, or a chat for its prompt")
                answer = answer[0]["content"]
            text = answer
        else:
            begun = self.render(prompt)
            whole = self.render([*prompt, *_messages(answer)], answered=True)
            mend = "a template that renders an answer behind add_generation_prompt, or strings for prompts"
            require(whole.startswith(begun), "chat template", whole[-80:], mend)
            text = whole[len(begun) :]
        ids = self.ids(text)
        last = max((i for i, token in enumerate(ids) if token in self.special.eos), default=None)
        if (
            last is None or self.tokenizer.decode(ids[last + 1 :]).strip()
        ):  # an EOS inside an answer is no end
            return [*ids, self.eos]
        return ids[: last + 1]

    def render(self, chat: Chat, answered: bool = False) -> str:
        """A chat as text; unless it is `answered`, with what stands before the assistant's next answer.

        Raises a `ValueError` for no message, or one that is not role and content as text.
        """
        require(len(chat) > 0, "chat", [], "at least one message")
        for message in chat:
            sound = isinstance(message, Mapping) and all(
                isinstance(message.get(k), str) for k in ("role", "content")
            )
            require(sound, "message", message, "{'role': ..., 'content': ...}, text both")
        if not getattr(self.tokenizer, "chat_template", None):
            text = plain_chat(chat)
            return text if answered else text + MARK
        return self.tokenizer.apply_chat_template(
            [dict(message) for message in chat],
            add_generation_prompt=not answered,
            tokenize=False,
            **self.chat_template_kwargs,
        )

    def ids(self, text: str) -> list[int]:
        """Text that is rendered already as ids (T,): nothing is added in front or behind."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """Ids (T,) of an answer as text, without PAD and EOS."""
        return self.tokenizer.decode(self.special.drop(ids), skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer, its chat template included, into a folder."""
        self.tokenizer.save_pretrained(str(folder))


def plain_chat(chat: Chat) -> str:
    """A chat as "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    speakers = (SPEAKERS.get(message["role"], message["role"].capitalize()) for message in chat)
    return "".join(f"\n\n{s}: {m['content'].strip()}" for s, m in zip(speakers, chat, strict=True))


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or the hub; none of its code is run.

    Raises a `ValueError` where there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"tokenizer = {str(name)!r}: give a folder with a tokenizer, or name one ({error})"
        ) from error


def read_answer(text: TextFormat, prompt: str | Chat, answer: str, ended: bool) -> list[int]:
    """An answer's text as ids (T,); one that was cut has no EOS, unless nothing else is left of it."""
    ids = text.answer_ids(prompt, answer)
    return ids if ended or len(ids) == 1 else ids[:-1]


def same_tokens(one: TextFormat, other: TextFormat) -> bool:
    """Whether two formats give the same ids for the same text: one vocabulary, one template, the same special tokens."""
    return (
        one.special == other.special
        and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
        and getattr(one.tokenizer, "chat_template", None) == getattr(other.tokenizer, "chat_template", None)
        and one.chat_template_kwargs == other.chat_template_kwargs
    )


def ensure_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model and its tokenizer a PAD of its own, in place, where they have none or it is an EOS.

    PAD only fills rows up: it is never sampled and never scored, so no number depends on it. The model's embeddings grow
    by a row only where the tokenizer's new token has none yet.
    """
    holders = [
        h
        for h in (model.config.get_text_config(), getattr(model, "generation_config", None))
        if h is not None
    ]
    eos = set()
    for holder in (*holders, tokenizer):
        named = getattr(holder, "eos_token_id", None)
        eos |= set(named) if isinstance(named, list | tuple) else {named}
    pad = tokenizer.pad_token_id
    if pad is None and holders[0].pad_token_id is not None and holders[0].pad_token_id not in eos:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(holders[0].pad_token_id)
        pad = tokenizer.pad_token_id
    if pad is None or pad in eos:
        tokenizer.add_special_tokens({"pad_token": "<|rmlab_pad|>"})
        pad = tokenizer.pad_token_id
    if pad >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(pad + 1, mean_resizing=False)
    for holder in {id(h): h for h in (model.config, *holders)}.values():
        holder.pad_token_id = pad


def _messages(answer: str | Chat) -> list[Message]:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
