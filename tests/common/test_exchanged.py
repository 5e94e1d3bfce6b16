"""Contrasts under each other's names: a brain whose tissues have textbook intensities, and real patients."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from common.cohort import audit, find_subjects
from common.exchanged import NAMES, exchanged
from common.patient import Trained, answer_for
from common.prepared import prepare
from common.recipe import Recipe

PAIRS = tuple(itertools.combinations(NAMES, 2))
# Fluid, grey matter, white matter, oedema, vessels and rim, in arbitrary units.
TISSUES = {
    "FLAIR": (20, 100, 80, 170, 110),
    "T1": (30, 70, 100, 65, 70),
    "T1ce": (35, 75, 105, 70, 240),
    "T2": (220, 110, 75, 150, 130),
}


def brain(seed=0, shape=(56, 52, 48)):
    """The four contrasts, float32 (x, y, z), background 0: tissues that lie at random, in shares as in a head."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice(5, shape, p=(0.08, 0.42, 0.42, 0.06, 0.02))
    inside = np.zeros(shape, bool)
    inside[4:-4, 4:-4, 4:-4] = True
    return {
        name: np.where(inside, np.array(values)[tissue] + rng.normal(0, 6, shape), 0).astype(np.float32)
        for name, values in TISSUES.items()
    }


def with_pair(images, one, other):
    return {**images, one: images[other], other: images[one]}


def write(folder, name, images):
    labels = np.zeros(images["T1"].shape, np.uint8)
    labels[20:30, 20:30, 20:30], labels[22:28, 22:28, 22:28], labels[24:26, 24:26, 24:26] = 2, 4, 1
    (folder / name).mkdir(parents=True)
    for contrast, data in {**images, "seg": labels}.items():
        file = folder / name / f"{name}_{contrast.lower()}.nii.gz"
        nib.save(nib.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0])), file)


@pytest.mark.parametrize("seed", [0, 1])
def test_contrasts_under_their_names_raise_no_doubt_and_each_exchange_is_named(seed):
    images = brain(seed)
    assert exchanged(images) == ()
    for one, other in PAIRS:
        (said,) = exchanged(with_pair(images, one, other))
        assert said.endswith(f" {one} and {other} exchanged")
    one, other = PAIRS[0]
    threefold = with_pair(with_pair(images, "T1", "T2"), "T1", "FLAIR")
    assert exchanged(threefold)


def test_neither_units_nor_the_order_of_the_files_matter():
    images = brain()
    rescaled = {name: images[name] * factor for name, factor in zip(reversed(NAMES), (0.01, 7, 1, 3000), strict=True)}
    assert exchanged(rescaled) == ()
    assert exchanged(with_pair(rescaled, "FLAIR", "T2")) == exchanged(with_pair(images, "FLAIR", "T2"))


def test_nothing_is_said_where_nothing_can_be_told():
    wrong = with_pair(brain(), "FLAIR", "T2")
    assert exchanged({name: wrong[name] for name in NAMES[:3]}) == ()  # one is missing
    assert exchanged({name: wrong[name][:30, :30, :30] for name in NAMES}) == ()  # too small
    assert exchanged(wrong | {"T1": np.minimum(wrong["T1"], 1)}) == ()  # half of its voxels are equal
    assert exchanged({name: np.zeros((40, 40, 40)) for name in NAMES}) == ()


def test_audit_prepared_entries_and_an_answer_say_so(tmp_path):
    write(tmp_path / "cohort", "BraTS_000", brain(0))
    write(tmp_path / "cohort", "BraTS_001", with_pair(brain(1), "T1", "T1ce"))
    cohort = find_subjects(tmp_path / "cohort")
    said = "the contrasts do not look like their names, but would with T1 and T1ce exchanged"
    found = audit(cohort)
    assert not found.problems
    assert found.exchanged == ("BraTS_001",)
    assert [note for note in found.notes if "names" in note] == [f"{said}: 1 of 2 subjects (BraTS_001)"]

    recipe = Recipe(spacing_mm=None)
    store = prepare(cohort.subjects, recipe, tmp_path / "prepared", n_jobs=1)
    assert [store.entries[subject.id].exchanged for subject in cohort.subjects] == [(), (said,)]
    assert store.entries["BraTS_001"].open().voxels.shape[0] == len(NAMES) + 1

    trained = Trained(recipe, lambda volume: np.zeros((56, 52, 48), np.uint8))
    answers = [answer_for(subject, trained) for subject in cohort.subjects]
    assert [said in answer.notes for answer in answers] == [False, True]


def test_real_patients_raise_no_doubt_until_their_contrasts_are_exchanged(real_data):
    noticed = []
    for subject in find_subjects(real_data / "brats").subjects:
        images = {name: scan.data for name, scan in subject.read(NAMES)[0].items()}
        assert exchanged(images) == (), subject.id
        noticed += [bool(exchanged(with_pair(images, *pair))) for pair in PAIRS]
    assert noticed.count(False) <= 1  # of 24, as measured on 25 patients: 7 of 150
