import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from common.picture import View
from experiments.drawing import curves as pictures
from experiments.drawing.scans import Row, draw_rows
from experiments.drawing.style import save_for_screen

NAN = float("nan")


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the next history: y label -> {line's label: (epochs, values)}."""
    figures = []
    monkeypatch.setattr(pictures, "save_for_screen", lambda figure, path: figures.append(figure))

    def draw(history, **options):
        pictures.draw_history(None, pd.DataFrame(history), **{"synthetic": False, **options})
        return {
            axis.get_ylabel().splitlines()[0]: {
                line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axis.lines
            }
            for axis in figures[-1].axes
        }, figures[-1]

    return draw


def test_training_and_validation_are_drawn_together_where_the_history_has_both(drawn):
    panels, figure = drawn({
        "epoch": [1, 2, 3], "loss": [0.9, 0.5, 0.4], "validation_loss": [1.1, 0.8, 0.85],
        "accuracy": [0.5, 0.6, 0.7], "validation_accuracy": [0.4, 0.5, 0.55],
        "mean_dice": [0.1, 0.2, 0.3], "validation_mean_dice": [0.05, 0.1, 0.2],
    })  # fmt: skip
    assert list(panels) == ["loss", "accuracy", "Dice"]
    assert panels["loss"] == {"training": ([1, 2, 3], [0.9, 0.5, 0.4]), "validation": ([1, 2, 3], [1.1, 0.8, 0.85])}
    assert panels["Dice"]["validation"] == ([1, 2, 3], [0.05, 0.1, 0.2])
    assert panels["accuracy"]["training"] == ([1, 2, 3], [0.5, 0.6, 0.7])
    loss, *shares = figure.axes
    assert loss.get_ylim()[1] > 1.1
    assert [axis.get_ylim() for axis in shares] == [(0, 1), (0, 1)]
    colours = [{line.get_label(): line.get_color() for line in axis.lines} for axis in figure.axes]
    assert colours[0] == colours[1] == colours[2]
    assert len(set(colours[0].values())) == 2


def test_validation_of_some_epochs_only_is_drawn_at_those_epochs(drawn):
    panels, _ = drawn({"epoch": [1, 2, 3, 4], "loss": [4.0, 3, 2, 1], "validation_mean_dice": [NAN, 0.2, NAN, 0.4]})
    assert panels == {
        "loss": {"training": ([1, 2, 3, 4], [4, 3, 2, 1])},
        "Dice": {"validation": ([2, 4], [0.2, 0.4])},
    }


def test_a_history_of_losses_alone_has_one_panel_and_synthetic_ones_say_so(drawn):
    panels, figure = drawn({"epoch": [1], "loss": [0.5], "seconds": [3.0]}, synthetic=True)
    assert panels == {"loss": {"training": ([1], [0.5])}}
    assert figure.get_suptitle() == "Synthetic phantoms"


def test_the_picture_of_a_history_has_both_curves_in_their_colours(tmp_path):
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2, 1], "validation_loss": [3.0, 3, 3]})
    for columns, expected in ((["epoch", "loss", "validation_loss"], True), (["epoch", "loss"], False)):
        path = tmp_path / "history.png"
        pictures.draw_history(path, history[columns], synthetic=False)
        rgb = imread(path)[..., :3]
        vermilion = np.abs(rgb - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02
        assert (vermilion.sum() > 50) == expected


def test_a_dollar_sign_in_an_id_is_no_mathematics(tmp_path):
    view = View((1.0, 1.0), "PL")
    row = Row(title="$_$", note="Dice of $x^_$", pictures=[np.zeros((8, 6)), np.ones((8, 6))], view=view)
    figure = draw_rows([row], ["scan", "truth"], text=r"patient $\frac$", synthetic=False)
    save_for_screen(figure, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").stat().st_size > 0
