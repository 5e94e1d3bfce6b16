"""common.subject: problems in lines."""

from pathlib import Path

from common.subject import Problem, lines


def test_what_several_subjects_have_in_the_same_words_is_said_once():
    problems = [Problem(id, Path(f"{id}.nii"), "no T2") for id in "ABCDEFG"] + [Problem("H", None, "another")]
    assert lines(problems) == ["A, B, C, D, E and 2 more: no T2 [A.nii]", "H: another"]
