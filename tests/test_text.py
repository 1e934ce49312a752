"""Text to ids: strings and chats, rendered the same way wherever they are read."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from rmlab.text import TextFormat, ensure_pad, load_tokenizer, read_answer, same_tokens
from rmlab.tokens import SpecialTokens
from tests.own_model import EOS, PAD, own_folder, own_tokenizer

CHAT = [{"role": "user", "content": "Which way?"}]
SPECIAL = SpecialTokens(PAD, (EOS,))


@pytest.fixture
def chat_format():
    return TextFormat(own_tokenizer(), SPECIAL)


@pytest.fixture
def plain_format():
    return TextFormat(own_tokenizer(template=None), SPECIAL)


def test_a_chat_is_what_its_template_says(chat_format):
    prompt, answer = chat_format.prompt_ids(CHAT), chat_format.answer_ids(CHAT, "Left.")
    tokenizer = chat_format.tokenizer
    rendered = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert prompt == rendered
    whole = tokenizer.apply_chat_template(
        [*CHAT, {"role": "assistant", "content": "Left."}], return_dict=False
    )
    assert [*prompt, *answer] == whole[: len(whole) - 1] and answer[
        -1
    ] == EOS  # the template's last line break is no answer's
    assert chat_format.answer_ids(CHAT, [{"role": "assistant", "content": "Left."}]) == answer
    assert chat_format.text(answer) == "Left."


def test_a_chat_without_a_template_is_a_transcript(plain_format):
    text = plain_format.tokenizer.decode(plain_format.prompt_ids(CHAT))
    assert text == "\n\nHuman: Which way?\n\nAssistant:"
    ids = plain_format.answer_ids(CHAT, "Left.")
    assert plain_format.tokenizer.decode(ids) == " Left.<|end|>" and ids.count(EOS) == 1


def test_a_string_is_read_as_it_is(chat_format):
    assert chat_format.tokenizer.decode(chat_format.prompt_ids("Which way?")) == "Which way?"
    assert chat_format.answer_ids("Which way?", "Left.")[-1] == EOS
    ended = chat_format.answer_ids("Which way?", "Left.<|end|>")
    assert ended == chat_format.answer_ids("Which way?", "Left.") and ended.count(EOS) == 1
    assert chat_format.answer_ids("Which way?", [{"role": "assistant", "content": "Left."}]) == ended
    assert chat_format.answer_ids("Which way?", "") == [EOS]


def test_an_eos_inside_an_answer_does_not_cut_it(chat_format):
    ids = chat_format.answer_ids(CHAT, "Left<|end|> or right.")
    assert ids.count(EOS) == 2 and ids[-1] == EOS and "right" in chat_format.text(ids)


def test_nor_where_nothing_renders_an_end(chat_format, plain_format):
    for ids in (
        chat_format.answer_ids("Which way?", "Left<|end|> or right."),
        plain_format.answer_ids(CHAT, "Left<|end|> or right."),
    ):
        assert ids.count(EOS) == 2 and ids[-1] == EOS and "right" in chat_format.text(ids)


def test_special_tokens_in_front_stay_and_behind_go():
    tokenizer = own_tokenizer()
    from tokenizers.processors import TemplateProcessing

    pieces = "<|user|> $A <|end|>"
    names = [("<|user|>", 1002), ("<|end|>", EOS)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=pieces, special_tokens=names)
    ids = TextFormat(tokenizer, SPECIAL).prompt_ids("Hi")
    assert ids[0] == 1002 and EOS not in ids and len(ids) == 3


@pytest.mark.parametrize("template", [None, "its own"])
def test_a_tokenizer_that_cuts_and_pads_does_neither_here(template):
    plain, odd = (own_tokenizer(template=None) if template is None else own_tokenizer() for _ in range(2))
    odd.backend_tokenizer.enable_truncation(3)
    odd.backend_tokenizer.enable_padding(length=9, pad_id=PAD, pad_token="<|pad|>", direction="left")
    prompt, answer = "Which way did they go today?" if template is None else CHAT, "To the left, and on."
    ids = [
        (f.prompt_ids(prompt), f.answer_ids(prompt, answer))
        for f in (TextFormat(plain, SPECIAL), TextFormat(odd, SPECIAL))
    ]
    assert ids[0] == ids[1] and min(map(len, ids[0])) > 3 and PAD not in ids[1][0] + ids[1][1]


@pytest.mark.parametrize(
    ("prompt", "answer", "error"),
    [
        (" ", "x", "prompt = ' ': give some text"),
        ([], "x", r"chat = \[\]: give at least one message"),
        (
            [{"role": "user"}],
            "x",
            r"message = \{'role': 'user'\}: give \{'role': ..., 'content': ...\}, text both",
        ),
        ("x", [*CHAT, *CHAT], "answer = .*: give one message"),
    ],
)
def test_text_that_is_none_is_refused(chat_format, prompt, answer, error):
    with pytest.raises(ValueError, match=error):
        chat_format.prompt_ids(prompt)
        chat_format.answer_ids(prompt, answer)


def test_a_template_whose_answer_does_not_continue_the_prompt_is_refused():
    tokenizer = own_tokenizer(
        "{% if add_generation_prompt %}ask:{% else %}done:{% endif %}{{ messages[0]['content'] }}"
    )
    with pytest.raises(
        ValueError, match=r"chat template = .*: give a template that renders an answer behind"
    ):
        TextFormat(tokenizer, SPECIAL).answer_ids(CHAT, "Left.")


def test_another_eos_is_refused():
    with pytest.raises(ValueError, match=r"tokenizer.eos_token_id = 1000: give an EOS of the model's, \[7\]"):
        TextFormat(own_tokenizer(), SpecialTokens(PAD, (7,)))


def test_it_comes_back_from_a_folder(chat_format, tmp_path):
    chat_format.save(tmp_path)
    again = TextFormat(load_tokenizer(tmp_path), SPECIAL)
    assert again.answer_ids(CHAT, "Lëft\n\n✓") == chat_format.answer_ids(CHAT, "Lëft\n\n✓")
    with pytest.raises(ValueError, match=r"tokenizer = .*nowhere.*: give a folder with a tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("pad", [None, EOS], ids=["no PAD", "PAD is the EOS"])
def test_a_pad_of_its_own_is_added_once(pad, tmp_path):
    tokenizer = own_tokenizer(pad=False)
    if pad:
        tokenizer.pad_token = tokenizer.eos_token
    folder = own_folder(tmp_path, tokenizer=tokenizer)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)
    before = model.get_output_embeddings().weight.clone()
    for _ in range(2):
        ensure_pad(model, tokenizer)
        special = SpecialTokens.of(model, tokenizer)
        assert special.pad == 1004 and special.eos == (EOS,)
        assert model.get_output_embeddings().weight.shape[0] == 1005
        assert (model.get_output_embeddings().weight[:1004] == before).all()


def test_a_pad_that_is_there_stays(tmp_path):
    folder = own_folder(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)
    ensure_pad(model, tokenizer)
    assert SpecialTokens.of(model, tokenizer) == SPECIAL and len(tokenizer) == 1004


def test_a_cut_answer_is_read_without_an_eos_unless_nothing_else_is_left(chat_format):
    whole = chat_format.answer_ids(CHAT, "Left")
    assert read_answer(chat_format, CHAT, "Left", ended=True) == whole and whole[-1] == EOS
    assert read_answer(chat_format, CHAT, "Left", ended=False) == whole[:-1]
    assert read_answer(chat_format, CHAT, "", ended=False) == [EOS]


@pytest.mark.parametrize(
    ("other", "same"),
    [(own_tokenizer(), True), (own_tokenizer(first=300), False), (own_tokenizer(template=None), False)],
    ids=["another copy", "other ids", "no template"],
)
def test_formats_give_the_same_tokens_with_one_vocabulary_and_template(chat_format, other, same):
    assert same_tokens(chat_format, TextFormat(other, SPECIAL)) is same
