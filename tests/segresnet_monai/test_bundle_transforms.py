"""Which patients a bundle finds in a folder, by the names of their files."""

import pytest

from segresnet_monai.bundle_transforms import cases

CONTRASTS = ("FLAIR", "T1", "T1ce", "T2")
NAMES_2018 = ("flair", "t1", "t1ce", "t2")
NAMES_2023 = ("t2f", "t1n", "t1c", "t2w")


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def of(place, names=NAMES_2018, *, sign="_", ending=".nii.gz"):
    return [f"{place}{sign}{name}{ending}" for name in names]


def test_patients_are_told_by_what_their_files_names_begin_with(tmp_path):
    touch(tmp_path, *of("flat/A"), *of("flat/B"), "flat/A_seg.nii.gz", "flat/._A_t1.nii.gz", "flat/notes.txt")
    touch(tmp_path, *of("one/visit/C"), *of("two/visit/D", ending=".NII"))
    touch(tmp_path, *of("GLI-1.5/GLI-1.5", NAMES_2023, sign="-"))
    touch(tmp_path, *(f"E_2/{name}.nii.gz" for name in NAMES_2018))
    found = {each["id"]: each for each in cases(str(tmp_path), CONTRASTS)}
    assert set(found) == {"A", "B", "C", "D", "GLI-1.5", "E_2"}
    assert found["B"]["T1ce"] == str(tmp_path / "flat" / "B_t1ce.nii.gz")
    assert found["D"]["T2"] == str(tmp_path / "two" / "visit" / "D_t2.NII")
    assert found["GLI-1.5"]["FLAIR"] == str(tmp_path / "GLI-1.5" / "GLI-1.5-t2f.nii.gz")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*of("a/P"), *of("b/P")], "P: expected one file of each contrast in one folder, found .*a/P_.* and .*b/P_"),
        ([*of("a/P", NAMES_2018[:2]), *of("b/P", NAMES_2018[2:])], "in one folder, found .*a/P_flair.* and .*b/P_t1ce"),
        ([*of("a/P"), "a/P-t2w.nii"], "found .*P-t2w.nii and .*P_t2.nii.gz"),
        ([*of("a/P"), *of("b/Q", ("flair", "t2", "t1"))], "Q_flair.nii.gz: expected T1ce of Q beside it, found none"),
        (["a/P_seg.nii.gz"], "expected folders that hold FLAIR, T1, T1ce, T2"),
    ],
)
def test_patients_that_are_not_whole_or_not_told_apart_are_refused(tmp_path, names, said):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=said):
        cases(str(tmp_path), CONTRASTS)
