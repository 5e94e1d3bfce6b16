from dataclasses import fields, replace

import pytest

from common.recipe import Recipe
from experiments.base.results import reported
from segresnet_monai.config import Config


def test_defaults_are_the_reports_settings():
    config, said = Config(), reported("settings")["table1_baseline"]
    shared = {field.name for field in fields(Config)} & set(said)
    assert {"learning_rate", "batch_size", "initial_filters", "encoder_blocks", "crop_voxels", "epochs"} <= shared
    assert not config.spacing_mm
    for name in shared - {"loss"}:
        value = getattr(config, name)
        assert (list(value) if isinstance(value, tuple) else value) == said[name].value, name
    assert (config.loss, said["loss"].value) == ("dice", "Dice loss")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("contrasts", ("FLAIR", "DWI")),
        ("contrasts", ()),
        ("contrasts", ("FLAIR", "FLAIR")),
        ("spacing_mm", 0.0),
        ("crop_voxels", (128, 128, 100)),
        ("flip_probabilities", (0.5, 1.5, 0.5)),
        ("intensity_shift_sd", -0.1),
        ("initial_filters", 12),
        ("decoder_blocks", (1, 1)),
        ("dropout", 1.0),
        ("initial_probability", 0.0),
        ("loss", "focal"),
        ("crop_from", "tumour"),
        ("learning_rate", 0.0),
        ("batch_size", 0),
        ("epochs", 0),
        ("crops_per_epoch", 0),
        ("validate_every", 0),
        ("checkpoint", "first"),
        ("precision", "half"),
        ("workers", -1),
        ("window_overlap", 1.0),
        ("probability_threshold", 0.0),
        ("slices", (40, 40)),
        ("slices", (-1, 40)),
        ("vae_weight", -0.1),
        ("continued_from", 300),
        ("continued_from", 7),
        ("continued_rate", "linear"),
    ],
)
def test_a_bad_value_is_refused_with_what_was_wanted(field, value):
    with pytest.raises(ValueError, match=f"expected {field} to be .*received") as error:
        replace(Config(), **{field: value})
    assert repr(value) in str(error.value)


def test_crop_sides_follow_the_number_of_levels():
    three_levels = {"encoder_blocks": (1, 2, 2), "decoder_blocks": (1, 1)}
    assert Config(crop_voxels=(36, 36, 36), **three_levels)
    with pytest.raises(ValueError, match="multiples of 4"):
        Config(crop_voxels=(38, 36, 36), **three_levels)


def test_the_autoencoder_has_a_level_more():
    assert Config(crop_voxels=(128, 128, 80), vae=True)
    assert Config(crop_voxels=(128, 128, 72))
    with pytest.raises(ValueError, match="expected crop_voxels to be multiples of 16"):
        Config(crop_voxels=(128, 128, 72), vae=True)


def test_three_labels_of_a_softmax_leave_the_background_a_share():
    assert Config(initial_probability=0.4)
    assert Config(initial_probability=0.3, loss="gwdl")
    with pytest.raises(ValueError, match="expected initial_probability to be below a third"):
        Config(initial_probability=0.4, loss="gwdl")


def test_recipe_holds_what_the_store_depends_on():
    assert Config().recipe == Recipe()
    assert Config(spacing_mm=3.0, contrasts=("FLAIR",)).recipe == Recipe(contrasts=("FLAIR",), spacing_mm=3.0)


def test_bfloat16_is_refused_where_a_level_has_two_voxels_along_x():
    levels = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1), "precision": "bfloat16"}
    assert Config(crop_voxels=(16, 8, 8), **levels)
    assert Config(crop_voxels=(8, 16, 16), **{**levels, "precision": None})
    with pytest.raises(ValueError, match="two voxels"):
        Config(crop_voxels=(8, 16, 16), **levels)


def test_a_dropout_that_the_network_has_not_is_refused():
    assert Config(network="segresnet_ds", dropout=0.0)
    with pytest.raises(ValueError, match="expected dropout to be 0 for a segresnet_ds"):
        Config(network="segresnet_ds", dropout=0.1)
