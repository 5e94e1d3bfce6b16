"""common.subject: problems in lines."""

from pathlib import Path

from common.subject import Problem, lines


def test_what_several_subjects_have_in_the_same_words_is_said_once():
    problems = [Problem(id, Path(f"{id}.nii"), "no T2") for id in "ABCDEFG"] + [Problem("H", None, "another")]
    assert lines(problems) == ["A, B, C, D, E and 2 more: no T2 [A.nii]", "H: another"]


def test_a_problems_file_is_named_once():
    file = Path("folder/a_flair.nii.gz")
    assert str(Problem("a", file, "is empty")) == "a: is empty [folder/a_flair.nii.gz]"
    assert str(Problem("a", file, f"{file}: truncated")) == "a: folder/a_flair.nii.gz: truncated"
    assert str(Problem("a", None, "has no mask")) == "a: has no mask"
