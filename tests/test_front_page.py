"""The front page's eight lines run as they stand, on a tiny backbone from a folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rmlab.show.figures import with_interval
from rmlab.show.rows import ledger
from rmlab.tokens import pad_right

PAGE = Path(__file__).resolve().parent.parent / "book" / "index.md"


def blocks(page: Path) -> list[str]:
    """The Python that a page shows and does not run."""
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)


def test_the_ten_lines_are_those_of_the_readme():
    """Which `tests/workbench/test_ten_lines.py` runs."""
    one, other = (
        [b for b in blocks(page) if "rmlab.fit(" in b] for page in (PAGE, PAGE.parents[1] / "README.md")
    )
    assert one == other and len(one) == 1


def test_the_readmes_findings_are_the_ledgers():
    """Every effect with its interval and every verdict is that of the claim it names, and none stands without a claim."""
    text = " ".join((PAGE.parents[1] / "README.md").read_text("utf-8").split())
    findings = text[text.index("What we find") : text.index("## What it costs")]
    effect = r"[+-]\d\.\d\d \[[^]]+\]"
    quoted = re.findall(rf"({effect})[^`\[]*\(`([\w-]+)`: (\w+)", findings)
    assert len(quoted) == len(re.findall(effect, findings)) == findings.count("(`") - 1 > 4
    _, table = ledger(*(name for _, name, _ in quoted))
    for (numbers, name, verdict), row in zip(quoted, table.itertuples(), strict=True):
        assert numbers == with_interval(table.loc[row.Index], "effect", sign=True), name
        assert verdict == row.verdict, name


def test_the_eight_lines_run(tiny_lm, world_pairs, tmp_path, monkeypatch):
    code = next(block for block in blocks(PAGE) if "rmlab.train(" in block)
    monkeypatch.chdir(tmp_path)
    tiny_lm.save_pretrained("backbone")
    code = code.replace("path/or/hub-name", "backbone")
    many = (world_pairs.chosen * 6)[:256]
    names = {
        "pairs": world_pairs,
        "prompt": np.array(world_pairs.prompts[0]),
        "answers": pad_right(many)[0],
        "lengths": np.array([len(a) for a in many]),
        "gold": np.linspace(0, 1, 256),
    }
    exec(code, names)
    assert names["scores"].shape == (256, 5) and names["proxy"].shape == (256,)
    np.testing.assert_allclose(names["scores"].mean(0), 0, atol=1e-4)  # aligned on these answers
    np.testing.assert_allclose(names["scores"].std(0), 1, atol=1e-4)
    assert (tmp_path / "reward" / "config.json").exists()
