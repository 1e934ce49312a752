"""Models and data as people bring them, made once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import rmlab
from tests.own_model import own_folder, own_tokenizer
from tests.workbench.chat_stub import KEY, Stub

GOOD, BAD = "Yes, warm and kind.", "No."


def rows(count: int = 120) -> pd.DataFrame:
    """Chats of several topics; the warm answer is chosen, three times out of four by every annotator."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        prompt = [{"role": "user", "content": f"Question {i} of topic {i % 12}?"}]
        chosen, rejected = f"{GOOD} {i % 7}", f"{BAD} {'x' * int(rng.integers(0, 20))} {i}"
        soft = 1.0 if i % 4 else 0.75
        out.append(
            {"prompt": prompt, "chosen": chosen, "rejected": rejected, "soft_label": soft, "topic": i % 12}
        )
    return pd.DataFrame(out)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A backbone and a policy with an EOS of id 1000, a gold with another tokenizer, a Parquet file."""
    folder = tmp_path_factory.mktemp("own")
    own_folder(folder / "my-backbone", seed=0)
    own_folder(folder / "my-policy", seed=1)
    other = own_tokenizer(first=300)
    own_folder(folder / "gold-backbone", seed=2, family="mistral", tokenizer=other)
    rows().to_parquet(folder / "my-pairs.parquet")
    prefs = rmlab.Preferences.read(rows(), group="topic")
    gold = rmlab.fit(folder / "gold-backbone", prefs, "heads", k=1, lr=1e-3, epochs=2, seed=5)
    gold.save(folder / "my-gold-rm")
    return folder


@pytest.fixture
def serve(monkeypatch):
    """A function that starts a server by its script; the key is in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing of this machine goes by a proxy
    stubs = []

    def start(script):
        stubs.append(Stub(script))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.close()
