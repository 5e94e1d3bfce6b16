"""3D U-Net (Keras): the report's second segmentation network, from a folder of scans to a table with intervals.

    python -m experiments.unet3d                    embedded phantoms, demo preset, two CPU cores
    python -m experiments.unet3d --data FOLDER      BraTS folder; the report's recipe, one GPU

Reproduces the report's Dice of NCR, ED and ET and its Hausdorff distances, trained on 70 / 15 / 15 % of the patients
with at least 1 % of the crop labelled. Cost: demo about 3 minutes on two cores of an AMD EPYC, half of it training, and
1.2 GiB of memory; paper needs a GPU and has not been timed. Expect on six held-out phantoms WT Dice near 0.81 on the
whole scan (five seeds: 0.803 to 0.834), where the grid allows 0.95. The same command resumes, or shows a finished
table.
"""

from dataclasses import replace
from functools import partial

from experiments.base.options import command_line, refusals
from experiments.segmentation.opening import study
from experiments.segmentation.options import NetworkOptions
from experiments.segmentation.protocol import run_network
from unet_tf.config import Config, backend, check_nodes

EXPERIMENT = "unet3d"
FRACTIONS = (0.70, 0.15, 0.15)

# The package's defaults are this network; every field says whether the report states it.
PAPER = Config()

# The same path for two CPU cores and a few minutes: the crop at 2.7 mm, half the filters, no dropout, one subject per
# step and a higher learning rate. Divided by the maximum, scanners differ more than tissues do, and a start at equal
# probabilities first learns that most voxels are background: both take more steps than a demo has. Normalised within,
# the network takes scanners that it has not seen for those that it has; a cosine to its end in place of early stopping,
# after which a demo hangs on a seed (docs/LOG.md).
DEMO = replace(
    PAPER,
    intensity="zscore",
    shape=(48, 48, 48),
    filters=8,
    dropout=0.0,
    initial_probability=0.01,
    normalisation="instance",
    learning_rate=2e-3,
    schedule="cosine",
    batch_size=1,
    epochs=32,
    patience=None,
)


def main() -> None:
    options, config = command_line(EXPERIMENT, {"paper": PAPER, "demo": DEMO}, __doc__, options_type=NetworkOptions)
    with refusals():
        check_nodes(config.nodes, backend())
    rule = {"fractions": FRACTIONS, "minimum_mask_fraction": config.minimum_mask_fraction}
    run_network("unet", config, options, partial(study, EXPERIMENT, config=config, backend=backend(), **rule))


if __name__ == "__main__":
    main()
