"""2.5D U-Net (Keras): the report's first segmentation network.

python -m experiments.unet25d                    embedded phantoms, demo preset, two CPU cores
python -m experiments.unet25d --data FOLDER      BraTS folder; the report's recipe, one GPU
"""

from dataclasses import replace

from experiments.study import command_line, study
from unet_tf.config import SLICES, Config

EXPERIMENT = "unet25d"
FRACTIONS = (0.68, 0.20, 0.12)

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
    options, config = command_line(EXPERIMENT, {"paper": PAPER, "demo": DEMO}, description=__doc__)
    with study(
        EXPERIMENT, options, config, fractions=FRACTIONS, minimum_mask_fraction=config.minimum_mask_fraction
    ) as unet:
        if not unet.run.is_finished:
            from unet_tf.predict import load, predict
            from unet_tf.train import fit

            weights = fit(unet.train, unet.validation, config, unet.run)
            unet.score(predict(load(config, weights), unet.test, config))
        unet.show()


if __name__ == "__main__":
    main()
