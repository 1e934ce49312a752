"""`rmlab study PRESET`, `rmlab verify`, `rmlab claims`, and the workbench's commands: thin, over presets, engine and workbench."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rmlab.recipe import EnsembleSpec, Recipe, require

if TYPE_CHECKING:
    from rmlab.study.sweep import Study

ARTIFACTS = Path("_build") / "artifacts"
OWN = ("fit", "report", "sample", "score", "curve", "ppo")  # commands of the workbench
HELP = """usage: rmlab COMMAND

  rmlab study PRESET [--dry-run] [--labels.flips 0.1 ...]   run a study; what is done already is kept
  rmlab verify [FOLDER ...]                                 one small cell of each shipped study again, compared
  rmlab claims [--claims FILE] [--data FOLDER]              what the rows say of every claim, one verdict each
  rmlab version                                             versions of rmlab and of what decides numbers

On models and data of your own; each has examples in its --help:

  rmlab fit BACKBONE PAIRS [--method lora --k 5]            an ensemble on preferences, and its report
  rmlab report TABLE [--label votes | --judges FOLDER]      what a table of scores, or of pairs, says
  rmlab sample POLICY PAIRS [--n 256]                       a pool: many answers to every prompt
  rmlab score POOL --judges FOLDER [--gold FOLDER]          its scores, whatever the tokenizers
  rmlab curve POOL [--aggregators mean min]                 best of n with intervals, rows and a figure
  rmlab ppo POLICY PAIRS --judges FOLDER                    PPO against the ensemble

Presets: {presets}. `rmlab study PRESET --help` lists every field of its recipe.
On text, with --pairs FILE --policy FOLDER --gold FOLDER: {text_presets}."""


def main(args: list[str] | None = None) -> None:
    """The command line's entry; exits with 0, 1 when a study failed, 2 for what cannot run, 130 when interrupted."""
    args = list(sys.argv[1:] if args is None else args)
    commands = {"study": study, "verify": verify, "claims": claims, "version": version}
    if not args or args[0] not in (*commands, *OWN):
        from rmlab.study.presets import PRESETS
        from rmlab.study.text_presets import TEXT_PRESETS

        text = HELP.format(presets=", ".join(PRESETS), text_presets=", ".join(TEXT_PRESETS))
        asks_for_help = bool(args) and args[0] in {"-h", "--help"}
        print(text, file=sys.stdout if asks_for_help else sys.stderr)
        raise SystemExit(0 if asks_for_help else 2)
    try:
        if args[0] in OWN:
            from rmlab.workbench import commands as workbench

            commands |= {name: getattr(workbench, name) for name in OWN}
        commands[args[0]](args[1:])
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        print(f"rmlab: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def study(args: list[str]) -> None:
    """Run a preset, any field of its recipe changed by an option, and print where its gold goes."""
    from rmlab.study.executor import StudyFailed
    from rmlab.study.presets import PRESETS, SHIPPED
    from rmlab.study.run import run
    from rmlab.study.summary import summary
    from rmlab.study.sweep import base_of
    from rmlab.study.text_presets import TEXT_PRESETS

    preset = args[0] if args else None
    require(
        preset in {*PRESETS, *TEXT_PRESETS},
        "preset",
        preset,
        f"one of {', '.join([*PRESETS, *TEXT_PRESETS])}",
    )
    start, rest = (PRESETS[preset](), args[1:]) if preset in PRESETS else text_recipe(preset, args[1:])
    options = tyro.cli(options_of(base_of(start)), args=rest, prog=f"rmlab study {preset}")
    chosen = study_with(start, options)
    changed = chosen != start or preset in TEXT_PRESETS
    shipped = preset in SHIPPED and not changed
    out = options.out or (
        Path("data") if shipped else Path("_build") / "study" / (preset + f"-{chosen.id}" * changed)
    )
    if options.dry_run:
        print(dry_run(chosen, options.artifacts, options.workers))
        return
    try:
        folder = run(chosen, out, options.artifacts, options.workers, options.quiet)
    except StudyFailed as failed:
        print(failed.summary.text, file=sys.stderr)
        raise SystemExit(1) from None
    print(summary(folder))


def text_recipe(preset: str, args: list[str]) -> tuple[Recipe, list[str]]:
    """The recipe of a preset about text, from the folders and the file that it is about; and the other arguments."""
    from rmlab.study.text_presets import TEXT_PRESETS

    function = TEXT_PRESETS[preset]
    parser = argparse.ArgumentParser(
        f"rmlab study {preset}",
        description=function.__doc__,
        epilog="Every field of the recipe is an option too, such as --pool.answers 256; so are --out, --artifacts, "
        "--workers, --dry-run and --quiet.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--pairs", required=True, help="a preference file, or a data set's name")
    parser.add_argument("--policy", required=True, help="a causal language model's folder")
    parser.add_argument("--gold", required=True, help="a reward model's folder, of any tokenizer")
    parser.add_argument(
        "--backbones", nargs="+", default=(), help="folders, one a pretraining seed; the policy's"
    )
    parser.add_argument("--group", help="column that pairs are split by; how prompts open unless said")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of prompt and answer")
    if "ppo" in inspect.signature(function).parameters:
        parser.add_argument("--ppo", action="store_true", help="PPO against every ensemble too")
    known, rest = parser.parse_known_args(args)
    return function(**vars(known)), rest


def verify(args: list[str]) -> None:
    """Compare one small cell of each shipped study with what today's code gives.

    rmlab verify
    rmlab verify _build/study/quick/full
    """
    from rmlab.study.verify import verify_study

    @dataclasses.dataclass
    class Verify:
        folders: tyro.conf.Positional[tuple[Path, ...]] = ()  # of studies; none: the shipped ones
        artifacts: Path = ARTIFACTS  # where what is made again is kept

    options = tyro.cli(Verify, args=args, prog="rmlab verify", description=verify.__doc__)
    verdicts = [verify_study(folder, options.artifacts) for folder in options.folders or shipped()]
    print("\n".join(v.text for v in verdicts))
    raise SystemExit(1 if any(v.differs for v in verdicts) else 0)


def claims(args: list[str]) -> None:
    """Print the ledger: every claim that was fixed before a run, and what the rows say of it.

    rmlab claims
    rmlab claims --data _build/study --claims claims.toml
    """
    from rmlab.measure.claims import ledger, ledger_text, read_claims
    from rmlab.show.rows import data_folder

    @dataclasses.dataclass
    class Claims:
        data: Path | None = None  # folder of studies' folders; the shipped one unless said
        claims: Path | None = None  # claims.toml of that folder unless said

    options = tyro.cli(Claims, args=args, prog="rmlab claims", description=claims.__doc__)
    data = options.data or Path(str(data_folder()))
    listed = read_claims(options.claims or data / "claims.toml")
    print(ledger_text(listed, ledger(listed, data)))


def shipped() -> list[Path]:
    """The shipped studies' folders: in the `data/` that stands here, else those that rmlab brings along."""
    from rmlab.show.rows import data_folder
    from rmlab.study.presets import SHIPPED

    here = [Path("data") / name for name in SHIPPED]
    whole = all((folder / "provenance.json").is_file() for folder in here)
    return here if whole else [Path(str(data_folder())) / name for name in SHIPPED]


def version(args: list[str]) -> None:
    """Print versions of rmlab and of what decides numbers."""
    from rmlab import __version__
    from rmlab.store import versions

    print(" ".join([f"rmlab {__version__}", *(f"{k} {v}" for k, v in versions().items())]))


def options_of(recipe: Recipe) -> type:
    """A dataclass of what a command line can say: where and how to run, and every field of the recipe."""
    where = [
        (
            "out",
            Path | None,
            dataclasses.field(default=None),
        ),  # data for what ships, else _build/study/PRESET
        ("artifacts", Path, dataclasses.field(default=ARTIFACTS)),
        ("workers", int | None, dataclasses.field(default=None)),
        ("dry_run", bool, dataclasses.field(default=False)),
        ("quiet", bool, dataclasses.field(default=False)),
    ]
    fields = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if field.name == "ensembles":
            value = tuple(e.name for e in value)
        plain = field.name != "source" or not hasattr(
            value, "contents"
        )  # a text preset's own arguments say it
        if field.name != "name" and value is not None and plain:
            kind = tuple[str, ...] if isinstance(value, tuple) else type(value)
            fields.append((field.name, kind, dataclasses.field(default=value)))
    return dataclasses.make_dataclass("Options", where + fields, frozen=True)


def study_with(study: Study, options: object) -> Study:
    """A recipe with the options' fields; of a sweep its base, from which the axes go on."""
    if isinstance(study, Recipe):
        return recipe_with(study, options)
    return dataclasses.replace(study, base=recipe_with(study.base, options))


def recipe_with(recipe: Recipe, options: object) -> Recipe:
    """The recipe with the options' fields; ensembles are chosen by their names."""
    values = {
        f.name: getattr(options, f.name) for f in dataclasses.fields(recipe) if hasattr(options, f.name)
    }
    values["ensembles"] = _chosen(recipe, values["ensembles"])
    return dataclasses.replace(recipe, **values)


def dry_run(study: Study, artifacts: Path, workers: int | None) -> str:
    """What a study would do, as text: tasks by stage, how many are done already, and a guess of the time that is left."""
    from rmlab.store import Store
    from rmlab.study.cost import estimates
    from rmlab.study.executor import all_tasks, cores
    from rmlab.study.run import last_tasks, plans
    from rmlab.study.sweep import base_of, parts_of

    tasks, store = all_tasks(last_tasks(plans(study))), Store(artifacts)
    every = Counter(t.stage.__name__ for t in tasks)
    cached = Counter(t.stage.__name__ for t in tasks if store.has(t))
    rows = [
        f"{'stage':<16}{'tasks':>6}{'cached':>8}",
        *(f"{s:<16}{n:>6}{cached[s]:>8}" for s, n in every.items()),
    ]
    left = sum(t.cost for t in tasks if not store.has(t)) / 60
    workers = workers or cores()
    rows.append(
        f"{every.total() - cached.total()} tasks to run, about {left / workers:.0f} minutes on {workers} workers."
    )
    count = len(parts_of(study))
    several = [f"{count} recipes, each with one setting changed; what they share is made once."] * (count > 1)
    return "\n".join([estimates(base_of(study)), *several, "", *rows])


def _chosen(recipe: Recipe, names: tuple[str, ...]) -> tuple[EnsembleSpec, ...]:
    known = {e.name: e for e in recipe.ensembles}
    unknown = [n for n in names if n not in known]
    require(not unknown, "ensembles", unknown, f"some of {', '.join(known)}")
    return tuple(known[n] for n in names)


if __name__ == "__main__":
    main()
