from common.words import by_note, listed, p_value, plural


def test_numbers_in_sentences():
    assert [plural(n, "case") for n in (0, 1, 2)] == ["0 cases", "1 case", "2 cases"]
    assert plural(2, "series", "series") == "2 series"
    assert listed(["a", "b", "c"], most=3) == "a, b, c"
    assert listed(["a", "b", "c"], most=2) == "a, b, c"
    assert listed(["a", "b", "c", "d"], most=2) == "a, b and 2 more"


def test_notes_are_gathered_by_what_they_say():
    found = {"a": (), **{f"b{n}": ("x",) for n in range(6)}, "c": ("y", "x")}
    assert by_note(found) == ["x: 7 of 8 subjects (b0, b1, b2, b3, b4 and 2 more)", "y: 1 of 8 subjects (c)"]
    assert by_note({"a": ("x",)}, "patient") == ["x: 1 of 1 patient (a)"]
    assert by_note({"a": ()}) == by_note({}) == []


def test_no_p_value_is_said_to_be_0():
    assert [p_value(p) for p in (1.0, 0.0123, 0.001, 0.00099, 0.0)] == ["1.000", "0.012", "0.001", "< 0.001", "< 0.001"]
    assert [p_value(p, named=True) for p in (0.5, 1e-9)] == ["p = 0.500", "p < 0.001"]
