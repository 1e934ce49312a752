"""The claims of speed: every script's results are there, say what they compare, and the READMEs repeat them rightly."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rmlab.measure.by_prompt import ByPrompt

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
RESULTS = {f.stem: json.loads(f.read_text("utf-8")) for f in (BENCHMARKS / "results").glob("*.json")}
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))
FAKE = """
import json, pathlib, sys
import rmlab
quick = "--quick" in sys.argv
folder = pathlib.Path(__file__).parents[1] / ("_build/benchmarks" if quick else "benchmarks/results")
folder.mkdir(parents=True, exist_ok=True)
for name, goal in (("speed", ">= 2x"), ("cost", "<= 1.05x")):
    sides = {"over": rmlab.OVER, "under": rmlab.UNDER, "unit": "s"}
    result = {"name": name, "goal": goal, "ratio_of": sides, "ratio": rmlab.OVER / rmlab.UNDER}
    (folder / f"{name}.json").write_text(json.dumps(result))
"""


@pytest.fixture
def against(monkeypatch):
    """The module that compares two trees."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("common.against")


def write_tree(tree: Path, over: float, under: float) -> None:
    """A tree whose only script reports what its package says; an old result lies about."""
    (tree / "benchmarks" / "results").mkdir(parents=True)
    (tree / "benchmarks" / "fake.py").write_text(FAKE)
    (tree / "benchmarks" / "results" / "old.json").write_text("{}")
    (tree / "rmlab").mkdir()
    (tree / "rmlab" / "__init__.py").write_text(f"OVER, UNDER = {over}, {under}")


def test_every_claim_has_a_result_and_every_result_a_claim():
    text = (BENCHMARKS / "README.md").read_text("utf-8")
    claims = re.findall(r"^\| `(\w+)` \| [\d.]+ \(", text, re.M)
    assert sorted(claims) == sorted(RESULTS) and RESULTS
    listed = re.findall(r"^\| `(\w+\.py)` \|", text, re.M)
    assert sorted(listed) == [script.name for script in SCRIPTS]


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_how_it_came_about(name):
    r = RESULTS[name]
    assert r["name"] == name and r["low"] <= r["ratio"] <= r["high"] and not r["settings"]["quick"]
    assert all(
        r[k] for k in ("claim", "ours", "alternative", "goal", "machine", "versions", "commit", "date")
    )
    assert len(r["ratios"]) >= 2 and r["machine"]["load_start"]


@pytest.mark.parametrize("readme", ["README.md", "benchmarks/README.md"])
def test_the_readmes_repeat_results(readme):
    text = (ROOT / readme).read_text("utf-8")
    known = {f"{r['ratio']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for r in RESULTS.values()}
    stated = {t.replace("x", "") for t in re.findall(r"\d+\.\d\dx? \(\d+\.\d\d-\d+\.\d\d\)", text)}
    assert stated and stated <= known


def test_a_quick_run_measures_and_leaves_results_alone():
    before = {f.name: f.stat().st_mtime_ns for f in (BENCHMARKS / "results").iterdir()}
    command = [sys.executable, "pool_scoring.py", "--quick", "--rounds", "1"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"pool_scoring_long_prompts_sorted: [\d.]+ \([\d.]+-[\d.]+\)", last)
    assert {f.name: f.stat().st_mtime_ns for f in (BENCHMARKS / "results").iterdir()} == before


@pytest.mark.parametrize("quick", [False, True])
def test_two_trees_are_compared_on_our_side(against, tmp_path, capsys, quick):
    """The tree as it stands, not as it was committed; of a cost, ours is what stands over the line."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    write_tree(tmp_path, over=8.0, under=2.0)
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "rmlab" / "__init__.py").write_text("OVER, UNDER = 4.0, 3.0")
    against.compare("fake.py", "HEAD", tmp_path, rounds=2, quick=quick)
    lines = capsys.readouterr().out.splitlines()[-2:]
    over, under, both = "0.500 (0.500-0.500)", "1.500 (1.500-1.500)", "0.333 (0.333-0.333)"
    assert lines == [
        f"cost: ours {over} in s; alternative {under}; claim {both}",
        f"speed: ours {under} in s; alternative {over}; claim {both}",
    ]
    assert [f.name for f in (tmp_path / "benchmarks" / "results").iterdir()] == ["old.json"]


def test_what_cannot_be_compared_is_said(against, tmp_path):
    write_tree(tmp_path / "tree", over=1.0, under=1.0)
    with pytest.raises(SystemExit, match="not in both trees"):
        against.measure(tmp_path / "tree", "other.py", quick=True)
    (tmp_path / "tree" / "benchmarks" / "fake.py").write_text("print('skipped: no trl')")
    against.prepare(tmp_path, tmp_path / "tree")
    with pytest.raises(SystemExit, match="skipped: no trl"):
        against.measure(tmp_path / "tree", "fake.py", quick=True)
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    with pytest.raises(SystemExit, match="--against abcdef"):
        against.copy_commit(tmp_path, "abcdef", tmp_path / "copy")


def test_the_spread_is_that_of_the_rounds(against):
    def results(seconds):
        sides = {"over": 1.0, "under": seconds, "unit": "s"}
        return {"a": {"name": "a", "goal": "> 1x", "ratio": 1 / seconds, "ratio_of": sides}}

    pairs = [(results(2.0), results(seconds)) for seconds in (2.0, 1.0, 3.0)]
    pairs[0][1]["b"] = results(1.0)["a"]
    ours, alternative, claim = "1.000 (0.500-1.500)", "1.000 (1.000-1.000)", "1.000 (0.667-2.000)"
    assert against.ratios(pairs) == [f"a: ours {ours} in s; alternative {alternative}; claim {claim}"]


CLAIM = """
[[claim]]
id = "{id}"
text = "A sentence."
source = "rmlab"
study = "tiny_constructions"
family = "primary"
margin = 0.1
left = {{ensemble = "{left}"}}
{rest}
"""


@pytest.fixture
def permutations(monkeypatch, tiny_studies, tmp_path):
    """The script on the tiny study's artifacts and two claims: flags -> its table."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("permutations")
    several, rest = 'finetune2", aggregator = "min", pessimism = "matched', 'quantity = "gain"\nat = 16\n'
    fall = 'quantity = "fall"\npeak_at_most = 4\ndirection = "less"'
    text = CLAIM.format(id="min", left=several, rest=rest + 'direction = "greater"')
    (tmp_path / "claims.toml").write_text(text + CLAIM.format(id="fall", left="single", rest=fall))

    def run(rows=tiny_studies["tiny_constructions"].parent, artifacts=tiny_studies["artifacts"].root):
        flags = ["--quick", "--studies", "tiny_constructions", "--claims", tmp_path / "claims.toml"]
        flags += ["--rows", rows, "--artifacts", artifacts, "--out", tmp_path / "out"]
        script.main([str(x) for x in flags])
        return pd.read_csv(tmp_path / "out" / "permutations.csv").set_index("claim")

    return run


def test_claims_are_read_again_under_permuted_gold(permutations, capsys):
    table = permutations()
    assert list(table.index) == ["min", "fall", "any claim"] and (table.permutations == 20).all()
    assert ((table.holds_low <= table.holds) & (table.holds <= table.holds_high)).all()
    assert table.holds["any claim"] <= table.alone["any claim"]
    assert "tiny_constructions: 2 claims have the values of its rows" in capsys.readouterr().out


def test_rows_that_are_not_those_of_the_artifacts_are_found_out(permutations, tiny_studies, tmp_path):
    stored = ByPrompt.load(tiny_studies["tiny_constructions"] / "by_prompt.npz")
    (tmp_path / "tiny_constructions").mkdir()
    stored.gold[..., 2] += 0.01
    stored.save(tmp_path / "tiny_constructions" / "by_prompt.npz")
    with pytest.raises(SystemExit, match="min: not the values of"):
        permutations(rows=tmp_path)
    with pytest.raises(SystemExit):
        permutations(artifacts=tmp_path)
