"""The ten lines, as they stand in the README, on models and data that are made on the spot."""

from __future__ import annotations

import re
from pathlib import Path

from tests.own_model import EOS

ROOT = Path(__file__).resolve().parents[2]


def readme_lines() -> str:
    """The Python block of the README's ten lines."""
    text = (ROOT / "README.md").read_text("utf-8")
    return next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "rmlab.fit" in block)


def test_the_ten_lines_of_the_readme_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    code = readme_lines()
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    small = (
        code.replace("n=256", "n=16")
        .replace("max_new_tokens=128", "max_new_tokens=12")
        .replace("steps=200", "steps=2, batch=8")
    )
    assert small != code
    names: dict = {}
    exec(compile(small, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "How often right" in out and "bag of words" in out and "separated" in out
    pool = names["pool"]
    assert pool.scores.shape == (len(pool.prompts), 16, 5) and pool.gold.shape == pool.ended.shape
    assert 0 < pool.ended.mean() <= 1  # its own EOS ends an answer
    assert all(EOS not in ids[:-1] for row in pool.ids for ids in row)
    assert names["run"].reward.notna().all()
