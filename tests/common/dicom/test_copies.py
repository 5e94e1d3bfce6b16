"""Who has whose series, by hand: the first keeps it, and of contradicting labels nobody does."""

from common.dicom.copies import copies, namesakes

LABELS = {"a": 1, "b": 1, "c": 0, "d": None}


def named(**contents):
    """By patient and contrast, written as a_FLAIR="content"."""
    return [(tuple(series.split("_")), content) for series, content in contents.items()]


def test_different_series_are_nobody_elses():
    assert copies(named(a_FLAIR=1, a_T1w=2, b_FLAIR=3, c_FLAIR=4), LABELS) == {}


def test_the_first_patient_keeps_a_series_whatever_its_contrast():
    found = copies(named(a_FLAIR=1, b_FLAIR=2, b_T1w=1, d_T2w=1), LABELS)
    assert found == dict.fromkeys(
        [("b", "T1w"), ("d", "T2w")], "has the FLAIR series of patient a, expected one of its own"
    )


def test_chains_end_with_an_owner_for_each_series():
    found = copies(named(a_FLAIR=1, b_FLAIR=1, b_T1w=2, d_T1w=2), LABELS)
    assert found.keys() == {("b", "FLAIR"), ("d", "T1w")}


def test_of_contradicting_labels_each_is_named_and_who_has_none_is_a_copy():
    found = copies(named(a_FLAIR=1, b_FLAIR=1, c_FLAIR=1, d_FLAIR=1), LABELS)
    assert found == {
        ("a", "FLAIR"): "has the FLAIR series of patient c, whose label is another",
        ("b", "FLAIR"): "has the FLAIR series of patient c, whose label is another",
        ("c", "FLAIR"): "has the FLAIR series of patient a, whose label is another",
        ("d", "FLAIR"): "has the FLAIR series of patient a, expected one of its own",
    }


def test_a_series_given_twice_is_no_copy_of_itself():
    assert copies([(("a", "FLAIR"), 1), (("a", "FLAIR"), 1)], LABELS) == {}
    assert copies(named(a_T1w=1, a_T1wCE=1), {}) == {("a", "T1wCE"): "is a copy of T1w, expected two different series"}


def test_namesakes_share_an_identifier_and_none_is_none():
    found = namesakes(named(a_FLAIR="1.2", b_FLAIR="1.2", c_FLAIR="", d_FLAIR="", c_T1w="1.3"))
    assert found == {("a", "FLAIR"): [("b", "FLAIR")], ("b", "FLAIR"): [("a", "FLAIR")]}
