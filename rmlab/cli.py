"""`rmlab ...`: thin, over the recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rmlab.recipe import PRESETS

SHIPPED = {"full", "constructions", "ppo"}  # presets whose rows are in data/


@dataclass
class Study:
    """Run a study and print its table; what is done already is kept, and Ctrl-C loses nothing."""

    preset: Annotated[Literal[tuple(PRESETS)], tyro.conf.Positional]
    out: Path | None = None  # where rows and pool go; data for what ships, else _build/study/<preset>
    artifacts: Path = Path("_build/artifacts")  # the cache
    workers: int | None = None  # one-thread processes; the number of cores unless said


def main(args: list[str] | None = None) -> None:
    """The command line's entry."""
    given = tyro.extras.subcommand_cli_from_dict(
        {"study": _study, "version": _version}, args=args, prog="rmlab", description=__doc__
    )
    del given


def _study(given: tyro.conf.OmitArgPrefixes[Study]) -> None:
    from rmlab.measure import league, tables
    from rmlab.measure import pressure as ends
    from rmlab.study import constructions
    from rmlab.study import grid as study
    from rmlab.study import ppo as pressure

    recipe = PRESETS[given.preset]()
    out = given.out or (Path("data") if given.preset in SHIPPED else Path("_build/study") / given.preset)
    if recipe.pressure:
        run, folder, summary = pressure.run, "ppo", ends.summary
    elif recipe.lines:
        run, folder, summary = constructions.run, "constructions", league.summary
    else:
        run, folder, summary = study.run, "results", tables.summary
    try:
        run(recipe, out, given.artifacts, given.workers)
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on from here") from None
    print(summary(out / folder))


def _version() -> None:
    """Print versions of rmlab and of what decides numbers."""
    from rmlab import __version__
    from rmlab.store import versions

    print(" ".join([f"rmlab {__version__}", *(f"{k} {v}" for k, v in versions().items())]))
