"""The picture of the variations: every value on its row, nothing left out."""

import numpy as np
import pandas as pd
import pytest

from experiments.segmentation import variations_picture
from experiments.segmentation.variations import COLUMNS


@pytest.fixture
def drawn(monkeypatch):
    """Draw a table of three rows; returns the figure's panels by title."""
    figures = []
    monkeypatch.setattr(variations_picture, "save_for_screen", lambda figure, path: figures.append(figure))
    rows = [
        {"row": "baseline", "state": "finished", "reported": 0.846, "n": 8} | scored(0.6, 0.5),
        {"row": "hausdorff", "parent": "baseline", "state": "failed: RuntimeError: full", "reported": "out of memory"}
        | {"n": 0},
        {"row": "vae", "parent": "baseline", "state": "finished", "n": 8, "from_parent": -0.1, "from_parent_low": -0.2}
        | {"from_parent_high": 0.05, "from_parent_p": 0.031}
        | scored(0.5, 0.4),
    ]
    variations_picture.draw_variations(None, pd.DataFrame(rows, columns=COLUMNS), synthetic=True)
    assert figures[0].get_suptitle() == "Synthetic phantoms"
    return {axis.get_title(loc="left"): axis for axis in figures[0].axes}


def scored(with_background, mean_dice):
    """Scores and costs of a row; the interval of the second mean is not defined."""
    scores = {"mean_dice_with_background": with_background, "low": with_background - 0.1, "high": with_background + 0.2}
    return scores | {"mean_dice": mean_dice, "seconds_per_step": 0.25, "peak_memory_mib": 1200}


def marks(axis, marker):
    """(value, row) of the marks of one shape that are to be seen."""
    points = [line.get_xydata() for line in axis.lines if line.get_marker() == marker]
    return [tuple(point) for point in np.concatenate(points).tolist() if np.isfinite(point[0])]


def whiskers(axis):
    found = [line.get_xydata().tolist() for line in axis.lines if line.get_linewidth() == 2]
    return [(first[0], last[0], first[1]) for first, last in found]


def test_the_picture_shows_every_value_on_its_row_with_its_interval(drawn):
    both, inner, difference = (drawn[name] for name in ("Dice with background", "Dice", "Difference from parent"))
    assert marks(both, "o") == [(0.6, 0), (0.5, 2)]
    assert whiskers(both) == [pytest.approx((0.5, 0.8, 0)), pytest.approx((0.4, 0.7, 2))]
    assert marks(both, "D") == [(0.846, 0)]
    assert marks(inner, "o") == [(0.5, 0), (0.4, 2)]
    assert whiskers(inner) == []
    assert marks(difference, "o") == [(-0.1, 2)]
    assert whiskers(difference) == [(-0.2, 0.05, 2)]


def test_the_picture_names_rows_without_results_and_what_the_report_gives_in_words(drawn):
    for title, axis in drawn.items():
        assert [text.get_text() for text in axis.texts if text.get_position()[1] == 1] == ["failed"], title
    assert "report: out of memory" in {text.get_text() for text in drawn["Dice with background"].texts}
    assert drawn["Training step"].texts[0].get_text() == "0.25"
    labels = [label.get_text() for label in drawn["Dice with background"].get_yticklabels()]
    assert labels == ["baseline\nn = 8", "hausdorff\nagainst baseline, n = 0", "vae\nagainst baseline, n = 8"]
