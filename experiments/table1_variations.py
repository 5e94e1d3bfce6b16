"""Variations of the SegResNet baseline, one change each, on one split: which of them helps, and at what cost.

    python -m experiments.table1_variations                      embedded phantoms, demo preset, two CPU cores
    python -m experiments.table1_variations --data FOLDER        BraTS, MSD or nnU-Net folder; one GPU
    python -m experiments.table1_variations --rows baseline slices80

Reproduces the report's average Dice of each variation, beside its parent and the baseline on the same test patients
(Wilcoxon's test with Holm's correction, bootstrap interval of the mean difference), and what a training step costs.
Cost: demo 3840 training steps and nine starts, 15 minutes on two cores of an AMD EPYC that had other work too (0.14 s a
step of the baseline and 0.10 s of its 80 slices where both were free), and 1.2 GiB of memory; paper needs a GPU and has
not been timed. Expect of the demo WT Dice 0.76 (hausdorff) to 0.84
(dice_ce_extended), mean Dice 0.36 of the baseline and 0.49 at best; NCR is found with 80 slices and the Dice loss or
its sum with binary cross entropy, and by none of the other losses. With eight test phantoms no difference can be
significant: Wilcoxon's smallest p, 0.008, is 0.12 after Holm's correction over 15 comparisons.
Every row is a training with a folder of its own below the table's: the same command goes on where a killed one stopped
and tries failed rows again, and a row that fails is shown as failed. --at-once 2 trains two rows side by side.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from common.recipe import Recipe
from experiments import table1_baseline
from experiments.base.options import command_line
from experiments.base.progress import step
from experiments.segmentation.opening import study
from experiments.segmentation.options import Options
from experiments.segmentation.variations import Variation, run_rows, show, summarise
from segresnet_monai.config import Config

EXPERIMENT = "table1_variations"
Name = Literal[
    "baseline",
    "slices80",
    "gwdl",
    "hausdorff",
    "dice_ce",
    "dice_ce_monai",
    "slices80_extended",
    "dice_ce_extended",
    "vae",
]


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """What every segmentation experiment is told on its command line, and which rows to run."""

    rows: tuple[Name, ...] = get_args(Name)
    """Rows to run; a finished row is shown in any case, and what an extension continues is run before it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The baseline and the numbers that its variations change."""

    baseline: Config = table1_baseline.PAPER
    slices: tuple[int, int] = (40, 120)
    """The 80 of 155 slices that crops are taken from (D). On four BraTS patients the brain's cross-section is more than
    half of its largest in slices 39 to 121, and these 80 hold 84 % of the brain and 78 to 100 % of the tumour."""
    crop_slices: int = 80
    """Axial length of those crops in voxels (R)."""
    further_epochs: int = 500
    """Epochs of the extensions (R)."""
    hausdorff_loss: Literal["dice_hausdorff", "hausdorff"] = "dice_hausdorff"
    """Loss of the row ``hausdorff``: with the Dice loss beside it, as its authors train, or alone (the report says
    "Hausdorff distance loss": D). Alone it may end with empty masks, for which it is small."""

    def __post_init__(self) -> None:
        epochs, every = self.baseline.epochs, self.baseline.validate_every
        if epochs % every:
            raise ValueError(
                f"expected baseline.epochs to be a multiple of baseline.validate_every ({every}), for extended rows "
                f"continue what was validated last; received {epochs}"
            )
        self.variations()  # each checks itself

    @property
    def recipe(self) -> Recipe:
        """What the prepared store keeps, for every row: on the grid on which the slices are counted."""
        return self.variations()["slices80"].config.recipe

    def variations(self) -> dict[Name, Variation]:
        """The report's variations, each as what differs from its parent."""
        baseline = self.baseline
        slices80 = replace(baseline, crop_voxels=(*baseline.crop_voxels[:2], self.crop_slices), slices=self.slices)
        dice_ce = replace(slices80, loss="dice_bce")
        extended = {"epochs": baseline.epochs + self.further_epochs, "continued_from": baseline.epochs}
        return {
            "baseline": Variation(parent=None, config=baseline),
            "slices80": Variation(parent="baseline", config=slices80),
            "gwdl": Variation(parent="slices80", config=replace(slices80, loss="gwdl")),
            "hausdorff": Variation(parent="slices80", config=replace(slices80, loss=self.hausdorff_loss)),
            "dice_ce": Variation(parent="slices80", config=dice_ce),
            "dice_ce_monai": Variation(parent="slices80", config=replace(slices80, loss="dice_ce_monai")),
            "slices80_extended": Variation(parent="slices80", config=replace(slices80, **extended)),
            "dice_ce_extended": Variation(parent="dice_ce", config=replace(dice_ce, **extended)),
            "vae": Variation(parent="slices80", config=replace(slices80, vae=True, recompute_activations=True)),
        }


# The report's table; every field says whether the report states it.
PAPER = Table()

# The baseline's demo with the report's Dice loss, so that the losses differ as in the report, and a shorter training.
# Dice alone needs a lower rate than with the cross entropy: at three times this one all three labels soon stand for the
# whole tumour, and NCR and ET are not told from ED (docs/LOG.md).
# At 3 mm the 80 slices are 27 voxels; the autoencoder's levels want a multiple of 16.
DEMO = Table(
    baseline=replace(
        table1_baseline.SMALL, loss="dice", initial_probability=0.1, learning_rate=1e-3, crops_per_epoch=24, epochs=20
    ),
    crop_slices=32,
    further_epochs=10,
)


def main() -> None:
    options, table = command_line(
        EXPERIMENT, {"paper": PAPER, "demo": DEMO}, description=__doc__, options_type=TableOptions
    )
    with study(EXPERIMENT, options, table, several=True) as opened:
        with step(3):
            run_rows(opened, table.variations(), options.rows)
        with step(4):
            summarise(opened, table.variations())
        show(opened)


if __name__ == "__main__":
    main()
