"""Text as a source: what it reads, what its id depends on, and what it refuses."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from jinja2 import TemplateError

from rmlab.preferences import Preferences
from rmlab.sources.base import Prompt
from rmlab.study.text_source import TextSource, folder_digest, pairs_digest, shell_of
from rmlab.tokens import pad_right
from rmlab.workbench.judges import fit
from tests.own_model import own_folder, own_tokenizer
from tests.study.conftest import text_rows


def test_it_reads_as_the_policy_does(text_recipe):
    source = text_recipe.source
    assert source.special.pad == 1001 and source.special.eos == (1000,) and source.vocab_size == 1004
    assert (source.size.hidden, source.size.layers, source.size.heads, source.size.ff) == (32, 2, 4, 64)
    assert source.text(source.ids("Warm 7")) == "Warm 7" and source.ids("Warm 7")[-1] == 1000


def test_prompts_are_the_held_out_ones_and_the_first_do_not_depend_on_how_many(text_recipe):
    source = text_recipe.source
    train, heldout = source.parts
    listed = {p.text for p in source.listed}
    assert len(listed) == len(heldout.prompts) and not set(train.groups) & set(heldout.groups)
    few, many = (source.prompts(n, np.random.default_rng(1)) for n in (3, 3 + 2 * len(listed)))
    assert few == many[:3] and len({p.text for p in few}) == 3
    assert {p.text for p in many} == listed  # more than there are: all of them again
    assert source.prompt(few[0].text) == few[0]
    assert source.prompt("new") == Prompt("new", tuple(source.format.prompt_ids("new")))


def test_a_prompt_that_leaves_no_room_for_an_answer_is_left_out(text_recipe):
    source = text_recipe.source
    longest = max(len(p.ids) for p in source.listed)
    shorter = dataclasses.replace(source, max_length=longest - 1 + source.max_new_tokens)
    assert 0 < len(shorter.listed) < len(source.listed)
    assert max(len(p.ids) for p in shorter.listed) < longest


def test_gold_reads_a_prompt_from_elsewhere_as_a_string_and_none_is_none(text_recipe):
    source = text_recipe.source
    answers = pad_right([source.ids("Warm 1"), source.ids("No")], source.special.pad)[0]
    own, other = source.listed[0], Prompt("Else?", tuple(source.format.prompt_ids("Else?")))
    gold = source.gold([own, other], answers)
    assert gold.shape == (2,) and gold.dtype == np.float64
    np.testing.assert_allclose(source.gold([other], answers[1:]), gold[1:], atol=1e-5)
    assert dataclasses.replace(source, gold_model=None).gold([own, other], answers) is None
    with pytest.raises(ValueError, match="prompts = 1: give one an answer, 2"):
        source.gold([own], answers)


def test_gold_of_the_policys_own_tokenizer_reads_the_ids_themselves(text_recipe, text_place, tmp_path):
    judges = fit(text_place / "backbone-a", Preferences.read(text_rows(), group="topic"), "single", batch=16)
    judges.save(tmp_path / "gold")
    source = dataclasses.replace(text_recipe.source, gold_model=tmp_path / "gold")
    ids = [65, 1002, 66, 1000]  # a special token within the answer, which its text does not show
    expected = judges.score([list(source.listed[0].ids)], [ids])[0, 0]
    assert source.gold([source.listed[0]], np.array([ids]))[0] == pytest.approx(expected, abs=1e-5)


def test_contents_decide_and_words_beside_them_do_not(text_recipe, text_place, tmp_path):
    shutil.copytree(text_place / "policy", tmp_path / "policy")
    same = folder_digest(str(tmp_path / "policy"))
    assert (
        same
        == folder_digest(text_recipe.source.policy)
        == dict(text_recipe.source.contents)[text_recipe.source.policy]
    )
    (tmp_path / "policy" / "README.md").write_text("words")
    assert folder_digest(str(tmp_path / "policy")) == same
    own_folder(tmp_path / "policy", seed=9)
    assert folder_digest(str(tmp_path / "policy")) != same
    assert (
        pairs_digest(text_recipe.source.pairs, "train")
        == dict(text_recipe.source.contents)[text_recipe.source.pairs]
    )


def test_a_model_without_a_pad_gets_one_and_says_so_without_weights(tmp_path):
    own_folder(tmp_path / "bare", tokenizer=own_tokenizer(pad=False))
    shell = shell_of(tmp_path / "bare")
    assert shell.format.special.pad == 1004 and shell.vocab_size == 1005 and shell.reach == 512


def test_a_template_that_refuses_drops_the_prompt_where_bad_pairs_are_dropped(
    text_recipe, text_place, tmp_path
):
    template = "{% for m in messages %}{% if '3' in m['content'] %}{{ raise_exception('refused') }}{% endif %}{{ m['content'] }}{% endfor %}"
    own_folder(tmp_path / "strict", tokenizer=own_tokenizer(template=template))
    source = dataclasses.replace(
        text_recipe.source, policy=tmp_path / "strict", reading=(("on_bad", "drop"),)
    )
    assert len(source.listed) > 0 and not any(
        "3" in p.text
        for part in ("heldout", "train")
        for p in dataclasses.replace(source, prompts_from=part).listed
    )
    with pytest.raises(TemplateError, match="refused"):
        _ = dataclasses.replace(source, reading=()).for_training.listed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold_model": None}, "source.gold_model = None: give a reward model's folder"),
        ({"heldout": 1.0}, "source.heldout = 1.0: give a share between 0 and 1"),
        ({"max_new_tokens": 64}, "source.max_new_tokens = 64: give a number of tokens from 1"),
        ({"max_length": 1024}, "source.max_length = 1024: give at most 512, the positions of"),
        ({"max_length": 13}, "held-out prompts that leave room for an answer = 0: give raise"),
    ],
)
def test_what_cannot_run_is_named(text_recipe, change, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(text_recipe.source, **change).validate()
    assert message in str(error.value)


def test_a_backbone_of_another_vocabulary_and_a_missing_folder_are_named(text_recipe, text_place):
    other = (text_place / "backbone-a", text_place / "gold-backbone")
    source = dataclasses.replace(text_recipe.source, backbones=other)
    with pytest.raises(
        ValueError, match=r"source\.backbones = .*gold-backbone.* the vocabulary of the policy's tokenizer"
    ):
        source.validate()
    with pytest.raises(ValueError, match="folder = 'nowhere': give a model's folder"):
        TextSource("nowhere", (), text_recipe.source.pairs)
