"""One look for every figure: the same colour and dash for the same thing in every chapter.

Colours have a contrast of at least 3:1 on white and on #121212; dashes and markers tell them apart without colour.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rmlab.reward.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Look(NamedTuple):
    """Colour, dash and marker of one thing, what it is called in a figure, and whether its marker is "full" or open."""

    color: str
    dash: str | tuple
    marker: str
    label: str
    fill: str = "full"  # or "none"

    @property
    def mark(self) -> dict[str, object]:
        """The marker as `plot` takes it."""
        return {"marker": self.marker, "color": self.color, "fillstyle": self.fill, "mew": 1.3}


class Looks(dict):
    """Looks by name of what is drawn; a method that has none of its own is drawn in a neutral one, under its label."""

    def __missing__(self, name: str) -> Look:
        if name not in METHODS:
            raise KeyError(name)
        return Look(NEUTRAL, (0, (2, 2)), ".", METHODS[name].label)


LOOKS = Looks(
    {
        "gold": Look("#b07a10", "-", "o", "gold"),
        "proxy": Look("#0173b2", "-", "s", "proxy"),
        "single": Look("#0173b2", "-", "s", "single"),
        "finetune": Look("#029e73", (0, (5, 2)), "^", "finetuning seeds"),
        "finetune3": Look("#029e73", (0, (2, 2.5)), "^", "finetuning seeds", "none"),
        "pretrain": Look("#cc78bc", (0, (1, 1.3)), "D", "pretraining seeds"),
        "pretrain3": Look("#cc78bc", (0, (1, 3)), "D", "pretraining seeds", "none"),
        "heads": Look("#949494", (0, (3, 1, 1, 1)), "v", "linear heads"),
        "heads3": Look("#949494", (0, (1, 1, 1, 3)), "v", "linear heads", "none"),
        "lora": Look("#d55e00", (0, (4, 1, 1, 1)), "P", "LoRA adapters"),
        "dropout": Look("#e0457b", (0, (2, 1)), "<", "dropout masks"),
        "laplace": Look("#7e6bd6", (0, (5, 1, 1, 1, 1, 1)), "*", "Laplace samples"),
        "average": Look("#2a9fb8", (0, (8, 2)), "h", "weight average"),
        "mixed": Look("#8a8a00", (0, (1, 2)), "X", "unions"),
        "oracle": Look("#949494", (0, (1, 2)), "", "oracle"),
        "you": Look("#d55e00", (0, (6, 2)), "x", "your run"),
    }
)

NEUTRAL = "#767676"  # of what is no judge: a margin, a key in a legend


def look_of(ensemble: str, method: str) -> Look:
    """How an ensemble is drawn: by its method, but that three members have a dash of their own and open markers."""
    return LOOKS[ensemble if ensemble in LOOKS else method]


PLAIN = {  # matplotlib's settings
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
}


class Figure:
    """A matplotlib figure as inline SVG that follows the page's theme: near-black becomes the text's colour.

    fig : matplotlib's, closed here
    alt : what is seen, for who cannot see it
    ident : a prefix that keeps ids apart on one page
    """

    def __init__(self, fig: Canvas, alt: str, ident: str):
        import matplotlib as mpl
        import matplotlib.pyplot as plt

        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": ident}):
            file = io.StringIO()
            fig.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
        plt.close(fig)
        self._canvas = fig
        svg = file.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
        svg = re.sub(r"(fill|stroke): ?#([0-3][0-9a-f])\2\2\b", r"\1: currentColor", svg)
        svg = re.sub(r'<text([^>]*)style="', r'<text\1style="fill: currentColor; ', svg)
        opening = (
            f'<svg class="ink" role="img" aria-label="{html.escape(alt)}" style="max-width:100%;height:auto" '
        )
        svg = re.sub(r"<svg ", opening, svg, count=1)
        own = f"{ident}-{zlib.crc32(alt.encode()):x}-"  # of two figures of one kind on a page
        self.svg, self.alt = re.sub(r"(id=\"|url\(#|href=\"#)", lambda m: m.group(0) + own, svg), alt

    def save(self, path: str | Path) -> None:
        """Write it as a picture, on white: PNG, PDF or whatever the name's ending says."""
        self._canvas.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")

    def _repr_html_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def canvas(columns: int = 1, width: float = 7.2, height: float = 3.6, rows: int = 1, **kw: object) -> tuple:
    """Fresh axes in the book's style: (fig, axes). No title: the caption says it.

    width, height : inches; kw : as in `matplotlib.pyplot.subplots`
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context(PLAIN):
        return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **kw)
