"""Other people's tools read what is saved here and give its numbers: transformers, PEFT, TRL, OpenRLHF."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import rmlab
from rmlab.optimise.trl import openrlhf
from tests.own_model import EOS

# transformers deprecates names that TRL 1.16 and PEFT 0.21 still use
pytestmark = pytest.mark.filterwarnings(
    "ignore:.(is_)?gradient_checkpointing(_.*able)?. is deprecated:FutureWarning"
)
CHATS = [
    [{"role": "user", "content": "Which way?"}],
    [
        {"role": "user", "content": "Hello, is anyone there?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Good ✓"},
    ],
    [{"role": "user", "content": "Left, or right?"}],
    [{"role": "user", "content": "?"}],
]
STRINGS = ["Which way?", "Hello, is anyone there? ", " Left,\n\nor right?", "✓"]
ANSWERS = ["Left.", "Yes, warm and kind. 3", "No.", ""]
METHODS = {"heads": {"k": 3}, "finetune": {"k": 2}, "lora": {"k": 2, "rank": 2}}


@pytest.fixture(scope="module")
def folders(place, tmp_path_factory):
    """An ensemble of each kind that is a plain folder of transformers or PEFT, fitted and saved."""
    prefs = rmlab.Preferences.read(place / "my-pairs.parquet", group="topic")
    out = {}
    for method, options in METHODS.items():
        out[method] = tmp_path_factory.mktemp("saved") / method
        rmlab.fit(place / "my-backbone", prefs, method, lr=1e-3, epochs=2, **options).save(out[method])
    return out


def by_transformers(folder, method, ids):
    """Raw scores (K,) of one row of ids, by transformers and PEFT alone."""
    from transformers import AutoModelForSequenceClassification

    row = torch.tensor([ids])

    def logits(model):
        with torch.no_grad():
            return model.eval()(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].numpy()

    if method == "heads":
        return logits(AutoModelForSequenceClassification.from_pretrained(folder))
    if method == "finetune":
        parts = sorted(folder.glob("part_*"))
        return np.concatenate([logits(AutoModelForSequenceClassification.from_pretrained(p)) for p in parts])
    peft = pytest.importorskip("peft")
    parts = []
    for member in sorted(folder.glob("member_*")):
        base = AutoModelForSequenceClassification.from_pretrained(folder / "base")
        parts.append(logits(peft.PeftModel.from_pretrained(base, member)))
    return np.concatenate(parts)


@pytest.mark.parametrize("method", METHODS)
def test_plain_transformers_and_peft_score_as_the_judges_do(method, folders):
    """Text rendered by the saved template, raw logits, and the alignment of the card applied by hand."""
    from transformers import AutoTokenizer

    folder = folders[method]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    judges = rmlab.load(folder)
    card = json.loads((folder / "rmlab.json").read_text())["alignment"]
    scores = judges.score(CHATS, ANSWERS)
    assert scores.shape == (4, judges.members) and scores.std(0).min() > 0.05
    for chat, answer, want in zip(CHATS, ANSWERS, scores, strict=True):
        whole = tokenizer.apply_chat_template(
            [*chat, {"role": "assistant", "content": answer}], tokenize=False
        )
        text = whole[: whole.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids[-1] == EOS
        raw = by_transformers(folder, method, ids)
        got = (raw - np.array(card["centre"])) / np.array(card["scale"])
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, 1 / min(card["scale"])))


def run(name, policy, out, reward, prompts):
    """Two steps of a real trainer; also each call's prompts and the ids that TRL sampled from."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
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
        max_completion_length=6,
        generation_kwargs={"sequence_bias": [[[EOS], 4.0]]},
    )
    data = datasets.Dataset.from_dict({"prompt": prompts})
    train = getattr(trl, f"{name}Trainer")(str(policy), reward_funcs=reward, args=args, train_dataset=data)
    read, sampled_from = train._tokenize_prompts, []

    def tokenize(questions):
        ids = read(questions)
        sampled_from.append((questions, ids[0]))
        return ids

    train._tokenize_prompts = tokenize
    train.train()
    return [x for x in train.state.log_history if "reward" in x], sampled_from


@pytest.mark.parametrize("prompts", [CHATS, STRINGS], ids=["chats", "strings"])
@pytest.mark.parametrize("name", ["RLOO", "GRPO"])
def test_trl_samples_from_what_was_trained_on_and_logs_what_the_judges_say(
    name, prompts, place, folders, tmp_path
):
    judges = rmlab.load(folders["heads"])
    reward, answers = judges.reward("min"), []
    judge = reward.judge

    def noted(rows, sampled):
        answers.append(sampled)
        return judge(rows, sampled)

    reward.judge = noted
    logged, sampled_from = run(name, place / "my-policy", tmp_path, reward, prompts)
    assert len(logged) == len(sampled_from) == len(answers) == 2
    pairs = [{"prompt": prompt, "chosen": "Yes.", "rejected": "No."} for prompt in prompts]
    trained_on = rmlab.Preferences.read(pairs).encode(judges.text).prompts
    for step, (questions, ids), sampled in zip(logged, sampled_from, answers, strict=True):
        for question, own in zip(questions, ids, strict=True):
            assert own == judges.text.prompt_ids(question) == list(trained_on[prompts.index(question)])
        want = judges.score(ids, sampled).min(-1)
        assert step["reward"] == step["rewards/ensemble/mean"] == pytest.approx(want.mean(), abs=1e-4)
        assert step["ensemble/ended"] == pytest.approx(np.mean([a[-1] == EOS for a in sampled]))
        assert want.std() > 0.05
    # text that is handed over as text is the answer that training has seen
    chat = isinstance(prompts[0], list)
    texts = [[{"role": "assistant", "content": a}] if chat else a for a in ANSWERS]
    np.testing.assert_allclose(reward(prompts, texts), judges.score(prompts, ANSWERS).min(-1), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_openrlhf_gets_what_the_judges_say(method, folders):
    """It hands over the rendered prompt, and prompt and answer decoded with their special tokens."""
    judges = rmlab.load(folders[method])
    reward_func = openrlhf(judges.reward("mean_std"))
    rendered = [judges.text.render(chat) for chat in CHATS]
    pairs = zip(*judges.ids(CHATS, ANSWERS), strict=True)
    queries = [judges.text.tokenizer.decode(p + a, skip_special_tokens=False) for p, a in pairs]
    got = reward_func(queries, rendered, [None] * 4)
    want = judges.score(CHATS, ANSWERS)
    np.testing.assert_allclose(got["rewards"], rmlab.aggregate(want, "mean_std"), atol=1e-4)
    columns = [got["extra_logs"][f"ensemble/member_{k}"] for k in range(judges.members)]
    np.testing.assert_allclose(np.stack(columns, 1), want, atol=1e-4)
