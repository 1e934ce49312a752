"""Judges of your own: fitted, saved, loaded, scoring text as they score ids."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import rmlab
from tests.own_model import own_folder

GOOD, BAD = "Yes, warm and kind.", "No."


def test_judges_come_back_whole(place, tmp_path):
    train, test = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic").split(0.3)
    for method, options in (("heads", {"k": 3}), ("lora", {"k": 2, "rank": 2}), ("finetune", {"k": 2})):
        judges = rmlab.fit(place / "my-backbone", train, method, lr=1e-3, **options)
        judges.save(tmp_path / method)
        again = rmlab.load(tmp_path / method)
        chats = test.prompts[:3]
        scores = judges.score(chats, [GOOD, BAD, "?"])
        np.testing.assert_allclose(again.score(chats, [GOOD, BAD, "?"]), scores, atol=1e-5)
        ids = [judges.text.prompt_ids(chat) for chat in chats]
        answers = [
            judges.text.answer_ids(chat, text) for chat, text in zip(chats, [GOOD, BAD, "?"], strict=True)
        ]
        np.testing.assert_array_equal(judges.score(ids, answers), scores)
        assert np.allclose(judges.reward("min")(chats, [GOOD, BAD, "?"]), scores.min(-1), atol=1e-4)
        judges.save(tmp_path / method)  # in the place of the first


@pytest.mark.parametrize("method", ["heads", "lora"])
def test_memory_is_saved_without_a_number_changing(place, method):
    train, test = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic").split(0.3)
    plain = rmlab.fit(place / "my-backbone", train, method, k=2, lr=1e-5)
    saving = {"micro_batch": 8, "checkpointing": True}
    other = rmlab.fit(place / "my-backbone", train, method, k=2, lr=1e-5, **saving)
    rows = test.prompts[:4], [GOOD, BAD, "?", "Perhaps."]
    np.testing.assert_allclose(other.score(*rows), plain.score(*rows), atol=2e-4)
    clipped = rmlab.fit(place / "my-backbone", train, method, k=2, lr=1e-5, max_grad_norm=1e-6)
    assert np.abs(clipped.score(*rows) - plain.score(*rows)).max() > 1e-3


def test_text_and_ids_are_not_mixed(place):
    judges = rmlab.load(place / "my-gold-rm")
    with pytest.raises(
        ValueError, match="row 0 = 'ids beside text': give text on both sides, or ids on both"
    ):
        judges.score([[5, 6]], ["x"])
    with pytest.raises(ValueError, match="answers = 2: give one for each of 1 prompts"):
        judges.score(["x"], ["a", "b"])


def test_alignment_can_be_set_anew(place):
    judges = rmlab.load(place / "my-gold-rm")
    prompts, answers = ["x"] * 4, [GOOD, BAD, "maybe", "well, perhaps"]
    judges.align(prompts, answers)
    scores = judges.score(prompts, answers)
    np.testing.assert_allclose([scores.mean(), scores.std()], [0, 1], atol=1e-4)
    judges.align(prompts, answers)  # from aligned scores as well
    np.testing.assert_allclose(judges.score(prompts, answers), scores, atol=1e-4)


def test_a_report_stands_beside_length_and_words(place):
    prefs = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic")
    train, test = prefs.split(0.3)
    judges = rmlab.fit(place / "my-backbone", train, "heads", k=2, lr=1e-3, max_length=64)
    for report in (judges.report(test, train), judges.report(test)):
        whole = report.rows().query("measure == 'accuracy' and part == 'all'").set_index("scorer").value
        assert whole["bag of words"] == 1.0 and {"member 0", "member 1", "mean", "min"} <= set(whole.index)
        assert {"longer", "shorter"} & set(whole.index)
        rivals = set(report.rows().query("measure == 'difference'").rival)
        assert "a bag of words" in rivals and any("answers alone" in rival for rival in rivals)
        assert f"{len(test)} of {len(test)} test pairs" in str(report)


def test_a_backbone_that_is_none_is_named(place, tmp_path):
    prefs = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic")
    with pytest.raises(ValueError, match="nowhere"):
        rmlab.fit(tmp_path / "nowhere", prefs)
    with pytest.raises(ValueError, match=r"backbone = .*: give at least one model"):
        rmlab.fit([], prefs)
    with pytest.raises(ValueError, match=r"backbone = .*gold-backbone.*: give backbones with the vocabulary"):
        rmlab.fit([place / "my-backbone", place / "gold-backbone"], prefs, "pretrain", k=2)
    with pytest.raises(ValueError, match="method = 'magic': give one of single, "):
        rmlab.fit(place / "my-backbone", prefs, "magic")


def test_every_eos_that_a_model_names_ends_an_answer(place, tmp_path):
    """As chat models have it: another EOS in the generation config, another in the tokenizer, PAD one of them."""
    folder = own_folder(tmp_path / "chat")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"eos_token_id": [1000, 1001], "pad_token_id": 1001}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    prefs = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic")
    judges = rmlab.fit(folder, prefs, "heads", k=2, lr=1e-3)
    assert judges.text.special.eos == (1000, 1001) == judges.ensemble.special.eos
    assert judges.text.special.pad == 1004
    judges.save(tmp_path / "judges")
    again = rmlab.load(tmp_path / "judges")
    assert again.text.special.eos == (1000, 1001)
    np.testing.assert_allclose(again.score(["x"], [GOOD]), judges.score(["x"], [GOOD]), atol=1e-5)


def test_a_reward_model_whose_config_names_another_eos_is_read(place, tmp_path):
    judges = rmlab.load(place / "my-gold-rm")
    judges.save(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"eos_token_id": 7}))
    assert rmlab.load(tmp_path / "other").text.special.eos == (7, 1000)


def test_pairs_that_cannot_be_encoded_are_counted(place):
    """The end of an answer said in so many letters: both sides are the same tokens."""
    sound = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic").pairs
    same = dataclasses.replace(sound[0], id="same", prompt="x", chosen="Yes.", rejected="Yes.<|end|>")
    with pytest.warns(UserWarning, match="trained on 120 of 121 pairs; left out: identical_ids 1"):
        rmlab.fit(place / "my-backbone", rmlab.Preferences([*sound, same], on_bad="drop"), k=2)
