"""A study of several recipes that differ from one by a setting each: what changes when labels, sizes or sources do.

    Sweep("noise", base, (Axis("flips", "labels.flips", (0.0, 0.25)), Axis("pairs", "labels.pairs", (500, 2000))))

A recipe is planned once however many axes it stands on, and recipes share every artifact that their settings do not
tell apart. Tables are those of the recipes below each other, led by `axis` and `value`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rmlab.recipe import Recipe, digest, require


@dataclass(frozen=True)
class Axis:
    """A setting and its values: `field` is a path in the recipe, such as "labels.flips" or "size"."""

    name: str
    field: str
    values: tuple


@dataclass(frozen=True)
class Sweep:
    """Recipes that differ from `base` by one setting each: every value of every axis, the base's own among them or not."""

    name: str
    base: Recipe
    axes: tuple[Axis, ...]

    def recipes(self) -> list[tuple[str, object, Recipe]]:
        """(axis, value, recipe) of every value, axis by axis; all under the sweep's name.

        Raises
        ------
        ValueError
            An axis of a field that the recipe has not, without values, or with one twice.
        """
        names = [axis.name for axis in self.axes]
        require(len(set(names)) == len(names) > 0, "axes", names, "at least one, each with a name of its own")
        out = []
        for axis in self.axes:
            ok = 0 < len(axis.values) == len({str(v) for v in axis.values})
            require(ok, f"values of axis {axis.name}", axis.values, "at least one, each once")
            for value in axis.values:
                recipe = with_field(self.base, axis.field, value)
                out.append((axis.name, value_label(value), dataclasses.replace(recipe, name=self.name)))
        return out

    @property
    def id(self) -> str:
        """The study's id: a hash of its recipes' and of their axes and values."""
        return f"r{digest([[axis, str(value), recipe.id] for axis, value, recipe in self.recipes()])[:11]}"


Study = Recipe | Sweep


def parts_of(study: Study) -> list[tuple[dict[str, object], Recipe]]:
    """The recipes of a study, each with the labels that lead its rows: none for a study of one recipe."""
    if isinstance(study, Recipe):
        return [({}, study)]
    return [({"axis": axis, "value": value}, recipe) for axis, value, recipe in study.recipes()]


def base_of(study: Study) -> Recipe:
    """The recipe of a study, or the one that a sweep's differ from."""
    return study.base if isinstance(study, Sweep) else study


def with_field(settings: object, path: str, value: object) -> object:
    """A frozen dataclass with the field at a dotted path replaced; a `ValueError` that names the fields there are."""
    name, _, rest = path.partition(".")
    known = [f.name for f in dataclasses.fields(settings)] if dataclasses.is_dataclass(settings) else []
    mend = f"one of {', '.join(known)}" if known else "a path that ends here: it has no fields"
    require(name in known, f"field of {type(settings).__name__}", name, mend)
    if rest:
        value = with_field(getattr(settings, name), rest, value)
    return dataclasses.replace(settings, **{name: value})


def value_label(value: object) -> object:
    """A value as a table states it: numbers and words as they are, a dataclass by its fields, ensembles by their names."""
    if isinstance(value, tuple):
        return " ".join(e.name for e in value)
    if not dataclasses.is_dataclass(value):
        return value
    return " ".join(f"{f.name}={getattr(value, f.name)}" for f in dataclasses.fields(value))
