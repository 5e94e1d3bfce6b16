from dataclasses import fields, replace

import pytest

from common.recipe import Recipe
from experiments.base.results import reported
from unet_tf.config import CENTRAL, SLICES, Config


def test_defaults_are_the_reports_settings_of_the_3d_network():
    config, said = Config(), reported("settings")["unet3d"]
    shared = {field.name for field in fields(Config)} & set(said)
    assert {"contrasts", "minimum_mask_fraction", "learning_rate", "batch_size", "epochs", "minimum_delta"} <= shared
    for name in shared - {"loss", "intensity", "crop_voxels"}:
        value = getattr(config, name)
        assert (list(value) if isinstance(value, tuple) else value) == said[name].value, name
    assert (config.loss, said["loss"].value) == ("dice_focal", "Dice loss + focal loss")
    assert (config.intensity, said["intensity"].value) == ("maximum", "divided by the maximum")
    assert config.patience == said["patience_epochs"].value
    assert config.levels == reported("settings")["unet25d"]["levels"].value
    assert (config.crop_voxels, list(config.shape)) == (None, said["crop_voxels"].value)  # central, not random
    assert [*config.shape, config.channels] == said["input_shape"].value
    stated = tuple(map(tuple, said["crop_ranges"].value))
    assert replace(config, crop=stated).recipe.crop == stated
    assert list(SLICES[2]) == reported("settings")["unet25d"]["slices"].value


def test_the_central_crop_lies_in_the_middle_of_a_brats_scan():
    for (first, stop), length in zip(CENTRAL, (240, 240, 155), strict=True):
        assert stop - first == 128
        assert abs(first - (length - stop)) <= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spatial_dims", 1),
        ("contrasts", ("FLAIR", "DWI")),
        ("contrasts", ("FLAIR", "FLAIR")),
        ("contrasts", ()),
        ("crop", ((0, 16), (0, 16))),
        ("crop", ((0, 16), (16, 16), (0, 16))),
        ("crop", ((-1, 16), (0, 16), (0, 16))),
        ("levels", 0),
        ("shape", (128, 128, 120)),
        ("shape", (128, 128)),
        ("shape", (128, 0, 128)),
        ("context", -1),
        ("context", 1),
        ("minimum_mask_fraction", -0.1),
        ("minimum_mask_fraction", 1.0),
        ("filters", 0),
        ("dropout", -0.1),
        ("dropout", 1.0),
        ("loss", "dice"),
        ("learning_rate", 0.0),
        ("batch_size", 0),
        ("epochs", 0),
        ("patience", 0),
        ("minimum_delta", -1e-3),
        ("checkpoint", "first"),
        ("precision", "float16"),
        ("devices", 0),
        ("nodes", 0),
        ("workers", 0),
        ("probability_threshold", -0.1),
        ("probability_threshold", 1.0),
        ("opening_voxels", -1),
        ("closing_voxels", -1),
        ("minimum_component_voxels", -1),
    ],
)
def test_a_bad_value_is_refused_with_what_was_wanted(field, value):
    with pytest.raises(ValueError, match=f"expected {field} to be .*received") as error:
        replace(Config(), **{field: value})
    assert str(error.value).endswith(f"received {value!r}")


def test_regions_have_a_threshold_above_zero():
    assert Config(probability_threshold=0.0)
    with pytest.raises(ValueError, match="expected probability_threshold to be above 0 for regions"):
        Config(probability_threshold=0.0, targets="regions", loss="batch_dice_bce")


def test_sides_follow_the_number_of_levels():
    assert Config(shape=(36, 36, 36), levels=2)
    with pytest.raises(ValueError, match=r"multiples of 4 .*\(2 levels\)"):
        Config(shape=(36, 36, 38), levels=2)


def test_the_number_of_slices_is_free_in_2d():
    assert Config(spatial_dims=2, shape=(128, 128, 75)).shape[2] == 75
    with pytest.raises(ValueError, match="expected shape"):
        Config(spatial_dims=2, shape=(128, 120, 75))


def test_the_recipe_holds_what_the_store_depends_on():
    config = Config(contrasts=("T2",), crop=((24, 216), (24, 216), (13, 141)), shape=(64, 64, 32))
    assert config.recipe == Recipe(
        contrasts=("T2",), intensity="maximum", crop=((24, 216), (24, 216), (13, 141)), shape=(64, 64, 32)
    )


def test_settings_of_training_do_not_change_the_recipe():
    other = Config(learning_rate=0.5, seed=3, filters=4, levels=3, batch_size=9, opening_voxels=0)
    assert other.recipe == Config().recipe


@pytest.mark.parametrize(("contrasts", "context", "channels"), [(("FLAIR", "T1ce"), 1, 6), (("T1",), 0, 1)])
def test_channels_are_the_contrasts_of_a_slice_and_its_neighbours(contrasts, context, channels):
    assert Config(spatial_dims=2, contrasts=contrasts, context=context).channels == channels
