"""The ensemble as one reward function: against the ensembles themselves, inside the real TRL, and as OpenRLHF calls it."""

from __future__ import annotations

import importlib.util
import math
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rmlab.optimise.trl as module
from rmlab.optimise.reward import member_scores
from rmlab.optimise.trl import RewardFunction, openrlhf
from rmlab.reward.aggregate import AGGREGATORS, aggregate, usual_strength
from rmlab.reward.dropout import DropoutModel
from rmlab.reward.ensemble import RewardEnsemble, Union
from rmlab.reward.lora import Adapter, LoraModel
from rmlab.reward.model import from_backbone, with_heads
from rmlab.tokens import pad_right

PAD, EOS, VOCABULARY = 0, 2, 167
WORDS = [f"w{i}" for i in range(5, VOCABULARY)]

# transformers deprecates names that TRL 1.16 still uses
TRL_WARNS = pytest.mark.filterwarnings(
    "ignore:.(is_)?gradient_checkpointing(_.*able)?. is deprecated:FutureWarning"
)
K = 3
TEMPLATE = (
    "{% for m in messages %}<bos> {{ m['content'] }} {% endfor %}"
    "{% if formal %}please {% endif %}{% if add_generation_prompt %}<sep>{% endif %}"
)


def build_tokenizer(words):
    """A word for an id, from 5 on."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    names = "<pad>", "<bos>", "<eos>", "<sep>", "<unk>"
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate((*names, *words))}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        sep_token="<sep>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(WORDS)


def align(ensemble, centre, scale):
    """Give members an alignment, by a reference set that has it."""
    ensemble.align(np.array(centre) + np.array([[-1.0], [1.0]]) * np.array(scale))
    return ensemble


@pytest.fixture(scope="module")
def ensembles(tiny_lm):
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
        adapters,
        from_backbone(tiny_lm, K, seed=2).model.score.weight.detach(),
    )
    dropout = DropoutModel(from_backbone(tiny_lm, 1, seed=3), K, 0.3, seed=0)
    kinds = {"heads": heads, "lora": lora, "dropout": dropout}
    for i, ensemble in enumerate(kinds.values()):
        align(ensemble, [0.3 + i, -0.2 + i, 0.1 + i], [0.5, 1.0, 1.5])
    return kinds | {"union": Union([heads, lora])}


@pytest.fixture(scope="module")
def rows():
    """Prompts as text and ids, two answers each: one that ended and one that was cut."""
    rng = np.random.default_rng(27)
    ids = [[1, *rng.integers(5, VOCABULARY, n).tolist(), 3] for n in (6, 4, 6, 5) for _ in range(2)]
    ids = [ids[i - i % 2] for i in range(8)]
    answers = [rng.integers(5, VOCABULARY, rng.integers(2, 14)).tolist() for _ in ids]
    answers = [a + [EOS] if i % 2 == 0 else a for i, a in enumerate(answers)]
    texts = [f"<bos> {' '.join(WORDS[t - 5] for t in prompt[1:-1])} <sep>" for prompt in ids]
    return texts, ids, answers


def truth(ensemble, prompts, answers):
    """Aligned member scores by the ensemble's other way, one answer at a time on its prompt's cache."""
    return np.concatenate([member_scores(ensemble, [p], [a]) for p, a in zip(prompts, answers, strict=True)])


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("method", ["heads", "lora", "dropout", "union"])
def test_rewards_are_the_ensembles_own(method, aggregator, ensembles, rows, tokenizer):
    prompts, ids, answers = rows
    ensemble = ensembles[method]
    strength = usual = usual_strength(aggregator)
    if strength != 1 or aggregator in ("mean_std", "uwo", "entropic"):
        strength = 0.7
    members = truth(ensemble, ids, answers)
    assert members.shape == (8, ensemble.members) and members.std(1).min() > 0.05
    function = RewardFunction(ensemble, aggregator, strength, tokenizer, batch=3)
    got = function(prompts, [""] * 8, completion_ids=answers)
    assert all(isinstance(x, float) for x in got)
    np.testing.assert_allclose(got, aggregate(members, aggregator, strength), atol=2e-5)
    got = RewardFunction(ensemble, aggregator, tokenizer=tokenizer)(prompts, [""] * 8, completion_ids=answers)
    np.testing.assert_allclose(got, aggregate(members, aggregator, usual), atol=2e-5)


def test_the_decoded_text_would_be_scored_otherwise(ensembles, rows, tokenizer):
    """What TRL does with a model as reward: prompt and decoded completion, tokenised again."""
    prompts, ids, answers = rows
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    assert not any("<eos>" in t for t in texts)
    again = tokenizer(text=[p + t for p, t in zip(prompts, texts, strict=True)], add_special_tokens=False)
    padded, mask = pad_right(again["input_ids"])
    with torch.no_grad():
        naive = ensembles["heads"](torch.from_numpy(padded), torch.from_numpy(mask)).amin(-1).numpy()
    got = np.array(RewardFunction(ensembles["heads"], tokenizer=tokenizer)(prompts, texts, answers))
    ended = np.array([a[-1] == EOS for a in answers])
    np.testing.assert_allclose(got[~ended], naive[~ended], atol=1e-5)
    assert np.abs(got - naive)[ended].min() > 0.01
    # and text without ids, if that is all there is, is a finished answer
    finished = [a if e else [*a, EOS] for a, e in zip(answers, ended, strict=True)]
    function = RewardFunction(ensembles["heads"], tokenizer=tokenizer)
    assert function(prompts, texts) == function(ids, finished)
    assert function(prompts, [[{"role": "assistant", "content": t}] for t in texts]) == function(
        ids, finished
    )
    assert function(prompts, [t + " <eos>" for t in texts]) == function(ids, finished)


def test_padding_batches_and_autocast_change_nothing(ensembles, rows):
    _, ids, answers = rows
    function = RewardFunction(ensembles["lora"], "mean_std")
    first = function(ids, answers)
    assert function(ids, [a + [PAD] * i for i, a in enumerate(answers)]) == first
    assert function(ids, [np.array(a) for a in answers]) == first
    assert function(ids, [torch.tensor(a) for a in answers]) == first
    inside = [a[:1] + [PAD] + a[1:] for a in answers]  # a PAD that was sampled in the middle is a token
    assert np.abs(np.array(function(ids, inside)) - first).min() > 1e-3
    back = function(ids[::-1], answers[::-1])[::-1]
    np.testing.assert_allclose(back, first, atol=1e-5)
    for batch in (1, 5):
        other = RewardFunction(ensembles["lora"], "mean_std", batch=batch)(ids, answers)
        np.testing.assert_allclose(other, first, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert function(ids, answers) == first
    assert pickle.loads(pickle.dumps(RewardFunction(ensembles["heads"])))(ids, answers) == RewardFunction(
        ensembles["heads"]
    )(ids, answers)
    assert function([], []) == []


def test_a_cut_answer_costs_what_was_said(ensembles, rows):
    _, ids, answers = rows
    plain, fined = (
        RewardFunction(ensembles["heads"], missing_eos_penalty=m)(ids, answers) for m in (0.0, 2.5)
    )
    np.testing.assert_allclose(np.subtract(plain, fined), [0.0, 2.5] * 4, atol=1e-6)
    # an answer of PADs only is scored as a bare EOS, and counts as cut
    function = RewardFunction(ensembles["heads"], missing_eos_penalty=2.5)
    (bare,), (empty,), (none,) = (function(ids[:1], [a]) for a in ([EOS], [PAD, PAD], []))
    assert empty == none == pytest.approx(bare - 2.5, abs=1e-6)
    assert not function.judge(ids[:1], [[PAD]]).ended[0] and function.judge(ids[:1], [[EOS, PAD]]).ended[0]


def test_what_is_logged(tiny_lm, rows):
    _, ids, answers = rows
    ensemble = align(from_backbone(tiny_lm, K, seed=0), [-0.3, 0.3, 0.0], [1.0, 1.0, 1.0])
    metrics, columns = {}, {}
    function = RewardFunction(ensemble, "min", missing_eos_penalty=3.0, name="pessimist")
    got = function(ids, answers, log_metric=metrics.__setitem__, log_extra=columns.__setitem__)
    assert got == function(prompts=ids, completions=answers, trainer_state=None, label=["x"] * 8)
    members = truth(ensemble, ids, answers)
    assert list(columns) == [f"pessimist/member_{k}" for k in range(K)]
    np.testing.assert_allclose(np.transpose(list(columns.values())), members, atol=2e-5)
    assert all(isinstance(x, float) for column in columns.values() for x in column)
    counts = np.bincount(members.argmin(1), minlength=K)
    assert counts.max() < 8 and counts.argmax() > 0  # or the share below would say little
    expected = {
        "mean": members.mean(),
        "std": members.std(1).mean(),
        "cost": members.mean() - members.min(1).mean(),
        "min_share": counts.max() / 8,
        "ended": 0.5,
    }
    assert metrics == {f"pessimist/{k}": pytest.approx(v, abs=2e-5) for k, v in expected.items()}


def test_chat_prompts_are_rendered(ensembles, rows, tokenizer):
    prompts, ids, answers = rows
    asking = build_tokenizer(WORDS)
    asking.chat_template = TEMPLATE
    texts = [p.removeprefix("<bos> ").removesuffix(" <sep>") for p in prompts]
    chats = [[{"role": "user", "content": t}] for t in texts]
    plain = RewardFunction(ensembles["heads"], tokenizer=asking)
    assert plain.prompt_ids(chats) == plain.prompt_ids(prompts) == plain.prompt_ids(ids) == ids
    assert plain(chats, [""] * 8, answers) == plain(ids, answers)
    formal = RewardFunction(ensembles["heads"], tokenizer=asking, chat_template_kwargs={"formal": True})
    assert [len(p) for p in formal.prompt_ids(chats)] == [len(p) + 1 for p in ids]


def test_settings_that_cannot_be_are_named(ensembles, tiny_lm):
    heads = ensembles["heads"]
    for words, message in [
        ({"aggregator": "worst"}, "aggregator = 'worst': give one of mean"),
        ({"aggregator": "quantile", "strength": 2.0}, "= 2.0 is out of range"),
        ({"batch": 0}, "batch = 0: give at least 1"),
        ({"missing_eos_penalty": -1.0}, "missing_eos_penalty = -1.0: give a penalty of 0 or more"),
        ({"missing_eos_penalty": math.nan}, "missing_eos_penalty = nan: give"),
        (
            {"tokenizer": build_tokenizer([*WORDS, "w167"])},
            r"tokenizer = '168 tokens': give the ensemble's.*167",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            RewardFunction(heads, **words)
    other = build_tokenizer(WORDS)
    other.eos_token = "<sep>"
    with pytest.raises(ValueError, match=r"tokenizer.eos_token_id = 3: give an EOS .*\[2\]"):
        RewardFunction(heads, tokenizer=other)
    processor = SimpleNamespace(tokenizer=build_tokenizer(WORDS), chat_template=TEMPLATE)
    with pytest.raises(ValueError, match=r"chat_template of the processor = .*: give its tokenizer's"):
        RewardFunction(heads, tokenizer=processor)
    processor.tokenizer.chat_template = TEMPLATE
    chat = [{"role": "user", "content": "w5"}]
    assert RewardFunction(heads, tokenizer=processor).prompt_ids([chat]) == [[1, 5, 3]]
    with pytest.raises(ValueError, match="never aligned = 'min': give mean, or align"):
        RewardFunction(from_backbone(tiny_lm, K, seed=0))
    assert RewardFunction(from_backbone(tiny_lm, K, seed=0), "mean")([[5]], [[7, EOS]])
    with pytest.raises(ValueError, match="ensemble = 'Bare': give one whose members are transformers"):
        RewardFunction(Bare())


class Bare(RewardEnsemble):
    """An ensemble without a transformer."""

    members, centre, scale, aligned = 1, torch.zeros(1), torch.ones(1), True

    def __init__(self):
        torch.nn.Module.__init__(self)


def test_batches_that_cannot_be_scored_are_named(ensembles, rows, tokenizer):
    prompts, ids, answers = rows
    blind = RewardFunction(ensembles["heads"])
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
    strange = r"token ids of the prompts and answers = \[167, 900\]: give .*0 to 166.*the policy's tokenizer"
    with pytest.raises(ValueError, match=strange):
        blind(ids[:2], [[7, 900, EOS], [167]])
    with pytest.raises(ValueError, match=r"answers = \[-100\]"):
        blind(ids[:1], [[7, -100]])


@pytest.mark.parametrize(
    "completion",
    [
        [{"role": "assistant", "content": "w5"}, {"role": "tool", "content": "w6"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "w5"}]}],
        [{"role": "assistant", "content": None}],
        [],
    ],
)
def test_messages_that_are_not_one_text_need_their_ids(ensembles, rows, tokenizer, completion):
    function = RewardFunction(ensembles["heads"], tokenizer=tokenizer)
    plain = [{"role": "assistant", "content": "w5"}]
    with pytest.raises(
        ValueError, match=r"completions = .*: give completion_ids, or one message of plain text"
    ):
        function(rows[0][:2], [plain, completion])


def test_scores_that_are_no_numbers_are_named(ensembles, rows, tiny_lm):
    _, ids, answers = rows
    broken = align(from_backbone(tiny_lm, K, seed=0), [0.0] * K, [1.0] * K)
    for scale in (math.nan, 0.0):  # NaN, and an infinity
        broken.scale[1] = scale
        with pytest.raises(ValueError, match=r"scores of members \[1\] = 'not finite on 8 of 8 completions'"):
            RewardFunction(broken, "median")(ids, answers)


def test_special_tokens_are_the_ensembles(vocabulary):
    """Whatever its EOS and PAD: any EOS ends an answer, and PAD at its end is not part of it."""
    special, model = vocabulary
    function = RewardFunction(align(from_backbone(model, 2, seed=0), [0.5, 0.0], [1.0, 2.0]))
    assert function.eos == special.eos[0]
    answers = [[20, end] for end in special.eos] + [[20, 21]]
    padded = [answer + [special.pad] * 3 for answer in answers]
    prompts = [[30, 31]] * len(answers)
    judged, again = (function.judge(prompts, rows) for rows in (answers, padded))
    assert judged.ended.tolist() == again.ended.tolist() == [True] * len(special.eos) + [False]
    np.testing.assert_array_equal(judged.members, again.members)
    np.testing.assert_allclose(judged.members, truth(function.ensemble, prompts, answers), atol=2e-5)


# --- inside TRL -------------------------------------------------------------------------------------------------------


class Noted(RewardFunction):
    """Keeps what TRL gave and got."""

    def __call__(self, prompts, completions, **rest):
        got = super().__call__(prompts, completions, **rest)
        self.calls.append((prompts, completions, rest, got))
        return got


@pytest.fixture(scope="module")
def folder(tiny_policy, tmp_path_factory, tokenizer):
    """A policy and its tokenizer on disk: what TRL reads, and its reference with beta > 0."""
    at = tmp_path_factory.mktemp("policy")
    tiny_policy(VOCABULARY, 5, 32).save_pretrained(at)
    asking = build_tokenizer(WORDS)
    asking.chat_template = TEMPLATE
    asking.save_pretrained(at)
    return at


def trainer(name, beta, folder, out, function, prompts):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    args = getattr(trl, f"{name}Config")(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        beta=beta,
        learning_rate=1e-2,
        generation_kwargs={"sequence_bias": [[[EOS], 3.0]]},
        chat_template_kwargs={"formal": True},
    )
    data = datasets.Dataset.from_dict({"prompt": prompts, "label": ["x"] * len(prompts)})
    return getattr(trl, f"{name}Trainer")(str(folder), reward_funcs=function, args=args, train_dataset=data)


@TRL_WARNS
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("name", "beta"), [("GRPO", 0.0), ("GRPO", 0.1), ("RLOO", 0.0), ("RLOO", 0.1)])
def test_two_steps_of_the_real_trainers(name, beta, chat, folder, ensembles, rows, tokenizer, tmp_path):
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts = sorted(set(rows[0]))
    if chat:
        prompts = [[{"role": "user", "content": p[6:-6]}] for p in prompts]
    function = Noted(
        ensembles["union"],
        "mean_std",
        tokenizer=AutoTokenizer.from_pretrained(folder),
        missing_eos_penalty=1.5,
        chat_template_kwargs={"formal": True},
    )
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
    for step, (questions, texts, rest, rewards) in zip(steps, function.calls, strict=True):
        ids = rest["completion_ids"]
        assert {"trainer_state", "log_extra", "log_metric", "label"} <= set(rest) and len(rewards) == 8
        # TRL's prompt and the function's are the same ids; its text has lost the EOS, its ids have not
        assert function.prompt_ids(questions) == train._tokenize_prompts(questions)[0]
        plain = [t[0]["content"] if chat else t for t in texts]
        assert not any("<eos>" in t for t in plain) and any(a[-1] == EOS for a in ids)
        members = truth(ensembles["union"], function.prompt_ids(questions), ids)
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
    np.testing.assert_allclose(
        np.transpose([columns[f"ensemble/member_{k}"] for k in range(2 * K)]), members, atol=5e-5
    )


@TRL_WARNS
def test_two_functions_in_one_trainer(folder, ensembles, rows, tokenizer, tmp_path):
    """Under names of their own, and TRL's sum of them is not an ensemble's minimum."""
    both = [
        RewardFunction(ensembles["heads"], rule, tokenizer=tokenizer, name=rule) for rule in ("min", "mean")
    ]
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


def test_openrlhf_reads_what_was_sampled(ensembles, rows, tokenizer):
    prompts, ids, answers = rows
    function = RewardFunction(ensembles["lora"], "uwo", 0.5, tokenizer, missing_eos_penalty=1.0)
    got = openrlhf(function)(queries(rows, tokenizer), prompts, ["label"] * 8)
    expected = function(ids, answers)
    assert got["rewards"].tolist() == got["scores"].tolist() == pytest.approx(expected, abs=1e-5)
    assert got["rewards"].dtype == torch.float32 and got["rewards"].shape == (8,)
    members = truth(ensembles["lora"], ids, answers)
    logs = got["extra_logs"]
    assert set(logs) == {*(f"ensemble/member_{k}" for k in range(K)), "ensemble/std", "ensemble/ended"}
    assert all(isinstance(x, torch.Tensor) and x.shape == (8,) for x in logs.values())
    np.testing.assert_allclose(
        np.stack([logs[f"ensemble/member_{k}"] for k in range(K)], 1), members, atol=2e-5
    )
    np.testing.assert_allclose(logs["ensemble/std"], members.std(1), atol=2e-5)
    assert logs["ensemble/ended"].tolist() == [1.0, 0.0] * 4
    # a prompt that was cut on the left is no longer the query's start: the query is read as it is
    short = [
        tokenizer.decode(p[3:] + a, skip_special_tokens=False) for p, a in zip(ids, answers, strict=True)
    ]
    left = openrlhf(function)(short, prompts, [None] * 8)["rewards"].tolist()
    assert left == pytest.approx(function([p[3:] for p in ids], answers), abs=1e-5)
    assert np.abs(np.subtract(left, expected)).min() > 1e-3


def test_openrlhf_may_pad_on_the_left(ensembles, rows, tokenizer):
    """As its older versions do: the query no longer begins with the prompt, and its pads are no answer."""
    reward_func = openrlhf(RewardFunction(ensembles["heads"], tokenizer=tokenizer))
    texts = queries(rows, tokenizer)
    plain = reward_func(texts, rows[0], [None] * 8)["rewards"]
    padded = reward_func(["<pad> <pad> " + text for text in texts], rows[0], [None] * 8)["rewards"]
    torch.testing.assert_close(padded, plain, atol=2e-5, rtol=0)


def test_openrlhf_calls_one_by_one_from_threads(ensembles, rows, tokenizer):
    """Members of one base take turns in its weights: without the lock, threads read each other's."""
    prompts, ids, answers = rows
    function = RewardFunction(ensembles["lora"], tokenizer=tokenizer)
    reward_func, texts = openrlhf(function), queries(rows, tokenizer)
    expected, start = function(ids, answers), threading.Barrier(4)

    def work(i):
        start.wait()
        return [reward_func([q], [p], [None])["rewards"].item() for q, p in zip(texts, prompts, strict=True)]

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(work, range(4)):
            assert got == pytest.approx(expected, abs=1e-5)


def test_the_reward_file_of_the_docstring_runs(ensembles, rows, folder, tmp_path, monkeypatch, tokenizer):
    block = module.__doc__.split("--reward.remote_url")[1]
    code = "\n".join(re.findall(r"^    (\S.*)$", block, re.M))
    assert "reward_func = openrlhf(" in code
    ensembles["heads"].save(tmp_path / "rewards")
    (tmp_path / "policy").symlink_to(folder)
    (tmp_path / "rewards.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("reward_func", "rewards.py")  # as OpenRLHF loads it
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    got = loaded.reward_func(queries(rows, tokenizer), rows[0], [None] * 8)["rewards"].numpy()
    np.testing.assert_allclose(got, truth(ensembles["heads"], rows[1], rows[2]).min(1), atol=2e-5)
