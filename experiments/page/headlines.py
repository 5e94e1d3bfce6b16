"""The one result of every experiment that says most, and where it lies on the forest plot."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.page.rows import Row, number

NAMED = {
    "cohort": ("background_fraction", "share of the voxels that is background"),
    "table1_baseline": ("mean_dice_with_background", "mean Dice, background included"),
    "table1_variations": ("dice_ce_extended__mean_dice_with_background", "mean Dice of Dice + CE, extended"),
    "unet25d": ("mean_dice", "mean Dice of NCR, ED, ET"),
    "unet3d": ("mean_dice", "mean Dice of NCR, ED, ET"),
    "table2_final": ("mean_dice", "mean Dice of NCR, ED, ET"),
    "compare_frameworks": ("segresnet_against_unet3d", "SegResNet against the 3D U-Net"),
    "mgmt_backbones": ("resnet10__accuracy", "accuracy of ResNet10"),
    "mgmt_grid": ("FLAIR_n15_b8__auc", "AUC of the report's best cell"),
    "mgmt_slice_choice": ("tumour__auc", "AUC of tumour-centred images"),
    "mgmt_ensemble": ("ensemble__auc", "AUC of the ensemble"),
    "mgmt_explain": ("FLAIR__attention", "where the FLAIR model looks"),
    "beyond": ("mean_dice", "mean Dice of NCR, ED, ET"),
}
"""Experiment -> name of its headline, and what that is in words. Of others, :func:`headline` takes the first
difference of mean Dice, or the first with an interval."""


@dataclass(frozen=True)
class Headline:
    """An experiment's row that says most. measure: what it is, in words."""

    row: Row
    measure: str

    @property
    def points(self) -> dict[str, float]:
        """Fractions of the forest plot's axis from 0 to 1, by name: value, low, high, reported; none off the axis."""
        result = self.row.result
        known = {
            "value": self.row.value,
            "low": result and result.low,
            "high": result and result.high,
            "reported": self.row.reported,
        }
        numbers = {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
        return numbers if "value" in numbers and all(0 <= value <= 1 for value in numbers.values()) else {}

    @property
    def chance(self) -> bool:
        """Whether 0.5 is what guessing has."""
        return self.row.name.endswith("auc")

    @property
    def said(self) -> str:
        """The row in words, for who does not see the plot."""
        ends = "" if self.row.interval == "–" else f", 95 % interval {self.row.interval}"
        report = "no value in the report" if self.row.reported is None else f"report {self.row.said}"
        return f"{self.measure}: ours {number(self.row.value)}{ends}; {report}"


def headline(experiment: str, rows: Sequence[Row]) -> Headline | None:
    """The headline of an experiment's rows; None where it has none."""
    name, measure = NAMED.get(experiment, ("", ""))
    for row in rows:
        if row.name == name:
            return Headline(row, measure)
    known = [row for row in rows if row.result is not None]
    # Of methods that were compared, how far they are apart says more than what one of them has.
    pairs = [row for row in known if row.name.endswith("__mean_dice") and "__minus_" in row.name]
    if pairs:
        pair = pairs[0].name.removesuffix("__mean_dice").replace("__minus_", " minus ")
        return Headline(pairs[0], f"mean Dice, {pair}" + (f", the first of {len(pairs)} pairs" if pairs[1:] else ""))
    first = next((row for row in known if row.result.low is not None), next(iter(known or rows), None))
    if first is None:
        return None
    method, _, metric = first.name.rpartition("__")
    return Headline(first, f"mean Dice of {method}" if metric == "mean_dice" and method else first.name)
