"""experiments/reported.toml: its form, and the arithmetic that the report's own numbers must and do not obey."""

import re
import tomllib
from importlib.resources import files
from statistics import mean, pstdev, stdev

import pytest

REPORTED = tomllib.loads(files("experiments").joinpath("reported.toml").read_text(encoding="utf-8"))
RESULTS = {
    f"{experiment}.{name}": entry["value"]
    for experiment, entries in REPORTED["results"].items()
    for name, entry in entries.items()
}
SETTINGS = {
    f"{experiment}.{name}": entry["value"]
    for experiment, entries in REPORTED["settings"].items()
    for name, entry in entries.items()
}
ENTRIES = [
    pytest.param(entry, id=f"{kind}.{experiment}.{name}")
    for kind, experiments in REPORTED.items()
    for experiment, entries in experiments.items()
    for name, entry in entries.items()
]
EXPERIMENTS = {
    *("cohort", "table1_baseline", "table1_variations", "unet25d", "unet3d", "table2_final", "compare_frameworks"),
    *("mgmt_backbones", "mgmt_grid", "mgmt_slice_choice", "mgmt_ensemble", "mgmt_explain"),
}
FRACTION_METRICS = ("auc", "accuracy", "threshold", "mean_dice", "mean_dice_with_background")


def class_dice(experiment):
    return [RESULTS[f"{experiment}.dice_{name}"] for name in ("NCR", "ED", "ET")]


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def scalars(value):
    return [scalar for item in value for scalar in scalars(item)] if isinstance(value, list) else [value]


def test_two_tables_whose_owners_are_experiments():
    assert set(REPORTED) == {"results", "settings"}
    assert set(REPORTED["results"]) == EXPERIMENTS
    assert set(REPORTED["settings"]) <= EXPERIMENTS


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_is_a_value_with_its_place(entry):
    assert {"value", "place"} <= set(entry) <= {"value", "place", "note"}
    for text in (entry["place"], entry.get("note", "-")):
        assert isinstance(text, str)
        assert text
        assert text == text.strip()
    assert scalars(entry["value"])
    for scalar in scalars(entry["value"]):
        assert isinstance(scalar, str | bool | int | float)
        assert scalar != ""
        assert not is_number(scalar) or 0 <= scalar < float("inf")  # the report has no negative number


def test_every_result_is_one_number_or_a_word():
    assert all(isinstance(value, str) or is_number(value) for value in RESULTS.values())


@pytest.mark.parametrize("key", [*RESULTS, *SETTINGS])
def test_names_are_plain_and_have_at_most_one_prefix(key):
    assert re.fullmatch(r"[a-z0-9_]+\.([A-Za-z0-9]+(_[A-Za-z0-9]+)*__)?[A-Za-z0-9]+(_[A-Za-z0-9]+)*", key)


def is_fraction_metric(key):
    metric = re.split(r"\.|__", key)[-1]
    return metric in FRACTION_METRICS or metric.startswith("dice_") or "_accuracy" in metric or "fraction" in metric


@pytest.mark.parametrize("key", [key for key in (*RESULTS, *SETTINGS) if is_fraction_metric(key)])
def test_dice_auc_accuracy_thresholds_and_fractions_lie_between_0_and_1(key):
    value = (RESULTS | SETTINGS)[key]
    if isinstance(value, str):
        assert value in {"not satisfactory", "out of memory", "close to 1"}
    else:
        assert 0 < value <= 1


@pytest.mark.parametrize("key", [key for key in SETTINGS if key.endswith("split")])
def test_splits_are_fractions_of_one(key):
    assert min(SETTINGS[key]) > 0
    assert sum(SETTINGS[key]) == pytest.approx(1)


# Arithmetic that holds ------------------------------------------------------------------------------------------------


def test_the_two_means_of_dice_differ_by_the_background():
    # (3 * 0.809 + 0.99) / 4 = (2.427 + 0.99) / 4 = 3.417 / 4 = 0.85425
    with_background = (3 * RESULTS["table2_final.mean_dice"] + RESULTS["table1_baseline.dice_background"]) / 4
    assert round(with_background, 3) == 0.854
    for name in ("slices80_extended", "dice_ce_extended"):
        reported = RESULTS[f"table1_variations.{name}__mean_dice_with_background"]
        assert reported == pytest.approx(with_background, abs=0.001)


@pytest.mark.parametrize("experiment", ["table2_final", "unet3d"])
def test_mean_dice_is_the_mean_of_the_classes(experiment):
    # Table 2: 0.768 + 0.825 + 0.835 = 2.428, a third is 0.8093; 3D: 0.782 + 0.789 + 0.856 = 2.427, a third is 0.809
    assert round(mean(class_dice(experiment)), 3) == RESULTS[f"{experiment}.mean_dice"] == 0.809


def test_unet3d_standard_deviation_is_that_of_the_three_classes():
    # deviations -0.027, -0.020, 0.047; squares sum to 0.003338; halved 0.001669, root 0.0409; by three, root 0.0334
    assert round(stdev(class_dice("unet3d")), 2) == RESULTS["unet3d.mean_dice_sd"]
    assert round(pstdev(class_dice("unet3d")), 2) == 0.03


def test_unet3d_subjects_and_steps():
    kept = RESULTS["cohort.subjects"] - RESULTS["cohort.subjects_excluded"]
    assert kept == RESULTS["cohort.subjects_kept"]
    assert RESULTS["cohort.excluded_fraction"] == 79 / 1000
    training = int(SETTINGS["unet3d.split"][0] * kept)
    assert training / SETTINGS["unet3d.batch_size"] == SETTINGS["unet3d.samples_per_epoch"]


@pytest.mark.parametrize("experiment", ["unet25d", "unet3d"])
def test_unet_shapes_follow_from_contrasts_and_labels(experiment):
    *voxels, channels = SETTINGS[f"{experiment}.input_shape"]
    assert channels == len(SETTINGS[f"{experiment}.contrasts"])
    assert SETTINGS[f"{experiment}.output_shape"] == [*voxels, len(SETTINGS["cohort.labels"])]


def test_unet25d_sample_is_the_resized_slice_range():
    first, end = SETTINGS["unet25d.slices"]
    assert SETTINGS["unet25d.input_shape"][:3] == [*SETTINGS["unet25d.in_plane_voxels"], end - first]


def test_grid_has_24_cells_of_three_numbers():
    cells = {
        f"{contrast}_n{images}_b{batch_size}"
        for contrast in SETTINGS["mgmt_grid.contrasts"]
        for images in SETTINGS["mgmt_grid.images"]
        for batch_size in SETTINGS["mgmt_grid.batch_sizes"]
    }
    assert len(cells) == 24
    wanted = {f"{cell}__{metric}" for cell in cells for metric in ("auc", "loss", "threshold")}
    assert set(REPORTED["results"]["mgmt_grid"]) == wanted | {"best_contrasts"}
    assert all(is_number(RESULTS[f"mgmt_grid.{name}"]) for name in wanted)


@pytest.mark.parametrize(
    ("contrast", "cell", "auc"),
    [
        ("FLAIR", "FLAIR_n15_b8", 0.653),
        ("T2w", "T2w_n7_b4", 0.558),
        ("T1wCE", "T1wCE_n15_b4", 0.592),
        ("T1w", "T1w_n3_b4", 0.652),
    ],
)
def test_the_bold_cells_of_the_grid_are_the_best_of_each_contrast(contrast, cell, auc):
    grid = REPORTED["results"]["mgmt_grid"]
    aucs = {
        name.removesuffix("__auc"): entry["value"]
        for name, entry in grid.items()
        if name.startswith(f"{contrast}_") and name.endswith("__auc")
    }
    assert len(aucs) == 6
    assert max(aucs, key=aucs.get) == cell
    assert aucs[cell] == auc
    assert [name for name in aucs if "bold" in grid[f"{name}__auc"].get("note", "")] == [cell]


def test_the_two_contrasts_with_the_best_cells_were_chosen():
    grid = REPORTED["results"]["mgmt_grid"]
    aucs = {name.partition("_")[0]: 0.0 for name in grid if name.endswith("__auc")}
    for name, entry in grid.items():
        if name.endswith("__auc"):
            contrast = name.partition("_")[0]
            aucs[contrast] = max(aucs[contrast], entry["value"])
    assert sorted(aucs, key=aucs.get, reverse=True)[:2] == RESULTS["mgmt_grid.best_contrasts"].split(" and ")


def test_grid_thresholds_come_from_50_evenly_spaced_values():
    for key, value in RESULTS.items():
        if key.startswith("mgmt_grid.") and key.endswith("__threshold"):
            assert abs(value - round(value * 49) / 49) < 0.001  # a random value is this near one in ten times


def test_ensemble_weights_sum_to_one():
    assert SETTINGS["mgmt_ensemble.FLAIR__weight"] + SETTINGS["mgmt_ensemble.T1w__weight"] == 1


# Contradictions of the report, kept as they stand and said in a note --------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "experiment", "name"),
    [
        ("results", "unet25d", "mean_dice"),
        ("settings", "unet25d", "split"),
        ("settings", "unet25d", "split_subjects"),
        ("settings", "unet3d", "crop_voxels"),
        ("settings", "unet3d", "crop_ranges"),
        ("settings", "table1_variations", "hausdorff__gpu_memory_gb"),
        ("settings", "table2_final", "scored_part"),
        ("results", "compare_frameworks", "segresnet_better_on"),
        ("results", "mgmt_explain", "T1w__attention"),
    ],
)
def test_contradictions_are_said(kind, experiment, name):
    assert REPORTED[kind][experiment][name]["note"].startswith("contradiction: ")


def test_unet25d_mean_dice_is_not_the_mean_of_its_classes():
    # 0.82 + 0.79 + 0.70 = 2.31, a third is 0.77
    assert round(mean(class_dice("unet25d")), 2) == 0.77
    assert RESULTS["unet25d.mean_dice"] == 0.73


def test_unet25d_subjects_are_not_split_by_its_ratio():
    subjects = SETTINGS["unet25d.split_subjects"]
    assert sum(subjects) == RESULTS["cohort.subjects"] == 1000
    assert [n / 1000 for n in subjects] == [0.68, 0.20, 0.12]
    assert SETTINGS["unet25d.split"] == [0.73, 0.15, 0.12]


def test_unet3d_crop_ranges_are_not_its_crop():
    assert [end - first for first, end in SETTINGS["unet3d.crop_ranges"]] == [192, 192, 128]
    assert SETTINGS["unet3d.crop_voxels"] == SETTINGS["unet3d.input_shape"][:3] == [128, 128, 128]


def test_segresnet_is_not_better_where_the_report_says():
    def segresnet_minus_unet(metric):
        return RESULTS[f"table2_final.{metric}"] - RESULTS[f"unet3d.{metric}"]

    dice = {metric for metric in ("dice_NCR", "dice_ED", "dice_ET") if segresnet_minus_unet(metric) > 0}
    distances = {metric for metric in ("hd_TC", "hd_WT") if segresnet_minus_unet(metric) < 0}
    assert dice | distances == {"dice_ED", "hd_TC", "hd_WT"}
    assert RESULTS["compare_frameworks.segresnet_better_on"] == "Dice NCR, HD TC and HD WT"


def test_final_t1w_model_does_not_take_the_grids_best_number_of_images():
    assert SETTINGS["mgmt_ensemble.T1w__images"] == 15
    assert RESULTS["mgmt_grid.T1w_n15_b8__auc"] < RESULTS["mgmt_grid.T1w_n3_b4__auc"]
    assert RESULTS["mgmt_grid.T1w_n15_b4__auc"] < RESULTS["mgmt_grid.T1w_n3_b4__auc"]
