"""What a recipe makes of scans: crops, shapes, division by the maximum, and the way back to the scan's voxels."""

import nibabel as nib
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from common import recipe as recipes
from common import volumes
from common.cohort import find_subjects
from common.grid import Grid, Placement, bring
from common.nifti import Scan
from common.prepared import prepare
from common.recipe import Recipe, Volume, misfit
from tests.cohorts import write_cohort, write_subject

SHAPE = (20, 18, 14)
BRAIN = (slice(1, 17), slice(5, 18), slice(2, 9))  # reaches out of the crop in front, behind and below
CROP = ((3, 19), (2, 16), (4, 12))
INSIDE = tuple(slice(*ends) for ends in CROP)
CONTRASTS = ("FLAIR", "T1ce")


def scan_of(data, spacing=(1.0, 1.0, 1.0)):
    return Scan(np.asfortranarray(data), np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]), nib.Nifti1Header())


def subject(seed=0, dtype=np.int16, largest=1500):
    """Two contrasts with holes in the brain, T1ce one plane thinner, and labels that leave the crop."""
    rng = np.random.default_rng(seed)
    scans = {}
    for number, name in enumerate(CONTRASTS):
        data = np.zeros(SHAPE, dtype)
        brain = (BRAIN[0], BRAIN[1], slice(BRAIN[2].start, BRAIN[2].stop - number))
        data[brain] = rng.integers(0, largest, data[brain].shape)
        data[1, 17, 2] = largest  # the maximum lies outside the crop
        scans[name] = scan_of(data)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:13, 6:18, 2:10] = rng.permutation(4).reshape(2, 2, 1).repeat(6, 0).repeat(6, 1).repeat(8, 2)
    return scans, labels


def transform(name, scans, labels, recipe):
    """The recipe on scans whose own frame is the working grid."""
    return recipes.transform(name, bring(scans, labels, Grid(spacing_mm=None)), recipe)


def on_grid(volume, box):
    """An array over the volume's box, put into zeros of the whole grid."""
    grid = np.zeros((*box.shape[:-3], *volume.grid_shape), box.dtype)
    grid[..., *volume.box] = box
    return grid


def normalised(scan, intensity):
    """float64 intensities of a whole scan by their definition."""
    data = scan.data.astype(np.float64)
    if intensity == "maximum":
        return data / data.max()
    brain = data[data != 0]
    return np.where(data != 0, (data - brain.mean()) / brain.std(), 0)


def box_of(mask):
    found = np.argwhere(mask)
    return tuple(slice(low, high + 1) for low, high in zip(found.min(axis=0), found.max(axis=0), strict=True))


def weights(source, target):
    """(target, source) shares of a linear resampling, from the definition: a triangle as wide as the larger voxel."""
    apart = np.abs((np.arange(source) + 0.5) / source - ((np.arange(target) + 0.5) / target)[:, None])
    triangle = np.maximum(0, 1 - apart * min(source, target))
    return triangle / triangle.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("intensity", ["zscore", "maximum"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_crop_is_cut_from_the_normalised_scan_voxel_by_voxel(intensity, seed):
    scans, labels = subject(seed)
    volume = transform("a", scans, labels, Recipe(contrasts=CONTRASTS, crop=CROP, intensity=intensity))
    assert (volume.crop_start, volume.crop_shape, volume.grid_shape) == ((3, 2, 4), (16, 14, 8), (16, 14, 8))
    assert volume.source_shape == SHAPE
    assert volume.crop == INSIDE
    found = on_grid(volume, volume.image())
    for ours, name, step in zip(found, CONTRASTS, volume.steps, strict=True):
        expected = normalised(scans[name], intensity)[INSIDE]
        assert np.abs(ours - expected).max() <= 0.505 * step + 1e-6
        assert (ours[scans[name].data[INSIDE] == 0] == 0).all()
        # the step is made for what lies in the crop
        assert step * 32767 == pytest.approx(np.abs(expected).max(), rel=0.05 if intensity == "maximum" else 1e-4)
    np.testing.assert_array_equal(on_grid(volume, volume.labels()), labels[INSIDE])
    anything = np.any([scan.data[INSIDE] != 0 for scan in scans.values()] + [labels[INSIDE] > 0], axis=0)
    assert volume.box == box_of(anything)
    assert volume.box_start == (0, 3, 0)


def test_a_crop_with_room_around_the_brain_keeps_only_the_brains_box():
    scans, labels = subject()
    volume = transform("a", scans, labels, Recipe(contrasts=CONTRASTS, crop=((0, 20), (3, 18), (1, 14))))
    whole = transform("a", scans, labels, Recipe(contrasts=CONTRASTS))
    np.testing.assert_array_equal(volume.voxels, whole.voxels)
    assert volume.steps == whole.steps
    assert np.add(volume.box_start, volume.crop_start).tolist() == list(whole.box_start)


@pytest.mark.parametrize("intensity", ["zscore", "maximum"])
@pytest.mark.parametrize("shape", [(8, 7, 4), (32, 28, 8), (11, 20, 5), (16, 7, 16)])
@pytest.mark.parametrize("crop", [CROP, None])
def test_a_shape_is_the_resized_crop_of_the_normalised_scan(intensity, shape, crop):
    scans, labels = subject()
    inside = INSIDE if crop else (slice(None),) * 3
    volume = transform("a", scans, labels, Recipe(contrasts=CONTRASTS, crop=crop, shape=shape, intensity=intensity))
    assert volume.grid_shape == shape
    assert volume.crop_shape == labels[inside].shape
    for ours, name, step in zip(on_grid(volume, volume.image()), CONTRASTS, volume.steps, strict=True):
        expected = volumes.resize(normalised(scans[name], intensity)[inside], shape)
        assert np.abs(ours - expected).max() <= 0.505 * step + 1e-5
    matrices = [weights(n, m) for n, m in zip(volume.crop_shape, shape, strict=True)]
    shares = np.stack([
        np.einsum("xyz,ax,by,cz->abc", (labels[inside] == value).astype(float), *matrices) for value in range(4)
    ])  # fmt: skip
    first, second = np.sort(shares, axis=0)[[-1, -2]]
    clear = first - second > 1e-5
    found = on_grid(volume, volume.labels())
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], shares.argmax(axis=0)[clear])
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_a_voxel_size_counts_within_the_crop():
    scans, labels = subject()
    scans = {name: scan_of(scan.data, (1.0, 2.0, 1.0)) for name, scan in scans.items()}
    volume = transform("a", scans, labels, Recipe(contrasts=CONTRASTS, crop=CROP, spacing_mm=2.0))
    assert volume.grid_shape == (8, 14, 4)  # 16 x 28 x 8 mm
    expected = volumes.resize(normalised(scans["FLAIR"], "zscore")[INSIDE], (8, 14, 4))
    assert np.abs(on_grid(volume, volume.image())[0] - expected).max() <= 0.505 * volume.steps[0] + 1e-5


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [(np.int16, 32767), (np.int16, 32766), (np.int16, 1733), (np.uint16, 20011), (np.int32, 16384), (np.uint8, 255)],
)
@pytest.mark.parametrize("crop", [CROP, None])
def test_division_by_the_maximum_gives_the_scans_integers_back(dtype, largest, crop):
    scans, _ = subject(3, dtype, largest)
    volume = transform("a", scans, None, Recipe(contrasts=CONTRASTS, crop=crop, intensity="maximum"))
    for number, name in enumerate(CONTRASTS):
        inside = scans[name].data[volume.crop]
        stored = on_grid(volume, volume.voxels[number]).astype(np.float64)
        np.testing.assert_array_equal(np.rint(stored * volume.steps[number] * largest), inside)
        assert np.abs(stored * volume.steps[number] - inside / largest).max() < 1e-12
        np.testing.assert_array_equal(np.rint(on_grid(volume, volume.image())[number] * largest), inside)
        # the largest value outside the crop is the divisor all the same
        assert volume.image()[number].max() == pytest.approx(inside.max() / largest, rel=1e-6)


def test_every_integer_of_a_scan_survives_the_division_by_its_maximum():
    """32766 is the hard one: 16384 of it lies within float32's rounding of the middle between two steps."""
    for largest in (32766, 32700, 32767, 16384, 16383, 5461, 3):
        data = np.zeros((40, 40, 21), np.int16)
        data.flat[: largest + 1] = np.arange(largest + 1)
        volume = transform("a", {"T1": scan_of(data)}, None, Recipe(contrasts=("T1",), intensity="maximum"))
        found = on_grid(volume, volume.voxels[0]) * volume.steps[0] * largest
        np.testing.assert_array_equal(np.rint(found), data)


def test_scans_with_more_than_sixteen_bits_keep_half_a_step():
    scans, _ = subject(3, np.uint16, 60000)
    volume = transform("a", scans, None, Recipe(contrasts=CONTRASTS, intensity="maximum"))
    for ours, name, step in zip(on_grid(volume, volume.image()), CONTRASTS, volume.steps, strict=True):
        assert np.abs(ours - scans[name].data / 60000).max() <= 0.505 * step
        assert step == pytest.approx(1 / 32767)


def test_division_by_the_maximum_of_real_numbers_with_negative_ones():
    data = np.random.default_rng(0).normal(0.2, 1, SHAPE).astype(np.float32)
    volume = transform("a", {"T1": scan_of(data)}, None, Recipe(contrasts=("T1",), crop=CROP, intensity="maximum"))
    assert np.abs(volume.image()[0] - (data / data.max())[INSIDE]).max() <= 0.505 * volume.steps[0] + 1e-7


def test_labelled_fraction_counts_the_crops_voxels():
    scans, _ = subject()
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:11, 6, 5] = (1, 2, 3, 3, 2, 1, 1)  # seven in the crop
    labels[0:3, 6, 5] = 2  # three in front of it
    for recipe, expected in (
        (Recipe(contrasts=CONTRASTS, crop=CROP), 7 / (16 * 14 * 8)),
        (Recipe(contrasts=CONTRASTS, crop=CROP, shape=(8, 7, 4)), 7 / (16 * 14 * 8)),
        (Recipe(contrasts=CONTRASTS), 10 / (20 * 18 * 14)),
        (Recipe(contrasts=CONTRASTS, crop=((3, 19), (7, 16), (4, 12))), 0.0),
    ):
        found = transform("a", scans, labels, recipe).labelled_fraction
        assert found == pytest.approx(expected, rel=1e-12)
        assert type(found) is float
    assert transform("a", scans, None, Recipe(contrasts=CONTRASTS)).labelled_fraction is None


def test_a_misfit_says_what_was_wanted_and_what_was_found():
    scans, _ = subject()
    assert misfit(scans, Recipe(contrasts=CONTRASTS, crop=CROP, intensity="maximum")) is None
    assert misfit(scans, Recipe(contrasts=CONTRASTS)) is None
    whole = tuple((0, n) for n in SHAPE)
    assert misfit(scans, Recipe(contrasts=CONTRASTS, crop=whole)) is None
    for crop in (((5, 21), (0, 18), (0, 14)), ((-1, 20), (0, 18), (0, 14)), ((0, 20), (0, 18), (7, 7))):
        wanted = " x ".join(f"[{start}:{stop}]" for start, stop in crop)
        assert misfit(scans, Recipe(contrasts=CONTRASTS, crop=crop)) == (
            f"expected a volume that holds the crop {wanted}, found 20 x 18 x 14 voxels"
        )
    # T1ce ends one plane below FLAIR
    above = Recipe(contrasts=CONTRASTS, crop=((0, 20), (0, 18), (8, 14)))
    assert misfit(scans, above) == "T1ce: expected brain inside the crop, found zeros only"
    scans["T1ce"] = scan_of(-scans["T1ce"].data)
    assert misfit(scans, Recipe(contrasts=CONTRASTS)) is None
    assert misfit(scans, Recipe(contrasts=CONTRASTS, intensity="maximum")) == (
        "T1ce: expected a positive maximum to divide by, found 0"
    )
    scans["T1ce"] = scan_of(scans["T1ce"].data - np.int16(1))
    assert misfit(scans, Recipe(contrasts=CONTRASTS, intensity="maximum")).endswith("found -1")
    assert misfit(scans, Recipe(contrasts=("FLAIR",), intensity="maximum")) is None


def test_a_voxel_size_and_a_shape_together_are_refused():
    with pytest.raises(ValueError, match=r"a voxel size or a shape .* received both: 2.0 mm, \(8, 8, 8\)"):
        Recipe(spacing_mm=2.0, shape=(8, 8, 8))


def test_values_of_an_unresized_crop_come_back_at_its_place():
    scans, labels = subject()
    volume = transform("a", scans, labels, Recipe(contrasts=CONTRASTS, crop=CROP))
    values = np.random.default_rng(0).normal(size=(3, *volume.box_shape)).astype(np.float32)
    found, region = volume.on_working_grid(values, volume.box)
    np.testing.assert_array_equal(found, values)
    # what the volume holds goes back to where the scan has it
    image, _ = volume.on_working_grid(volume.image(), volume.box)
    for number, name in enumerate(CONTRASTS):
        expected = normalised(scans[name], "zscore")[region]
        assert np.abs(image[number] - expected).max() <= 0.505 * volume.steps[number] + 1e-6
    part = (slice(2, 5), slice(0, 14), slice(7, 8))
    found, region = volume.on_working_grid(np.ones((1, 3, 14, 1)), part)
    assert region == (slice(5, 8), slice(2, 16), slice(11, 12))
    np.testing.assert_array_equal(found, np.ones((1, 3, 14, 1)))


@pytest.mark.parametrize("shape", [(8, 7, 4), (32, 28, 8), (11, 20, 5)])
@pytest.mark.parametrize("box", [None, (slice(2, 6), slice(0, 7), slice(1, 4))])
def test_values_of_a_resized_crop_come_back_resampled_at_its_place(shape, box):
    scans, labels = subject()
    volume = transform("a", scans, labels, Recipe(contrasts=CONTRASTS, crop=CROP, shape=shape))
    box = box or volume.box
    grid = np.zeros((3, *shape), np.float32)
    grid[:, *box] = np.random.default_rng(0).normal(size=grid[:, *box].shape)
    expected = np.zeros((3, *SHAPE), np.float32)
    expected[:, *INSIDE] = volumes.resize(grid, (16, 14, 8))
    values, region = volume.on_working_grid(grid[:, *box], box)
    found = np.zeros_like(expected)
    found[:, *region] = values
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert values.dtype == np.float32


@pytest.mark.parametrize("shape", [(8, 7, 4), (16, 28, 24), (32, 14, 8)])
def test_a_linear_field_keeps_its_place_on_the_way_to_the_scan(shape):
    own = Placement(source_shape=SHAPE, source_spacing_mm=(1.0, 1.0, 1.0), source_axes="LPS", axes="LPS",
                    resampled_shape=SHAPE, start=(0, 0, 0), shape=SHAPE, placed_by="")  # fmt: skip
    volume = Volume("a", np.zeros((1, *shape), np.int16), (1.0,), shape, (0, 0, 0), (3, 2, 4), (16, 14, 8), None, own)

    def field(x, y, z):  # of places in the scan, in voxels
        return 0.5 * x - 0.25 * y + 2 * z + 1

    def places(axis):
        length, start = (16, 14, 8)[axis], (3, 2, 4)[axis]
        return start - 0.5 + (np.arange(shape[axis]) + 0.5) * length / shape[axis]

    values = field(*np.meshgrid(*map(places, range(3)), indexing="ij"))
    found, region = volume.on_working_grid(values[None], volume.box)
    assert region == INSIDE
    x, y, z = np.meshgrid(*(np.arange(s.start, s.stop) for s in region), indexing="ij")
    inner = (slice(2, -2),) * 3  # beyond the last centre there is nothing to interpolate with
    np.testing.assert_allclose(found[0][inner], field(x, y, z)[inner], atol=1e-4)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(crop=((8, 32), (8, 40), (6, 30)), extent=(40, 48, 36), intensity="maximum"),
        Recipe(crop=((8, 32), (8, 40), (6, 30)), extent=(40, 48, 36), shape=(12, 16, 12), contrasts=("T2", "FLAIR")),
        Recipe(shape=(20, 24, 18), intensity="maximum"),
    ],
)
def test_a_cropped_volume_is_the_same_after_storing_and_reopening(tmp_path, recipe):
    subjects = find_subjects(write_cohort(tmp_path / "scans", 2)).subjects
    made = prepare(subjects, recipe, tmp_path / "store", n_jobs=1)
    again = prepare(subjects, recipe, tmp_path / "store", n_jobs=1)
    assert (made.prepared, again.prepared, again.remade, again.problems) == (2, 0, (), ())
    assert again.entries == made.entries
    for each in subjects:
        scans, mask = each.read(recipe.contrasts)
        with threadpool_limits(1, user_api="blas"):  # as in prepare: sums in another order may round differently
            expected = transform(each.id, scans, each.convention.to_classes(mask.data), recipe)
        found = again.entries[each.id].open()
        assert {k: v for k, v in vars(found).items() if k != "voxels"} == {
            k: v for k, v in vars(expected).items() if k != "voxels"
        }
        np.testing.assert_array_equal(found.voxels, expected.voxels)
    other = prepare(
        subjects, Recipe(crop=((8, 32), (8, 40), (6, 29)), extent=(40, 48, 36)), tmp_path / "store", n_jobs=1
    )
    assert other.prepared == 2


def test_a_subject_that_does_not_fit_the_crop_is_a_problem_of_its_own(tmp_path):
    write_cohort(tmp_path / "scans", 2)
    write_subject(tmp_path / "scans", "BraTS_long", 5, shape=(40, 48, 50))
    subjects = find_subjects(tmp_path / "scans").subjects
    store = prepare(
        subjects, Recipe(crop=((8, 32), (8, 40), (6, 30)), extent=(40, 48, 36)), tmp_path / "store", n_jobs=1
    )
    assert sorted(store.entries) == ["BraTS_000", "BraTS_001"]
    assert [(problem.subject, problem.what) for problem in store.problems] == [
        ("BraTS_long", "its brain measures 33 x 41 x 41 voxels, which do not fit into the grid of 40 x 48 x 36")
    ]
    assert not list((tmp_path / "store").rglob("BraTS_long*"))


def test_the_middle_of_a_real_scan_divided_by_its_maximum(real_data, tmp_path):
    subject = find_subjects(real_data / "brats").subjects[0]
    recipe = Recipe(crop=((56, 184), (56, 184), (13, 141)), intensity="maximum")
    store = prepare([subject], recipe, tmp_path, n_jobs=1)
    assert store.problems == ()
    volume = store.entries[subject.id].open()
    assert (volume.grid_shape, volume.crop_start) == ((128, 128, 128), (56, 56, 13))
    found = on_grid(volume, volume.image())
    for ours, step, contrast in zip(found, volume.steps, recipe.contrasts, strict=True):
        scan = np.asarray(nib.load(subject.images[contrast]).dataobj).astype(np.float64)
        expected = scan[56:184, 56:184, 13:141] / scan.max()
        assert np.abs(ours - expected).max() <= 0.505 * step + 1e-7
        np.testing.assert_array_equal(np.rint(ours * scan.max()), scan[56:184, 56:184, 13:141])
    truth = np.asarray(nib.load(subject.label).dataobj)[56:184, 56:184, 13:141]
    assert volume.labelled_fraction == np.count_nonzero(truth) / 128**3
    np.testing.assert_array_equal(on_grid(volume, volume.labels()), np.where(truth == 4, 3, truth))
