"""A study of text from its folders to its tables; and its own stages, each by itself."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

import rmlab
from rmlab.backbone import load as load_model
from rmlab.optimise.compact import CompactPool
from rmlab.optimise.pool import Pool
from rmlab.reward.training import PairIds
from rmlab.show.explorer import Explorer
from rmlab.sources.base import load_prompts
from rmlab.study import text_source
from rmlab.study.executor import all_tasks
from rmlab.study.plan import plan, shared_inputs
from rmlab.study.run import run
from rmlab.study.text_source import TextSource
from rmlab.study.text_stages import group_sample
from rmlab.text import TextFormat
from rmlab.tokens import SpecialTokens
from tests.study.conftest import text_rows

SCHEMA = "study recipe seed ensemble method k aggregator strength optimiser pressure kl kl_name proxy gold gain low high units"
PPO = "replicate draw members adapted_kl_coef disagreement eval_k3 eval_length eval_ended member_0"


def again(recipe, store) -> dict[str, int]:
    """Stages that a recipe would run on what the study left: name -> tasks."""
    tasks = all_tasks(list(plan(recipe).values()))
    return dict(Counter(task.stage.__name__ for task in tasks if not store.has(task)))


def test_a_text_study_ends_in_the_tables_of_every_study(text_study):
    folder, _ = text_study
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    names = "curves replicates ends comparisons answers accuracy diversity diversity_replicates herding herding_replicates costs transfer agreement calibration calibration_replicates reliability promised promised_replicates laws laws_replicates law_of_ensembles law_of_ensembles_replicates goodhart alarms detectors detectors_replicates"  # no probes: text has none
    assert set(tables) == set(names.split())
    assert all(set(table.study) == {"tiny_text"} for table in tables.values())
    assert set(SCHEMA.split()) <= set(tables["curves"]) and set(PPO.split()) <= set(tables["replicates"])
    assert not [
        c for c in tables["replicates"] if c.startswith("gold_")
    ]  # terms of a bill, which text has not
    curves = tables["curves"]
    assert set(curves.optimiser) == {"ppo", "tilt", "best_of_n"}
    assert set(curves.ensemble) == {"single", "heads2", "pretrain2"} and np.isfinite(curves.gold).all()
    assert len(tables["accuracy"]) == 2 * 4 and set(tables["accuracy"].pairs) == {16}


def test_gold_is_the_gold_models_own_score_of_the_decoded_text(text_study, text_recipe, text_place):
    folder, store = text_study
    shared = shared_inputs(text_recipe)
    pool = Pool.load([store.path(shared.pool[0]) / "pool.npz"])
    gold, own = rmlab.load(text_place / "gold"), text_recipe.source
    first, rows = load_prompts(store.path(shared.prompts[0]))[0], np.flatnonzero(pool.ended[0])
    question = next(q for q in text_rows().prompt if q[0]["content"] in first.text)
    texts = [own.text(pool.ids[0, i]) for i in rows]
    expected = gold.score([question] * len(rows), texts).mean(-1)
    assert len(rows) > 2 and expected.std() > 0
    np.testing.assert_allclose(pool.gold[0, rows], expected, atol=1e-5)
    cut = np.flatnonzero(~pool.ended[0])[0]  # an answer that was cut is read without an EOS
    ids = gold.text.answer_ids(question, own.text(pool.ids[0, cut]))[:-1]
    expected = gold.score([gold.text.prompt_ids(question)], [ids]).mean()
    assert pool.gold[0, cut] == pytest.approx(expected, abs=1e-5)
    seen = pd.read_csv(folder / "answers.csv", keep_default_na=False).iloc[0]  # of PPO's evaluations
    question = next(q for q in text_rows().prompt if q[0]["content"] in seen.prompt)
    both = gold.text.answer_ids(question, seen.answer), gold.text.answer_ids(question, seen.answer)[:-1]
    scores = [gold.score([gold.text.prompt_ids(question)], [ids]).mean() for ids in both if ids]
    assert np.isclose(scores, seen.gold, atol=1e-3).any()


def test_the_explorer_shows_the_answers_as_text(text_study, text_recipe):
    folder, store = text_study
    pool = CompactPool.load(folder / "explorer.npz")
    answers = Pool.load([store.path(shared_inputs(text_recipe).pool[0]) / "pool.npz"])
    assert pool.bill is None and pool.N == 24 and len(pool.prompts) == 4 and "Why" in pool.prompts[0]
    assert pool.text(0, 0) in {text_recipe.source.text(ids) for ids in answers.ids[0]}
    assert {"heads2", "pretrain"} <= {e["name"] for e in pool.ensembles}
    assert len(Explorer(pool, ensemble="pretrain", aggregator="min").members) == 2


def test_a_study_that_is_done_runs_nothing(text_study, text_recipe):
    folder, store = text_study
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    assert again(text_recipe, store) == {}
    assert run(text_recipe, folder.parent, store.root, workers=1, quiet=True) == folder
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before


def test_other_pairs_of_the_same_name_train_again_and_load_no_model(text_study, text_recipe, text_place):
    _, store = text_study
    file, bytes_before = text_place / "pairs.jsonl", (text_place / "pairs.jsonl").read_bytes()
    try:
        text_rows(seed=1).to_json(file, orient="records", lines=True)
        text_source._parts.cache_clear()  # as in another process
        with pytest.raises(ValueError, match="one that does not change while a study runs"):
            _ = text_recipe.source.parts
        with pytest.raises(ValueError, match="one that does not change while a study runs"):
            _ = text_recipe.source.for_training.parts
        other = dataclasses.replace(text_recipe, source=dataclasses.replace(text_recipe.source))
        assert other.id != text_recipe.id
        runs = again(other, store)
        assert (
            runs["encode_pairs"] == 3
            and runs["train_member"] == 6
            and runs["ppo_run"] == runs["score_run"] == 10
        )
        assert "load_model" not in runs
    finally:
        file.write_bytes(bytes_before)
    assert again(text_recipe, store) == {}


def test_other_gold_judges_again_and_trains_and_samples_nothing(text_study, text_recipe, text_place):
    _, store = text_study
    gold = text_place / "gold"
    rmlab.load(gold).subset([0]).save(text_place / "gold-of-one")
    source = dataclasses.replace(text_recipe.source, gold_model=text_place / "gold-of-one")
    runs = again(dataclasses.replace(text_recipe, source=source), store)
    judged = {"score_gold": 1, "score_pool": 6, "ppo_run": 10, "score_run": 10}
    assert runs == {**judged, "measure": 11, "text_explorer": 1}


def test_a_loaded_model_says_its_special_tokens_itself(text_study, text_recipe):
    _, store = text_study
    shared = shared_inputs(text_recipe)
    for task in (shared.policy, *shared.backbones):
        model = load_model(store.path(task))
        assert SpecialTokens.of(model) == text_recipe.source.special
        assert TextFormat.of(model, store.path(task)).special == text_recipe.source.special


def test_draws_are_samples_of_the_training_groups_with_flips_of_their_own(text_study, text_recipe):
    _, store = text_study
    shared, train = shared_inputs(text_recipe), text_recipe.source.parts[0]
    draws = [PairIds.load(store.path(task)) for task in shared.pairs]
    heldout = PairIds.load(store.path(shared.heldout))
    clean = train.encode(text_recipe.source.format)
    chosen = {(name, tuple(ids)) for name, ids in zip(clean.ids, clean.chosen, strict=True)}
    flips = []
    for draw in draws:
        assert len(draw) == 48 and not set(draw.groups) & set(heldout.groups)
        flips.append([(i, tuple(ids)) not in chosen for i, ids in zip(draw.ids, draw.chosen, strict=True)])
        assert 0.05 < np.mean(flips[-1]) < 0.5
    assert draws[0].ids != draws[1].ids and 1 < len(set(draws[0].groups)) < len(set(train.groups))
    assert not set(heldout.ids) & set(clean.ids) and len(heldout) == 16


def test_groups_are_drawn_whole():
    groups = [str(i % 4) for i in range(20)]
    index = group_sample(groups, 13, np.random.default_rng(0))
    assert len(index) == 13
    for start in (0, 5):
        assert len({groups[i] for i in index[start : start + 5]}) == 1
        assert len(set(index[start : start + 5])) == 5
    with pytest.raises(ValueError, match="groups of training pairs = 1: give pairs of at least two groups"):
        group_sample(["a"] * 3, 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": rmlab.recipe.PoolSize(99, 8)}, "pool.prompts = 99: give at most "),
        ({"replicates": rmlab.recipe.Replicates(2, 3)}, "replicates.backbones = 3: give at most 2"),
        ({"labels": rmlab.recipe.Labels(temperature=1.0)}, "labels.temperature = 1.0: give 0"),
        ({"ppo_study": rmlab.recipe.PpoStudy()}, "ppo_study.prompts = 64: give at most "),
    ],
)
def test_what_a_text_source_does_not_have_is_named(text_recipe, change, message):
    with pytest.raises(ValueError) as error:
        plan(dataclasses.replace(text_recipe, **change))
    assert message in str(error.value)


def test_a_run_of_ppo_trains_on_other_prompts_than_it_is_evaluated_on(text_recipe):
    task = plan(text_recipe)["comparison"].inputs["runs"][0]
    source = task.settings.source
    assert isinstance(source, TextSource) and source.prompts_from == "train"
    trained = {p.text for p in source.prompts(200, np.random.default_rng(0))}
    assert not trained & {p.text for p in text_recipe.source.listed} and len(trained) > 4
    assert json.dumps(task.plain_settings)  # plain settings alone are in the key
