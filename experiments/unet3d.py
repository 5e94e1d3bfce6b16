"""3D U-Net (Keras): the report's second segmentation network.

python -m experiments.unet3d                    embedded phantoms, demo preset, two CPU cores
python -m experiments.unet3d --data FOLDER      BraTS folder; the report's recipe, one GPU
"""

from dataclasses import replace

from experiments.study import command_line, study
from unet_tf.config import Config

EXPERIMENT = "unet3d"
FRACTIONS = (0.70, 0.15, 0.15)

PAPER = Config()

DEMO = replace(
    PAPER,
    intensity="zscore",
    shape=(48, 48, 48),
    filters=8,
    dropout=0.0,
    initial_probability=0.01,
    learning_rate=1e-3,
    batch_size=1,
    epochs=45,
    patience=12,
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
