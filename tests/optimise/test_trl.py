"""The ensemble as one reward function: against the scorers themselves, inside the real TRL, and as OpenRLHF calls it."""

from __future__ import annotations

import importlib.util
import math
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import rmlab.optimise.trl as module
from rmlab.backbone import build
from rmlab.optimise.trl import RewardFunction, openrlhf
from rmlab.recipe import Size
from rmlab.reward.aggregate import AGGREGATORS, aggregate
from rmlab.reward.dropout import DropoutModel
from rmlab.reward.lora import Adapter, LoraModel
from rmlab.reward.model import RewardModel, Union, from_backbone, with_heads
from rmlab.sources.sandbox.world import VOCAB, WORDS, requests
from rmlab.tokens import EOS, PAD, build_tokenizer, pad_right

# transformers deprecates names that TRL 1.16 still uses
TRL_WARNS = pytest.mark.filterwarnings(
    "ignore:.(is_)?gradient_checkpointing(_.*able)?. is deprecated:FutureWarning"
)
K = 3
TEMPLATE = (
    "{% for m in messages %}<bos> {{ m['content'] }} {% endfor %}"
    "{% if formal %}please {% endif %}{% if add_generation_prompt %}<sep>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(WORDS)


@pytest.fixture(scope="module")
def scorers(tiny_lm):
    """One of each kind, K members, aligned on offsets and scales that are not 0 and 1."""
    heads = from_backbone(tiny_lm, K, seed=0)
    base = from_backbone(tiny_lm, 1, seed=1)
    noise = torch.Generator().manual_seed(0)
    adapters = [Adapter.fresh(base.trunk, 2, 4.0, "all-linear", 0, seed=k) for k in range(K)]
    for adapter in adapters:
        for _, b in adapter.pairs.values():
            b.data.normal_(0, 0.3, generator=noise)
    lora = LoraModel(
        with_heads(base.model, torch.zeros(1, 32)),
        [a.detached() for a in adapters],
        from_backbone(tiny_lm, K, seed=2).model.score.weight.detach(),
    )
    dropout = DropoutModel(from_backbone(tiny_lm, 1, seed=3), K, 0.3, seed=0)
    made = {"heads": heads, "lora": lora, "dropout": dropout}
    for i, scorer in enumerate(made.values()):
        scorer.centre = torch.tensor([0.3, -0.2, 0.1]) + i
        scorer.scale = torch.tensor([0.5, 1.0, 1.5])
    return made | {"union": Union([heads, lora])}


@pytest.fixture(scope="module")
def rows():
    """Prompts as text and ids, two answers each: one that ended and one that was cut."""
    rng = np.random.default_rng(0)
    asked = [r for r in requests(4, rng) for _ in range(2)]
    answers = [rng.integers(5, len(VOCAB), rng.integers(2, 14)).tolist() for _ in asked]
    answers = [a + [EOS] if i % 2 == 0 else a for i, a in enumerate(answers)]
    return [f"<bos> {r.text} <sep>" for r in asked], [r.ids() for r in asked], answers


def truth(scorer, prompts, answers):
    """Aligned member scores by the scorer's other way, one answer at a time on its prompt's cache."""
    raw = [
        scorer.score(np.array(p), np.array([a]), np.array([len(a)]))[0]
        for p, a in zip(prompts, answers, strict=True)
    ]
    return (np.stack(raw) - scorer.centre.numpy()) / scorer.scale.numpy()


@pytest.mark.parametrize("how", AGGREGATORS)
@pytest.mark.parametrize("kind", ["heads", "lora", "dropout", "union"])
def test_rewards_are_the_scorers_own(kind, how, scorers, rows, tokenizer):
    prompts, ids, answers = rows
    scorer = scorers[kind]
    lam = None if AGGREGATORS[how].lam is None else 0.7
    members = truth(scorer, ids, answers)
    assert members.shape == (8, scorer.members) and members.std(1).min() > 0.05
    got = RewardFunction(scorer, how, lam, tokenizer, batch=3)(prompts, [""] * 8, completion_ids=answers)
    assert all(isinstance(x, float) for x in got)
    np.testing.assert_allclose(got, aggregate(members, how, lam or 1.0), atol=2e-5)
    usual = RewardFunction(scorer, how, tokenizer=tokenizer)(prompts, [""] * 8, completion_ids=answers)
    strength = AGGREGATORS[how].lam and AGGREGATORS[how].lam[2]
    np.testing.assert_allclose(usual, aggregate(members, how, strength or 1.0), atol=2e-5)


def test_the_decoded_text_would_be_scored_otherwise(scorers, rows, tokenizer):
    """What TRL does with a model as reward: prompt and decoded completion, tokenised again."""
    prompts, ids, answers = rows
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    assert not any("<eos>" in t for t in texts)
    again = tokenizer(text=[p + t for p, t in zip(prompts, texts, strict=True)], add_special_tokens=False)
    padded, mask = pad_right(again["input_ids"])
    with torch.no_grad():
        naive = scorers["heads"](torch.from_numpy(padded), torch.from_numpy(mask)).amin(-1).numpy()
    got = np.array(RewardFunction(scorers["heads"], tokenizer=tokenizer)(prompts, texts, answers))
    ended = np.array([a[-1] == EOS for a in answers])
    np.testing.assert_allclose(got[~ended], naive[~ended], atol=1e-5)
    assert np.abs(got - naive)[ended].min() > 0.05
    # and text without ids, if that is all there is, is a finished answer
    finished = [a if e else [*a, EOS] for a, e in zip(answers, ended, strict=True)]
    function = RewardFunction(scorers["heads"], tokenizer=tokenizer)
    assert function(prompts, texts) == function(ids, finished)
    assert function(prompts, [[{"role": "assistant", "content": t}] for t in texts]) == function(
        ids, finished
    )
    assert function(prompts, [t + " <eos>" for t in texts]) == function(ids, finished)


def test_padding_batches_and_autocast_change_nothing(scorers, rows):
    _, ids, answers = rows
    function = RewardFunction(scorers["lora"], "mean_std")
    first = function(ids, answers)
    assert function(ids, [a + [PAD] * i for i, a in enumerate(answers)]) == first
    assert function(ids, [np.array(a) for a in answers]) == first
    assert function(ids, [torch.tensor(a) for a in answers]) == first
    inside = [a[:1] + [PAD] + a[1:] for a in answers]  # a PAD that was sampled in the middle is a token
    assert np.abs(np.array(function(ids, inside)) - first).min() > 1e-3
    back = function(ids[::-1], answers[::-1])[::-1]
    np.testing.assert_allclose(back, first, atol=1e-5)
    for batch in (1, 5):
        other = RewardFunction(scorers["lora"], "mean_std", batch=batch)(ids, answers)
        np.testing.assert_allclose(other, first, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert function(ids, answers) == first
    assert pickle.loads(pickle.dumps(RewardFunction(scorers["heads"])))(ids, answers) == RewardFunction(
        scorers["heads"]
    )(ids, answers)
    assert function([], []) == []


def test_a_cut_answer_costs_what_was_said(scorers, rows):
    _, ids, answers = rows
    plain, fined = (RewardFunction(scorers["heads"], missing_eos=m)(ids, answers) for m in (0.0, 2.5))
    np.testing.assert_allclose(np.subtract(plain, fined), [0.0, 2.5] * 4, atol=1e-6)
    # an answer of PADs only is scored as a bare EOS, and counts as cut
    function = RewardFunction(scorers["heads"], missing_eos=2.5)
    (bare,), (empty,), (none,) = (function(ids[:1], [a]) for a in ([EOS], [PAD, PAD], []))
    assert empty == none == pytest.approx(bare - 2.5, abs=1e-6)
    assert not function.judge(ids[:1], [[PAD]]).ended[0] and function.judge(ids[:1], [[EOS, PAD]]).ended[0]


def test_what_is_logged(tiny_lm, rows):
    _, ids, answers = rows
    scorer = from_backbone(tiny_lm, K, seed=0)
    scorer.centre = torch.tensor([-0.3, 0.3, 0.0])
    metrics, columns = {}, {}
    function = RewardFunction(scorer, "min", missing_eos=3.0, name="pessimist")
    got = function(ids, answers, log_metric=metrics.__setitem__, log_extra=columns.__setitem__)
    assert got == function(prompts=ids, completions=answers, trainer_state=None, label=["x"] * 8)
    members = truth(scorer, ids, answers)
    assert list(columns) == [f"pessimist/member_{k}" for k in range(K)]
    np.testing.assert_allclose(np.transpose(list(columns.values())), members, atol=2e-5)
    assert all(isinstance(x, float) for column in columns.values() for x in column)
    counts = np.bincount(members.argmin(1), minlength=K)
    assert counts.max() < 8 and counts.argmax() > 0  # or the share below would say little
    expected = {
        "mean": members.mean(), "std": members.std(1).mean(), "cost": members.mean() - members.min(1).mean(),
        "min_share": counts.max() / 8, "ended": 0.5,
    }  # fmt: skip
    assert metrics == {f"pessimist/{k}": pytest.approx(v, abs=2e-5) for k, v in expected.items()}


def test_chat_prompts_are_rendered(scorers, rows, tokenizer):
    prompts, ids, answers = rows
    asking = build_tokenizer(WORDS)
    asking.chat_template = TEMPLATE
    texts = [p.removeprefix("<bos> ").removesuffix(" <sep>") for p in prompts]
    chats = [[{"role": "user", "content": t}] for t in texts]
    plain = RewardFunction(scorers["heads"], tokenizer=asking)
    assert plain.prompt_ids(chats) == plain.prompt_ids(prompts) == plain.prompt_ids(ids) == ids
    assert plain(chats, [""] * 8, answers) == plain(ids, answers)
    formal = RewardFunction(scorers["heads"], tokenizer=asking, chat_template_kwargs={"formal": True})
    assert [len(p) for p in formal.prompt_ids(chats)] == [len(p) + 1 for p in ids]


def test_errors_name_the_field_and_the_mend(scorers, rows, tokenizer, tiny_lm):
    prompts, ids, answers = rows
    heads = scorers["heads"]
    for words, message in [
        ({"how": "worst"}, "how = 'worst' is no aggregator"),
        ({"how": "quantile", "lam": 2.0}, "lam = 2.0 is out of range"),
        ({"batch": 0}, "batch = 0: give at least 1"),
        ({"missing_eos": -1.0}, "missing_eos = -1.0: give a penalty of 0 or more"),
        ({"missing_eos": math.nan}, "missing_eos = nan: give"),
        (
            {"tokenizer": build_tokenizer([*WORDS, "extra"])},
            r"tokenizer = '153 tokens': give the scorer's.*152",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            RewardFunction(heads, **words)
    other = build_tokenizer(WORDS)
    other.eos_token = "<sep>"
    with pytest.raises(ValueError, match=r"tokenizer.eos_token_id = 3: give the EOS .*\[2\]"):
        RewardFunction(heads, tokenizer=other)

    blind = RewardFunction(heads)
    with pytest.raises(ValueError, match="tokenizer = None: give the policy's tokenizer: prompts are text"):
        blind(prompts, answers)
    with pytest.raises(ValueError, match=r"tokenizer = None: .*prompts are messages"):
        blind([[{"role": "user", "content": "hi"}]], answers[:1])
    with pytest.raises(ValueError, match=r"tokenizer = None: .*completions are text"):
        blind(ids, ["hi"] * 8)
    with pytest.raises(ValueError, match=r"tokenizer = None: .*queries are text"):
        openrlhf(blind)(["a b"], ["a"], [None])
    with pytest.raises(ValueError, match="queries = '2 rows': give one a prompt, 1"):
        openrlhf(blind)(["a b", "a c"], ["a"], [None])
    with pytest.raises(ValueError, match="completion_ids = '7 rows': give one a prompt, 8"):
        blind(ids, [""] * 8, answers[:7])
    with pytest.raises(ValueError, match="completions = '7 rows': give one a prompt, 8"):
        blind(ids, answers[:7])
    with pytest.raises(
        ValueError, match=r"token ids = \[152, 900\]: give .*0 to 151.*the policy's tokenizer"
    ):
        blind(ids[:2], [[7, 900, EOS], [152]])
    told = [[{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]]
    with pytest.raises(ValueError, match="completions = '2 messages': give completion_ids"):
        RewardFunction(heads, tokenizer=tokenizer)(prompts[:1], told)

    broken = from_backbone(tiny_lm, K, seed=0)
    broken.scale = torch.tensor([1.0, 0.0, 1.0])
    for value in (math.nan, 1.0):  # NaN, and an infinity from a scale of 0
        broken.scale[1] = 0.0 if value == 1.0 else value
        with pytest.raises(ValueError, match=r"scores of members \[1\] = 'not finite on 8 of 8 completions'"):
            RewardFunction(broken, "median")(ids, answers)
    with pytest.raises(ValueError, match="scorer = 'Union': give one whose members are transformers"):
        RewardFunction(Union([torch.nn.Module.__new__(_Bare)]))
    mixed = from_backbone(tiny_lm, 1, seed=0)
    mixed.model.config.eos_token_id = 3
    with pytest.raises(ValueError, match=r"scorer's eos_token_id = .*give models with one and the same"):
        RewardFunction(Union([heads, mixed]))
    mixed.model.config.eos_token_id = [2, 3]  # several, as chat models have
    either = RewardFunction(mixed).judge(ids[:3], [[7, 2], [7, 3], [7]])
    assert either.ended.tolist() == [True, True, False]


class _Bare(RewardModel):
    """A scorer without a transformer."""

    members, centre, scale = 1, torch.zeros(1), torch.ones(1)
    _modules, _parameters, _buffers = {}, {}, {}


# --- inside TRL -------------------------------------------------------------------------------------------------------


class Noted(RewardFunction):
    """Keeps what TRL gave and got."""

    def __call__(self, prompts, completions, **rest):
        got = super().__call__(prompts, completions, **rest)
        self.calls.append((prompts, completions, rest, got))
        return got


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A policy and its tokenizer on disk: what TRL reads, and its reference with beta > 0."""
    at = tmp_path_factory.mktemp("policy")
    build(Size(hidden=32, layers=2, heads=4, ff=48), len(VOCAB), seed=5).save_pretrained(at)
    asking = build_tokenizer(WORDS)
    asking.chat_template = TEMPLATE
    asking.save_pretrained(at)
    return at


def trainer(name, beta, folder, out, function, prompts):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    args = getattr(trl, f"{name}Config")(
        output_dir=str(out), use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1,
        max_steps=2, per_device_train_batch_size=8, num_generations=4, max_completion_length=12, beta=beta, learning_rate=1e-2,
        generation_kwargs={"sequence_bias": [[[EOS], 3.0]]}, chat_template_kwargs={"formal": True},
    )  # fmt: skip
    data = datasets.Dataset.from_dict({"prompt": prompts, "label": ["x"] * len(prompts)})
    return getattr(trl, f"{name}Trainer")(str(folder), reward_funcs=function, args=args, train_dataset=data)


@TRL_WARNS
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("name", "beta"), [("GRPO", 0.0), ("GRPO", 0.1), ("RLOO", 0.0), ("RLOO", 0.1)])
def test_two_steps_of_the_real_trainers(name, beta, chat, folder, scorers, rows, tokenizer, tmp_path):
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts = sorted(set(rows[0]))
    if chat:
        prompts = [[{"role": "user", "content": p[6:-6]}] for p in prompts]
    function = Noted(
        scorers["union"], "mean_std", tokenizer=AutoTokenizer.from_pretrained(folder), missing_eos=1.5,
        chat_template_kwargs={"formal": True},
    )  # fmt: skip
    function.calls = []
    train = trainer(name, beta, folder, tmp_path, function, prompts)
    before = {n: w.clone() for n, w in train.model.state_dict().items()}
    if beta:
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        assert all(torch.equal(w, saved[n]) for n, w in train.ref_model.state_dict().items())
    train.train()
    assert any(not torch.equal(w, before[n]) for n, w in train.model.state_dict().items())

    steps = [x for x in train.state.log_history if "reward" in x]
    assert len(steps) == len(function.calls) == 2
    cut = 0
    for step, (asked, texts, rest, rewards) in zip(steps, function.calls, strict=True):
        ids = rest["completion_ids"]
        assert {"trainer_state", "log_extra", "log_metric", "label"} <= set(rest) and len(rewards) == 8
        # TRL's prompt and the function's are the same ids; its text has lost the EOS, its ids have not
        assert function.prompt_ids(asked) == train._tokenize_prompts(asked)[0]
        plain = [t[0]["content"] if chat else t for t in texts]
        assert not any("<eos>" in t for t in plain) and any(a[-1] == EOS for a in ids)
        members = truth(scorers["union"], function.prompt_ids(asked), ids)
        fine = np.array([0.0 if a[-1] == EOS else 1.5 for a in ids])
        cut += int(fine.any())
        np.testing.assert_allclose(rewards, aggregate(members, "mean_std", 1.0) - fine, atol=5e-5)
        # and what TRL logged is what the function returned
        assert step["reward"] == step["rewards/ensemble/mean"] == pytest.approx(np.mean(rewards), abs=1e-5)
        assert step["ensemble/mean"] == pytest.approx(members.mean(), abs=5e-5)
        assert step["ensemble/std"] == pytest.approx(members.std(1).mean(), abs=5e-5)
        assert step["ensemble/ended"] == pytest.approx((fine == 0).mean())
        assert step["ensemble/ended"] == pytest.approx(1 - step["completions/clipped_ratio"])
        assert {"ensemble/cost", "ensemble/min_share"} <= set(step) and (("kl" in step) == (beta > 0))
    assert cut  # the penalty was at work
    assert list(train._logs["rewards"]["ensemble"]) == pytest.approx(function.calls[-1][3])
    columns = train._logs["extra"]
    assert set(columns) == {f"ensemble/member_{k}" for k in range(2 * K)}
    np.testing.assert_allclose(np.transpose([columns[f"ensemble/member_{k}"] for k in range(2 * K)]), members, atol=5e-5)  # fmt: skip


@TRL_WARNS
def test_two_functions_in_one_trainer(folder, scorers, rows, tokenizer, tmp_path):
    """Under names of their own, and TRL's sum of them is not an ensemble's minimum."""
    both = [RewardFunction(scorers["heads"], how, tokenizer=tokenizer, name=how) for how in ("min", "mean")]
    train = trainer("GRPO", 0.0, folder, tmp_path, both, rows[0])
    train.train()
    step = train.state.log_history[0]
    assert step["reward"] == pytest.approx(step["rewards/min/mean"] + step["rewards/mean/mean"], abs=1e-5)
    assert step["rewards/min/mean"] < step["rewards/mean/mean"] - 0.1
    assert step["min/cost"] == pytest.approx(step["rewards/mean/mean"] - step["rewards/min/mean"], abs=1e-4)
    assert {len(c) for c in train._logs["extra"].values()} == {8} and len(train._logs["extra"]) == 2 * K


def test_it_imports_without_trl_and_does_not_hide_it():
    code = "import sys; sys.modules['trl'] = None; import rmlab.optimise.trl as t; print(t.RewardFunction.__name__, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["RewardFunction", "False"]
    if importlib.util.find_spec("trl"):
        assert importlib.util.find_spec("trl").origin != module.__file__


# --- as OpenRLHF calls it ---------------------------------------------------------------------------------------------


def queries(rows, tokenizer):
    """As its executor makes them: prompt and action ids decoded together, special tokens and all."""
    return [tokenizer.decode(p + a, skip_special_tokens=False) for p, a in zip(*rows[1:], strict=True)]


def test_openrlhf_reads_what_was_sampled(scorers, rows, tokenizer):
    prompts, ids, answers = rows
    function = RewardFunction(scorers["lora"], "uwo", 0.5, tokenizer, missing_eos=1.0)
    got = openrlhf(function)(queries(rows, tokenizer), prompts, ["label"] * 8)
    expected = function(ids, answers)
    assert got["rewards"].tolist() == got["scores"].tolist() == pytest.approx(expected, abs=1e-5)
    assert got["rewards"].dtype == torch.float32 and got["rewards"].shape == (8,)
    members = truth(scorers["lora"], ids, answers)
    logs = got["extra_logs"]
    assert set(logs) == {*(f"ensemble/member_{k}" for k in range(K)), "ensemble/std", "ensemble/ended"}
    assert all(isinstance(x, torch.Tensor) and x.shape == (8,) for x in logs.values())
    np.testing.assert_allclose(np.stack([logs[f"ensemble/member_{k}"] for k in range(K)], 1), members, atol=2e-5)  # fmt: skip
    np.testing.assert_allclose(logs["ensemble/std"], members.std(1), atol=2e-5)
    assert logs["ensemble/ended"].tolist() == [1.0, 0.0] * 4
    # a prompt that was cut on the left is no longer the query's start: the query is read as it is
    short = [
        tokenizer.decode(p[3:] + a, skip_special_tokens=False) for p, a in zip(ids, answers, strict=True)
    ]
    left = openrlhf(function)(short, prompts, [None] * 8)["rewards"].tolist()
    assert left == pytest.approx(function([p[3:] for p in ids], answers), abs=1e-5)
    assert np.abs(np.subtract(left, expected)).min() > 1e-3


def test_openrlhf_calls_one_by_one_from_threads(scorers, rows, tokenizer):
    """Members of one base take turns in its weights: without the lock, threads read each other's."""
    prompts, ids, answers = rows
    function = RewardFunction(scorers["lora"], tokenizer=tokenizer)
    reward_func, asked = openrlhf(function), queries(rows, tokenizer)
    expected, start = function(ids, answers), threading.Barrier(4)

    def work(i):
        start.wait()
        return [reward_func([q], [p], [None])["rewards"].item() for q, p in zip(asked, prompts, strict=True)]

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(work, range(4)):
            assert got == pytest.approx(expected, abs=1e-5)


def test_the_reward_file_of_the_docstring_runs(scorers, rows, folder, tmp_path, monkeypatch, tokenizer):
    block = module.__doc__.split("--reward.remote_url")[1]
    code = "\n".join(re.findall(r"^    (\S.*)$", block, re.M))
    assert "reward_func = openrlhf(" in code
    scorers["heads"].save(tmp_path / "rewards")
    (tmp_path / "policy").symlink_to(folder)
    (tmp_path / "rewards.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("reward_func", "rewards.py")  # as OpenRLHF loads it
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    got = made.reward_func(queries(rows, tokenizer), rows[0], [None] * 8)["rewards"].numpy()
    np.testing.assert_allclose(got, truth(scorers["heads"], rows[1], rows[2]).min(1), atol=2e-5)
