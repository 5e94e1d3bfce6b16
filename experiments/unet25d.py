"""2.5D U-Net (Keras): the report's first segmentation network, from a folder of scans to a table with intervals.

    python -m experiments.unet25d                    embedded phantoms, demo preset, two CPU cores
    python -m experiments.unet25d --data FOLDER      BraTS folder; the report's recipe, one GPU

Reproduces the report's Dice of ET, ED and NCR, trained on 68 / 20 / 12 % of the patients. Cost: demo about 2 minutes on
two cores of an AMD EPYC, half of it training, and 1.2 GiB of memory; paper needs a GPU and has not been timed. Expect
on five held-out phantoms WT Dice near 0.75 inside the slices (0.70 on the whole scan, where slices 60 to 134 allow
0.90). The same command resumes, or shows the table of a finished run.
"""

from dataclasses import replace
from functools import partial

from experiments.base.options import command_line, refusals
from experiments.segmentation.opening import study
from experiments.segmentation.options import NetworkOptions
from experiments.segmentation.protocol import run_network
from unet_tf.config import SLICES, Config, backend, check_nodes

EXPERIMENT = "unet25d"
FRACTIONS = (0.68, 0.20, 0.12)

# The report's 2.5D network as what differs from its 3D one, the package's default.
PAPER = replace(
    Config(),
    spatial_dims=2,
    contrasts=("FLAIR", "T1ce"),
    crop=SLICES,
    shape=(128, 128, 75),
    context=1,
    minimum_mask_fraction=0.0,
    loss="cross_entropy",
    learning_rate=1e-3,
    batch_size=1,
    epochs=30,
    patience=None,
)

# The same path for two CPU cores and a few minutes: coarser slices, half the filters, no dropout, twice the learning
# rate. For z-scores and the start see the 3D network's demo.
DEMO = replace(
    PAPER,
    intensity="zscore",
    shape=(64, 64, 32),
    filters=8,
    dropout=0.0,
    initial_probability=0.01,
    learning_rate=2e-3,
)


def main() -> None:
    options, config = command_line(EXPERIMENT, {"paper": PAPER, "demo": DEMO}, __doc__, options_type=NetworkOptions)
    with refusals():
        check_nodes(config.nodes, backend())
    rule = {"fractions": FRACTIONS, "minimum_mask_fraction": config.minimum_mask_fraction}
    run_network("unet", config, options, partial(study, EXPERIMENT, config=config, backend=backend(), **rule))


if __name__ == "__main__":
    main()
