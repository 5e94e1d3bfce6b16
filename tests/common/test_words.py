from common.words import gathered, listed, plural


def test_numbers_in_sentences():
    assert [plural(n, "case") for n in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
    assert plural(2, "series", "series") == "2 series"
    assert listed(["a", "b", "c"], most=3) == "a, b, c"
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"


def test_notes_are_gathered_by_what_they_say():
    found = {"a": (), **{f"b{n}": ("x",) for n in range(6)}, "c": ("y", "x")}
    assert gathered(found) == ["x: 7 of 8 subjects (b0, b1, b2, b3, b4 and 2 more)", "y: 1 of 8 subjects (c)"]
    assert gathered({"a": ("x",)}, "patient") == ["x: 1 of 1 patient (a)"]
    assert gathered({"a": ()}) == gathered({}) == []
