"""`rmlab report TABLE`: a table of scores to a report, tidy rows and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

EXAMPLE = """What a table of reward models' scores says: who is right how often, whether an aggregator or the best member is
separated from length alone, whether members err together, what best-of-n makes of them.

A row is an answer with its prompt's id and a column of scores a member (CSV, TSV, JSON lines, Parquet). Two answers a
prompt with --label, the share of votes for each; or any number with --gold, or with neither; or a pair a row, with
columns m_chosen and m_rejected.

  rmlab report pairs.csv --label votes --members a b c --length words --out report
  rmlab report pool.parquet --prompt question --answer sample --gold gold --group topic"""


@dataclass(frozen=True)
class Report:
    """Options of `rmlab report`, as `rmlab.Scores.read` has them."""

    table: tyro.conf.Positional[Path]  # CSV, TSV, JSON lines, JSON or Parquet
    prompt: str = "prompt"  # column of prompt or pair ids
    answer: str | None = "answer"  # column of answer ids; None numbers them
    members: tuple[str, ...] = ()  # columns of scores; none: all numbers that are named for nothing else
    gold: str | None = None  # column of true rewards
    label: str | None = None  # column of shares of votes, 0 to 1
    text: str | None = None  # column of the answers' text, for its length
    length: str | None = None  # column of the answers' length
    group: str | None = None  # column of what intervals count, such as a topic
    out: Path | None = None  # folder for report.txt, tidy rows as CSV, and the figure


def report(args: list[str]) -> None:
    """Read a table, print its report, and write its rows and figure where a folder is named."""
    from rmlab.workbench.scores import Scores

    options = tyro.cli(Report, args=args, prog="rmlab report", description=EXAMPLE)
    names = ("prompt", "answer", "gold", "label", "text", "length", "group")
    columns = {name: getattr(options, name) for name in names}
    result = Scores.read(options.table, members=options.members or None, **columns).report()
    print(result)
    if options.out is not None:
        print(f"\nwritten: {', '.join(map(str, result.save(options.out)))}")
