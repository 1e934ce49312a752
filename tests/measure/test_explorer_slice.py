"""The explorer's slice of synthetic studies: which replicate, which ensembles, and every member's column once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rmlab.measure import explorer_slice as module
from rmlab.measure.ensembles import by_name
from rmlab.measure.explorer_slice import explorer_slice, text_slice, typical_single
from rmlab.optimise.best_of_n import best_of_n
from tests.measure.fake_scores import N, P, grid, in_step, with_copies

BILL = [{"name": "very", "label": "very", "values": [0.0, 0.5], "slope": -0.1}]
VOCAB = ["<pad>", "<eos>", *"abcdefgh"]
T = 6


def slice_of(scores):
    rng = np.random.default_rng(4)
    ids, lengths = rng.integers(2, 10, (P, N, T)), rng.integers(2, T + 1, (P, N))
    terms = rng.integers(0, 3, (P, N, 1))
    prompts = [f"prompt {p}" for p in range(P)]
    return explorer_slice(scores, ids, lengths, terms, BILL, prompts, VOCAB), (ids, lengths, terms)


def kept_of(scores):
    """(P, M) the answers that ended, from the first again where a prompt has fewer than another."""
    rows = [np.flatnonzero(ended) for ended in scores.ended]
    return np.stack([np.resize(row, max(map(len, rows))) for row in rows])


def worth(scores, m):
    return best_of_n(m.pool[..., 0], scores.gold, [N // 4], scores.ended).mean()


def columns_of(pool, name):
    return next(e["members"] for e in pool.ensembles if e["name"] == name)


@pytest.fixture(scope="module")
def steps():
    return in_step()


@pytest.fixture(scope="module")
def several():
    return grid()


def test_the_typical_replicate_is_the_median_one(steps):
    home = typical_single(steps)
    values = {m.id: worth(steps, m) for m in steps.singles}
    assert values[home.id] == np.median(list(values.values()))
    two = replace(steps, ensembles=[e for e in steps.ensembles if e.replicate < 2])
    assert worth(two, typical_single(two)) == min(worth(two, m) for m in two.singles)  # the lower of two


def test_it_is_the_median_finetuning_seed_of_the_median_replicates_first_backbone(several):
    home = typical_single(several)
    firsts = [m for m in several.singles if m.backbone == 0]
    means = [np.mean([worth(several, m) for m in firsts if m.draw == d]) for d in range(2)]
    assert home.backbone == 0 and means[home.draw] == min(means)
    assert worth(several, home) == min(worth(several, m) for m in firsts if m.draw == home.draw)


def test_in_step_every_method_is_shown_in_its_largest_plain_form_and_heads_in_every_number(steps):
    pool, _ = slice_of(with_copies(steps))
    assert [e["name"] for e in pool.ensembles] == [
        "finetune",
        "pretrain",
        "heads1",
        "heads2",
        "heads5",
        "lora",
        "average",
    ]
    assert [len(e["members"]) for e in pool.ensembles] == [5, 3, 1, 2, 5, 2, 1]
    assert {e["name"]: e["series"] for e in pool.ensembles if "series" in e} == dict.fromkeys(
        ["heads1", "heads2", "heads5"], "heads"
    )
    labels = {e["name"]: e["label"] for e in pool.ensembles}
    assert labels["finetune"] == "5 finetuning seeds" and labels["heads1"] == "linear heads"
    assert not any("copies" in c for c in pool.columns)


def test_every_column_is_carried_once_and_the_single_model_comes_first(steps):
    pool, _ = slice_of(steps)
    assert (
        len(pool.columns) == len(set(pool.columns)) == 17
    )  # 5 + 2 new backbones + 2 + 5 heads + 2 adapters + 1
    home = columns_of(pool, "heads1")[0]
    assert columns_of(pool, "finetune")[0] == columns_of(pool, "pretrain")[0] == home
    assert pool.columns[home] == "finetuning seed 1"
    used = {c for e in pool.ensembles for c in e["members"]}
    assert used == set(range(17))


def test_the_columns_are_the_scores_of_the_typical_replicate(steps):
    pool, (ids, lengths, terms) = slice_of(steps)
    home = typical_single(steps)
    kept = kept_of(steps)
    assert pool.N == N and pool.weight.shape == kept.shape  # small enough to be kept whole
    row = np.arange(P)[:, None]
    np.testing.assert_array_equal(pool.counts, terms[row, kept])
    shown = lengths[row, kept] - 1  # without their EOS
    np.testing.assert_array_equal(pool.lengths, shown)
    np.testing.assert_array_equal(pool.tokens, ids[row, kept][np.arange(T) < shown[..., None]])
    for name, ensemble in {"finetune": "finetune5", "heads5": "heads5", "lora": "lora2"}.items():
        e = next(e for e in by_name(steps.ensembles)[ensemble] if e.replicate == home.draw)
        shown = pool.member_scores[..., columns_of(pool, name)]
        np.testing.assert_allclose(shown, e.pool[row, kept], atol=1e-3)


def test_what_never_ended_moves_no_number(steps):
    """Whatever its scores are: means, the start, correlations and the best are those of the answers that ended."""
    spoilt = far_off(steps)
    assert (spoilt.ensembles[0].pool[~steps.ended] < -1e4).all()
    far, pool = slice_of(spoilt)[0], slice_of(steps)[0]
    for name in ("weight", "scores", "scale", "offset", "counts"):
        np.testing.assert_array_equal(getattr(far, name), getattr(pool, name))
    members = columns_of(pool, "finetune")
    start = pool.curve(members, "mean", 1.0, [1])["proxy"][:, 0]
    e = next(e for e in by_name(steps.ensembles)["finetune5"] if e.replicate == typical_single(steps).draw)
    expected = [e.pool[p][steps.ended[p]].mean() for p in range(P)]
    np.testing.assert_allclose(start, expected, atol=1e-3)
    alike = np.mean([np.corrcoef(e.pool[p][steps.ended[p]].T) for p in range(P)], 0)
    order = [list(e.parts).index(m) for m in sorted(e.parts, key=lambda m: m is not typical_single(steps))]
    np.testing.assert_allclose(pool.correlation(members), alike[np.ix_(order, order)], atol=1e-3)


def far_off(scores):
    """The study with -100,000 for every answer that never ended."""
    ended = scores.ended[..., None]
    moved = {m.id: replace(m, pool=np.where(ended, m.pool, np.float32(-1e5))) for m in scores.members}
    ensembles = []
    for e in scores.ensembles:
        parts, rivals = (tuple(moved[m.id] for m in group) for group in (e.parts, e.rivals))
        ensembles.append(replace(e, parts=parts, rivals=rivals))
    return replace(scores, members=list(moved.values()), ensembles=ensembles)


def test_the_same_home_is_seen_from_finetuning_seeds_backbones_and_heads(several):
    pool, _ = slice_of(several)
    home = typical_single(several)
    assert [e["name"] for e in pool.ensembles] == ["finetune", "heads1", "heads2", "heads4", "pretrain"]
    assert [len(e["members"]) for e in pool.ensembles] == [2, 1, 2, 4, 3]
    first = {n: columns_of(pool, n)[0] for n in ("finetune", "heads1", "pretrain")}
    assert len(set(first.values())) == 1
    singles = {(m.backbone, m.finetune): m for m in several.singles if m.draw == home.draw}
    others = [p for p in range(3) if p != home.backbone]
    expected = {
        "finetune": [home, singles[home.backbone, 1 - home.finetune]],
        "pretrain": [home, *(singles[p, home.finetune] for p in others)],
        "heads4": [
            m for m in several.members if m.k == 4 and (m.draw, m.backbone) == (home.draw, home.backbone)
        ],
    }
    for name, members in expected.items():
        scores = np.concatenate([m.pool for m in members], -1)
        shown = pool.member_scores[..., columns_of(pool, name)]
        np.testing.assert_allclose(shown, scores[np.arange(P)[:, None], kept_of(several)], atol=1e-3)


def test_a_study_with_many_members_shows_fewer_prompts(steps, monkeypatch):
    monkeypatch.setattr(module, "FEW", (8, 40))
    monkeypatch.setattr(module, "MANY", (4, 20))
    monkeypatch.setattr(module, "COLUMNS", 17)
    few, _ = slice_of(steps)
    assert few.weight.shape == (8, 40) and few.prompts == [f"prompt {p}" for p in range(8)]
    monkeypatch.setattr(module, "COLUMNS", 16)
    assert slice_of(steps)[0].weight.shape == (4, 20)


def test_it_does_not_depend_on_the_order_of_replicates(steps):
    groups = {e.replicate: [] for e in steps.ensembles}
    for e in steps.ensembles:
        groups[e.replicate].append(e)
    moved = replace(steps, ensembles=[e for s in (2, 0, 1) for e in groups[s]])
    then, now = slice_of(steps)[0], slice_of(moved)[0]
    assert then.columns == now.columns and then.ensembles == now.ensembles
    np.testing.assert_array_equal(then.scores, now.scores)


def test_a_text_study_shows_the_same_ensembles_with_gold_as_a_number(steps):
    pool, _ = slice_of(steps)
    answers = [[f"answer {p} {i}" for i in range(N)] for p in range(P)]
    texts = text_slice(steps, [f"prompt {p}" for p in range(P)], answers, "points")
    assert texts.columns == pool.columns and texts.gold_unit == "points" and texts.bill is None
    assert [e["members"] for e in texts.ensembles] == [e["members"] for e in pool.ensembles]
    kept = [int(texts.text(1, i).split()[-1]) for i in range(texts.gold.shape[1])]
    np.testing.assert_allclose(texts.gold[1], steps.gold[1, kept], atol=1e-5)
    assert set(kept) == set(np.flatnonzero(steps.ended[1]))  # what never ended is left out
    home = typical_single(steps).pool[1, kept, 0]
    np.testing.assert_allclose(texts.member_scores[1, :, 0], home, atol=2 * texts.scale[0])
