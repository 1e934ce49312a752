"""Do claims hold where there is nothing to find? The family's error with gold permuted among each prompt's answers.

python benchmarks/permutations.py --artifacts _build/artifacts

Reads stored scores and gold of best-of-n studies, makes nothing again, and checks first that without a permutation every
claim's values are those of the study's own rows. What is permuted, and why each null is then true: `rmlab.measure.permutation`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common.harness import QUICK, RESULTS, ROOT, commit

from rmlab.measure.by_prompt import NS
from rmlab.measure.claims import Claim, Rows, find, read_claims
from rmlab.measure.ensembles import StudyScores
from rmlab.measure.permutation import (
    KINDS,
    PermutedRows,
    error_rates,
    null_claims,
    permuted_gold,
    permuted_rows,
)
from rmlab.optimise.best_of_n import n_grid
from rmlab.store import Store
from rmlab.study.plan import plan
from rmlab.study.presets import PRESETS
from rmlab.study.results import read_scores

TOLERANCE = 1e-4  # in gold: sums in another order, and in float32


def main(arguments: Sequence[str] | None = None) -> None:
    flags = parsed(arguments)
    claims = null_claims(read_claims(flags.claims), flags.family, flags.studies)
    if not claims:
        raise SystemExit(f"claims of family {flags.family}: none in {', '.join(flags.studies)}")
    began, store, studies = time.perf_counter(), Store(flags.artifacts), {}
    for name in dict.fromkeys(c.study for c in claims):
        scores, here = stored(name, store), [c for c in claims if c.study == name]
        golds = permuted_gold(scores.gold.astype(np.float32), flags.count, flags.seed)
        golds = np.concatenate([scores.gold[None].astype(np.float32), golds])
        ns = [n for n in n_grid(scores.gold.shape[1]) if n in NS]
        rows = permuted_rows(scores, golds, ns, here)
        check(here, rows.rows(0), Rows(flags.rows / name))
        studies[name] = PermutedRows(rows.settings, rows.pressure, rows.gold[1:], rows.rival[1:])
        print(
            f"{name}: {len(here)} claims have the values of its rows; {flags.count} permutations", flush=True
        )
    table = error_rates(claims, studies)
    table = table.assign(family=flags.family, seed=flags.seed, commit=commit())
    flags.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(flags.out / "permutations.csv", index=False, float_format="%.4g", lineterminator="\n")
    for row in table.to_dict("records"):
        rates = (
            f"{kind} {row[kind]:.3f} [{row[f'{kind}_low']:.3f}, {row[f'{kind}_high']:.3f}]" for kind in KINDS
        )
        print(f"{row['claim']}: {', '.join(rates)}")
    print(f"{time.perf_counter() - began:.0f} s")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--artifacts", type=Path, default=ROOT / "_build" / "artifacts", help="the studies' cache"
    )
    parser.add_argument(
        "--rows", type=Path, default=ROOT / "data", help="folder with the studies' by_prompt.npz"
    )
    parser.add_argument("--claims", type=Path, default=ROOT / "data" / "claims.toml", help="the claims' file")
    parser.add_argument("--family", default="primary", help="the claims' family")
    parser.add_argument(
        "--studies", nargs="+", default=["best_of_n", "best_of_n_sighted"], help="of best-of-n"
    )
    parser.add_argument("--count", type=int, help="permutations, 200 unless said")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="20 permutations: checks the script, claims nothing"
    )
    parser.add_argument("--out", type=Path, help="folder of permutations.csv, benchmarks/results unless said")
    flags = parser.parse_args(arguments)
    flags.count = flags.count or (20 if flags.quick else 200)
    flags.out = flags.out or (QUICK if flags.quick else RESULTS)
    return flags


def stored(name: str, store: Store) -> StudyScores:
    """The scores of a preset as its comparison reads them; the script ends where they are not in the store."""
    recipe = PRESETS[name]()
    inputs = plan(recipe)["comparison"].inputs
    tasks = [t for group in inputs.values() for t in group]
    missing = sum(not store.has(t) for t in tasks)
    if missing:
        print(f"skipped: {missing} of {len(tasks)} artifacts of {name} are not in {store.root}")
        sys.exit()
    return read_scores(recipe, **{name: [store.path(t) for t in group] for name, group in inputs.items()})


def check(claims: list[Claim], rows: Rows, own: Rows) -> None:
    """End the script unless each claim's values (D, P) without a permutation are those of the study's rows."""
    for claim in claims:
        here, there = find(claim, rows).values, find(claim, own).values
        same = here.shape == there.shape and np.allclose(here, there, rtol=0, atol=TOLERANCE)
        if not same:
            raise SystemExit(f"{claim.id}: not the values of {own.folder}; nothing was permuted")


if __name__ == "__main__":
    main()
