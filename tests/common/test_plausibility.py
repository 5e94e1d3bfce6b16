import numpy as np
import pytest

from common.cohort import audit, find_subjects
from common.plausibility import Layers, absences, doubts, layers

AS_GLIOMA = (0, 1, 2, 3)  # what NCR, ED and ET of a glioma are read as


def glioma(read_as, radii=(3, 5, 8)):
    """Shells of NCR, ET and ED around each other, each class read as another."""
    grid = np.indices((24, 22, 20)) - np.array((11, 10, 9)).reshape(3, 1, 1, 1)
    distance = np.sqrt((grid**2).sum(axis=0))
    classes = np.select([distance < radius for radius in radii], [1, 3, 2], 0)
    return np.array(read_as, np.uint8)[classes]


def plain_layers(labels):
    """Face by face."""
    faces = {}
    for axis in range(3):
        line = np.moveaxis(labels, axis, 0)
        for a, b in zip(line[:-1].ravel(), line[1:].ravel(), strict=True):
            faces[a, b] = faces.get((a, b), 0) + 1
            faces[b, a] = faces.get((b, a), 0) + 1
    outer = max((1, 2, 3), key=lambda label: faces.get((0, label), 0))
    core = max((1, 3), key=lambda label: faces.get((0, label), 0) + faces.get((2, label), 0))
    names = ("background", "NCR", "ED", "ET")
    return Layers(names[outer], names[core])


@pytest.mark.parametrize(
    ("read_as", "outermost", "core"),
    [
        (AS_GLIOMA, "ED", "ET"),
        ((0, 3, 2, 1), "ED", "NCR"),  # ET and NCR exchanged
        ((0, 2, 1, 3), "NCR", "NCR"),  # MSD's values read as those of BraTS 2023
        ((0, 1, 3, 2), "ET", "ET"),
    ],
)
def test_layers_of_shells(read_as, outermost, core):
    labels = glioma(read_as)
    assert layers(labels) == Layers(outermost, core) == plain_layers(labels)
    random = np.random.default_rng(3).integers(0, 4, (9, 8, 7)).astype(np.uint8)
    assert layers(random) == plain_layers(random)


def test_masks_that_lack_a_class_tell_nothing():
    assert layers(np.zeros((4, 4, 4), np.uint8)) == Layers(None, None)
    assert layers(glioma((0, 0, 2, 3))) == Layers(None, None)
    assert layers(glioma((0, 1, 0, 3))) == Layers(None, "ET")


def test_only_most_of_three_masks_or_more_raise_a_doubt():
    good, bad = layers(glioma(AS_GLIOMA)), layers(glioma((0, 3, 2, 1)))
    assert doubts([bad, bad]) == doubts([bad, bad, good, good]) == doubts([]) == []
    (doubt,) = doubts([bad, good, bad])
    assert doubt.startswith("in 2 of 3 masks most of the core's surface is NCR, in gliomas it is ET")


def test_real_masks_look_like_gliomas_until_they_are_read_otherwise(real_data):
    subjects = find_subjects(real_data / "brats").subjects
    assert {layers(subject.load_labels()) for subject in subjects} == {Layers("ED", "ET")}
    exchanged = [layers(np.array((0, 3, 2, 1), np.uint8)[subject.load_labels()]) for subject in subjects]
    assert len(doubts(exchanged)) == 1


def test_the_audit_notes_it(tmp_path):
    from tests.common.test_cohort import BRATS_2023, BRATS_2023_NAMES, save, subject_2018, volume

    for number, exchange in enumerate((True, True, True, False)):
        name = f"BraTS-GLI-0000{number}-000"
        folder = subject_2018(tmp_path, name, names=BRATS_2023_NAMES, convention=BRATS_2023)
        mask = glioma((0, 3, 2, 1) if exchange else AS_GLIOMA)
        for contrast in ("FLAIR", "T1", "T1ce", "T2"):
            save(folder / f"{name}{BRATS_2023_NAMES[contrast]}.nii.gz", volume(contrast, mask.shape))
        save(folder / f"{name}-seg.nii.gz", mask)
    (note,) = audit(find_subjects(tmp_path)).notes
    assert "in 3 of 4 masks most of the core's surface is NCR" in note


def test_empty_masks_and_classes_that_no_mask_holds_are_named():
    everything, whole, empty = frozenset(("NCR", "ED", "ET")), frozenset(("NCR",)), frozenset()
    assert absences([]) == absences([whole, whole]) == absences([whole, whole, everything]) == []
    assert absences([whole, empty, whole]) == ["1 of 3 masks are empty"]
    (absent,) = absences([whole] * 3)
    assert absent.startswith("none of 3 masks holds ED or ET")
