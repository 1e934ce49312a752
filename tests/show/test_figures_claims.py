"""The ledger as a picture and as a table: every claim is a relation, drawn where its row says, with the verdict as a word."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rmlab.measure.claims import Claim, ledger_text, read_claims
from rmlab.show import figures_claims as figures
from rmlab.show.style import LOOKS, NEUTRAL
from tests.show.fake_rows import ledger

CLAIMS = read_claims(Path(__file__).parents[2] / "data" / "claims.toml")
BY_ID = {claim.id: claim for claim in CLAIMS}
PRIMARY = [claim for claim in CLAIMS if claim.family == "primary"]


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("overoptimisation-blind", "blind, one model: end < peak"),
        ("seeds-min-helps", "5 finetuning seeds, min > one model"),
        ("min-beats-mean", "5 finetuning seeds, min > 5 finetuning seeds, mean"),
        ("heads-as-good-as-models", "3 linear heads, min ≈ 3 finetuning seeds, min"),
        ("lora-beats-heads", "5 LoRA adapters, mean − std > 5 linear heads, mean − std"),
        ("conservative-eliminates", "5 finetuning seeds, min: end ≈ peak"),
        ("ppo-seeds-help", "PPO, β = 0.05: 5 finetuning seeds, min > one model"),
        ("ppo-penalty-beats-ensemble", "PPO: one model at β = 0.1 > 5 finetuning seeds, min at β = 0.05"),
        ("ppo-free-falls", "PPO, β = 0, one model: end < start"),
        ("heads-are-copies", "correlation of errors: 5 linear heads > 0.9"),
        ("pretraining-seeds-err-apart", "correlation of errors: 5 pretraining seeds < 5 finetuning seeds"),
        ("more-pairs-help", "pairs 8,000 > pairs 500"),
        ("larger-judges-help", "size 128 × 3 > size 32 × 1"),
        ("sight-does-not-protect", "end − peak: sight 1 < sight 0"),
        ("style-is-not-the-cause", "style tells quality 0, one model: end < peak"),
        ("five-is-enough", "10 finetuning seeds, min ≈ 5 finetuning seeds, min"),
    ],
)
def test_a_claim_is_a_relation(claim, words):
    assert figures.statement(BY_ID[claim]) == words


def test_a_claim_about_another_number_says_so():
    claim = dataclasses.replace(BY_ID["overoptimisation-sighted"], null=-0.3)
    assert figures.statement(claim) == "end − peak: one model < -0.3"


def test_every_claim_of_the_file_fits_its_line_and_differs_from_others():
    texts = [figures.statement(claim) for claim in CLAIMS]
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) <= 2 * figures.WIDTH


def dot(ax, i):
    """The dot of a panel's claim number i and its bar; a claim stands a line and a half below the one before it, and its words."""
    words = [t.get_text() for t in ax.texts[::2]]
    at = 0.75 - sum(text.count("\n") + 2.5 for text in words[: i + 1])
    dots = [x for x in ax.lines if list(x.get_ydata()) == [at] and x.get_marker() not in "<>"]
    bars = [x for x in ax.lines if list(x.get_ydata()) == [at, at]]
    return dots, bars


def test_dots_and_intervals_are_the_rows_under_their_source(panels):
    table = ledger(PRIMARY)
    figure = figures.verdicts(CLAIMS, table)
    sources = list(dict.fromkeys(claim.source.split(",")[0] for claim in PRIMARY))
    assert [ax.get_title(loc="left") for ax in panels] == sources
    assert len({ax.get_xlim() for ax in panels}) == 1
    left, right = panels[0].get_xlim()
    for ax, source in zip(panels, sources, strict=True):
        rows = table[table.source.str.startswith(source)]
        words = [t.get_text().replace("\n", " ") for t in ax.texts[::2]]
        assert words == [figures.statement(BY_ID[x]) for x in rows.claim]
        assert [t.get_text() for t in ax.texts][1::2] == list(rows.verdict)
        for i, row in enumerate(rows.itertuples()):
            dots, bars = dot(ax, i)
            if row.verdict == "not run":
                assert not dots and not bars
                continue
            assert dots[0].get_xdata()[0] == row.effect
            assert list(bars[0].get_xdata()) == [max(row.low, left), min(row.high, right)]
            marker = (dots[0].get_marker(), dots[0].get_fillstyle())
            assert marker == figures.MARKERS[row.verdict]
            method = BY_ID[row.claim].left["ensemble"].rstrip("0123456789")
            assert dots[0].get_color() == LOOKS[method].color
    r = table.iloc[0]
    words = f"blind, one model: end < peak: {r.effect:+.2f} [{r.low:+.2f}, {r.high:+.2f}], holds"
    assert words in figure.alt and figure.alt.endswith("not run.")


def test_an_interval_beyond_the_panel_ends_in_arrows_and_the_margin_is_the_claims(panels):
    table = ledger(PRIMARY)
    figures.verdicts(CLAIMS, table)
    ax, wide = panels[0], table.iloc[1]
    left, right = ax.get_xlim()
    assert wide.low < left and wide.high > right
    arrows = [x for x in ax.lines if x.get_marker() in ("<", ">")]
    assert [(x.get_marker(), x.get_xdata()[0], x.get_ydata()[0]) for x in arrows] == [
        ("<", left, -4.25),
        (">", right, -4.25),
    ]
    box = ax.collections[0].get_paths()[0].vertices
    assert (box[:, 0].min(), box[:, 0].max()) == (-PRIMARY[0].margin, PRIMARY[0].margin)


def test_no_interval_is_cut_where_none_is_far_wider(panels):
    table = ledger(PRIMARY[2:8]).drop(index=1)
    figures.verdicts(CLAIMS, table)
    left, right = panels[0].get_xlim()
    ran = table[table.verdict != "not run"]
    assert left < ran.low.min() and right > ran.high.max()


def test_units_have_axes_of_their_own(panels):
    units = [c for c in CLAIMS if "." not in c.quantity or c.quantity.endswith(".corr_error")]
    figures.verdicts(CLAIMS, ledger(units), by="family")
    assert [ax.get_title(loc="left") for ax in panels] == ["primary", "descriptive", "descriptive"]
    labels = [ax.get_xlabel() for ax in panels]
    assert labels[0] == "" and labels[1].endswith("gold") and labels[2].endswith("correlation of errors")
    assert panels[0].get_xlim() == panels[1].get_xlim() != panels[2].get_xlim()


def test_long_claims_take_two_lines_and_push_the_next_down(panels):
    long = next(claim for claim in CLAIMS if len(figures.statement(claim)) > figures.WIDTH)
    figures.verdicts(CLAIMS, ledger([long, CLAIMS[2], CLAIMS[3]]), by="family")
    for ax in panels:
        for i, text in enumerate(ax.texts[::2]):
            assert max(map(len, text.get_text().split("\n"))) <= figures.WIDTH
            assert ax.texts[2 * i + 1].xy[1] == pytest.approx(text.xy[1] - 0.6)  # the verdict, at its dot
    assert figures._lines(BY_ID["ppo-penalty-beats-ensemble"]) == [
        "PPO: one model at β = 0.1 > 5 finetuning seeds, min at",
        "β = 0.05",
    ]
    heights = [t.xy[1] for ax in panels for t in ax.texts[::2]]
    assert len(heights) == 3 and sum("\n" in t.get_text() for ax in panels for t in ax.texts[::2]) == 1


def test_verdicts_differ_without_colour():
    assert len(set(figures.MARKERS.values())) == len(figures.MARKERS) == 4


def test_it_is_narrow_enough_for_a_phone():
    svg = figures.verdicts(CLAIMS, ledger(CLAIMS)).svg
    width = float(svg.split('width="', 1)[1].split("pt", 1)[0])
    assert width * 96 / 72 < 400  # at 328 pixels 9 points are 10


def test_what_cannot_head_a_panel_is_refused():
    with pytest.raises(ValueError, match="by = 'study': give one of"):
        figures.verdicts(CLAIMS, ledger(CLAIMS), by="study")


def test_the_table_says_claim_they_we_and_verdict_and_folds_the_numbers():
    table = ledger(PRIMARY)
    page = figures.ledger_table(CLAIMS, table, {"seeds-min-helps": "it <helps>"})._repr_html_()
    shown, folded = page.split("<details>")
    assert [shown.count(f"<th>{head}</th>") for head in ("claim", "they", "we", "verdict")] == [1] * 4
    row = shown.split("Five finetuning seeds under their minimum beat one model.")[1].split("</tr>")[0]
    assert "it &lt;helps&gt; (Coste et al. 2310.02743, section 5.1)" in row
    r = table.set_index("claim").loc["seeds-min-helps"]
    assert f"{r.effect:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" in row
    assert r.verdict == "undecided" and ">undecided (needs 37 replicates)</td>" in row
    ran = shown.count("[")
    assert shown.count('"verdict"') == len(table) == ran + shown.count(">not run<")
    assert folded.count("<tr>") == len(table) + 1
    assert "10 replicates, Holm&#x27;s p = 0.04" in folded and "best_of_n_sighted at 256" in folded
    assert "5 finetuning seeds, min &gt; one model" in folded and "whole curve" in folded


def test_descriptive_p_is_not_called_adjusted_and_endless_needs_are_not_numbers():
    claims = [claim for claim in CLAIMS if claim.family == "descriptive"][:4]
    table = ledger(claims)
    table.loc[2, "needed"], table.loc[1, "p_adjusted"] = np.inf, 1e-9
    page = figures.ledger_table(CLAIMS, table).html
    assert "10 replicates, p &lt; 0.001" in page
    assert "p = 0.04" in page and "Holm" not in page and ">undecided</td>" in page


@pytest.mark.parametrize("high, words", [(0.09, "holds, by less than matters"), (0.11, "holds")])
def test_what_holds_and_does_not_matter_says_so(high, words):
    table = ledger(PRIMARY).query("verdict == 'holds'")[:1].assign(effect=0.05, low=0.02, high=high)
    claim = BY_ID[table.claim.iloc[0]]
    assert f">{words}</td>" in figures.ledger_table([claim], table).html
    assert ledger_text([claim], table).split("replicates: ")[1].startswith(f"{words}\n")


def test_what_is_not_gold_says_what_it_is():
    claims = [BY_ID["heads-are-copies"], BY_ID["heads-help"], BY_ID["lora-helps"]]
    page = figures.ledger_table(CLAIMS, ledger(claims)).html.split("<details>")[0]
    assert page.count("], correlation of errors</td>") == 1 and page.count("]</td>") == 1


def test_a_paper_on_a_claim_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"papers = \['joy'\]"):
        figures.ledger_table(CLAIMS, ledger(PRIMARY), {"joy": "found"})


@pytest.mark.parametrize(
    ("ensemble", "color"),
    [
        ("grid15", LOOKS["mixed"].color),
        ("frozen5_l2", LOOKS["heads"].color),
        ("heads5_bootstrap", LOOKS["heads"].color),
        ("mine", NEUTRAL),
    ],
)
def test_a_dot_has_the_colour_of_its_method_or_a_neutral_one(panels, ensemble, color):
    left = {"ensemble": ensemble, "aggregator": "min"}
    claim = Claim("x", "X.", "rmlab", "s", "gain", left, "greater", 0.1, at=256)
    figures.verdicts([claim, CLAIMS[0]], ledger([claim, CLAIMS[0]]))
    dots, _ = dot(panels[0], 0)
    assert dots[0].get_color() == color


def test_claims_of_other_tables_have_words():
    left = {"judged_by": "gold"}
    claim = Claim("x", "X.", "rmlab", "s", "transfer.score", left, "less", 0.1)
    assert figures.statement(claim) == "score: judged_by gold < 0"
    mine = Claim(
        "x", "X.", "rmlab", "s", "gain", {"ensemble": "mine", "aggregator": "min"}, "less", 0.1, at=4
    )
    assert figures.statement(mine) == "mine, min < one model"
