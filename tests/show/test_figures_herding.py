"""Herding plotted: areas, members, ceilings and terms are what the rows say, of the rule and n that are meant."""

from __future__ import annotations

import numpy as np
import pytest

from rmlab.show import figures_herding as figures
from rmlab.show.figures import pick
from rmlab.show.style import LOOKS
from tests.show import fake_measures as fake

ENSEMBLES = ["finetune5", "pretrain5", "heads5"]


def test_the_winners_error_is_split_under_the_mean(panels):
    table = fake.herding()
    figure = figures.error_split({"sighted": table}, ENSEMBLES)
    assert [ax.get_visible() for ax in panels] == [True, True, True, False]
    for ax, ensemble in zip(panels, ENSEMBLES, strict=False):
        rows = pick(table, ensemble=ensemble, aggregator="mean")
        own, shared = ax.lines
        np.testing.assert_allclose(own.get_ydata(), rows.own)
        np.testing.assert_allclose(shared.get_ydata(), rows.shared)
        assert own._dash_pattern != shared._dash_pattern
        below, above = (x.get_paths()[0].vertices[:, 1] for x in ax.collections[:2])
        assert below.max() == rows.shared.max() and above.max() == rows.own.max()
        assert [t.get_text() for t in ax.texts] == ["all of it", "shared"]
    assert len({ax.get_ylim() for ax in panels[:3]}) == 1 and panels[0].get_ylim()[0] == 0
    assert (
        "5 linear heads at n = 2,048: 1.10, of which shared 0.77, a share of 0.70 [0.68, 0.72]" in figure.alt
    )
    with pytest.raises(ValueError, match="lora5"):
        figures.error_split({"sighted": table}, ["lora5"])


def test_two_studies_are_a_panel_each(panels):
    table = fake.herding()
    figures.error_split({"blind": table.assign(shared=table.own), "sighted": table}, ["heads5"])
    assert [ax.get_title(loc="left") for ax in panels] == ["blind: 5 linear heads", "sighted: 5 linear heads"]
    np.testing.assert_allclose(panels[0].lines[0].get_ydata(), panels[0].lines[1].get_ydata())


def test_effective_members_end_where_the_tail_has_eight_answers(panels):
    table = fake.herding()
    figure = figures.counting_members({"sighted": table}, ENSEMBLES)
    (ax,) = panels
    plotted = [x for x in ax.lines if len(x.get_xdata()) > 2]
    for line, ensemble in zip(plotted, ENSEMBLES, strict=True):
        rows = pick(table, ensemble=ensemble, aggregator="mean").dropna()
        assert line.get_xdata().max() == 256
        np.testing.assert_allclose(line.get_ydata(), rows.effective_error)
    assert ax.get_ylabel() == "effective members of 5"
    assert (
        "sighted, 5 finetuning seeds: 1.50 [1.40, 1.60] at n = 1, 1.18 [1.08, 1.28] at n = 256" in figure.alt
    )


def test_predicted_measured_and_the_ceiling_stand_in_one_line(panels):
    table = fake.ceiling()
    ensembles = ["finetune5", "grid15"]
    figure = figures.ceilings(table, ensembles, 256)
    for ax, quantity in zip(panels, ("gold", "gap"), strict=True):
        points = {
            (round(x.get_xdata()[0], 6), round(x.get_ydata()[0]), x.get_marker(), x.get_fillstyle())
            for x in ax.lines
            if len(x.get_xdata()) == 1
        }
        for y, ensemble in enumerate(reversed(ensembles)):
            for kind, (marker, fill) in figures.KINDS.items():
                row = pick(table, ensemble=ensemble, quantity=quantity, kind=kind, n=256).iloc[0]
                assert (round(row.value, 6), y, marker, fill) in points
        assert len(points) == 6
    assert (
        "gold gained: 5 finetuning seeds 1.26, 1.36, 1.56; 5 x 3 grid of seeds 1.46, 1.56, 1.76" in figure.alt
    )
    with pytest.raises(ValueError, match="one row of the table"):
        figures.ceilings(table, ensembles, 64)


def test_arrows_lead_from_all_answers_to_the_first_judges_winners(panels):
    table = fake.hacks()
    labels = {"courtesy": "greetings", "wrong": "false facts", "repeat": "said again"}
    figure = figures.hack_arrows(table, [("single", "mean"), ("finetune5", "min")], labels)
    (ax,) = panels
    assert [t.get_text() for t in ax.get_yticklabels()] == ["false facts", "said again", "greetings"]
    arrows = [(t.xy, t.xyann) for t in ax.texts]
    one, five = (pick(table, ensemble=e, aggregator=r, n=256).set_index("term") for e, r in fake.JUDGES[::2])
    for y, term in enumerate(("wrong", "repeat", "courtesy")):
        assert ((one.rate[term], y), (one.before[term], y)) in arrows
    dots = {x.get_color(): x.get_xdata() for x in ax.lines if len(x.get_xdata()) == 3}
    np.testing.assert_allclose(dots[LOOKS["finetune"].color], five.rate[["wrong", "repeat", "courtesy"]])
    assert "greetings from 50% to 70%, 74%; said again" in figure.alt
    with pytest.raises(ValueError, match="junk"):
        figures.hack_arrows(table, [("single", "mean")], {"junk": "junk"})
