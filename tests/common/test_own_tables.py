"""Tables of a user's own: who is in which part of a split, and which scans are one patient's."""

from dataclasses import dataclass

import pytest

from common.cohort import CohortError
from common.cohort.own_tables import read_patients, read_published


@dataclass(frozen=True)
class Scan:
    id: str
    patient: str


def published(folder, text):
    path = folder / "fold 1.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_published_split(tmp_path):
    subjects = [Scan(name, name[0]) for name in ("b1", "b2", "a", "c", "left out", "NA", "007")]
    path = published(
        tmp_path, "part,id,site\ntrain,b2,x\ntest,NA,\nvalidation,c,y\ntrain,b1,x\ntrain,a,\ntrain,007,z\n"
    )
    split = read_published(path, iter(subjects))
    assert (split.train, split.validation, split.test) == (("007", "a", "b1", "b2"), ("c",), ("NA",))
    assert split.name == "published_fold 1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,fold\na,train\n", "expected the columns id and part, each once, found id, fold"),
        ("id;part\na;train\n", "the columns id and part, separated by commas, found semicolons: id;part$"),
        ("id\tpart\na\ttrain\n", "separated by commas, found tabs: id"),
        ("id,part,part\na,train,test\n", "expected the columns id and part, each once, found id, part, part$"),
        ("", "expected a CSV with the columns id and part, but it is empty"),
        ("id,part\na,train\nb,test,x,y\n", "line 3: expected 2 values as in its first line, found 4"),
        ("id,part\na,train\nq,test\nc,validation\nr,test\n", "2 ids are not in the cohort of 4: 'q', 'r'$"),
        ("id,part\na,train\n,test\nc,validation\nr,test\n", "2 ids are not in the cohort of 4: '', 'r'$"),
        ("id,part\na,train\nb1,test\nc,validation\na,train\n", "each id once, found more than one row for 'a'$"),
        ("id,part\na,train\nb1,test\n", "expected the parts train, validation, test, found 'test', 'train'$"),
        ("id,part\na,train\nb1,test\nc,val\n", "expected the parts .*, found 'test', 'train', 'val'$"),
        ("id,part\na,train\nb1,test\nc,\nb2,validation\n", "expected the parts .*, found '', 'test', 'train', 'vali"),
        (
            "id,part\na,train\nb1,test\nb2,validation\nc,train\n",
            r"in one part, found in several: b \(b1, b2\)",
        ),
    ],
)
def test_published_splits_that_are_refused(tmp_path, text, why):
    subjects = [Scan(name, name[0]) for name in ("a", "b1", "b2", "c")]
    path = published(tmp_path, text)
    with pytest.raises(CohortError, match=why) as raised:
        read_published(path, subjects)
    assert str(raised.value).startswith(str(path))


def test_many_unknown_ids_are_counted(tmp_path):
    path = published(tmp_path, "id,part\n" + "".join(f"x{number},train\n" for number in range(8)))
    with pytest.raises(CohortError, match=r"8 ids .* cohort of 3: 'x0', 'x1', 'x2', 'x3', 'x4' and 3 more$"):
        read_published(path, [Scan(name, name) for name in "abc"])


def test_a_byte_order_mark_and_patients_of_a_table(tmp_path):
    subjects = [Scan(name, name) for name in ("m1", "m2", "n", "o")]
    path = tmp_path / "split.csv"
    path.write_text("id,part\nm1,train\nm2,test\nn,validation\no,train\n", encoding="utf-8-sig")
    assert read_published(path, subjects).test == ("m2",)
    table = tmp_path / "patients.csv"
    table.write_text("id,age,patient\nm1,7,M\nm2,8, M\nn,1,N\no,2,007\nelse,3,M\n", encoding="utf-8-sig")
    patients = read_patients(table, [s.id for s in subjects])
    assert [patients[s.id] for s in subjects] == ["M", "M", "N", "007"]
    with pytest.raises(CohortError, match=r"found in several: M \(m1, m2\)"):
        read_published(path, [Scan(s.id, patients[s.id]) for s in subjects])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,patients\nm1,M\n", "columns id and patient, each once, found id, patients"),
        ("id,patient\nm1,M\nm1,N\n", "more than one row for 'm1'"),
        ("id,patient\nm2,M\n", "none for m1"),
        ("id,patient\nm1, \n", "none for m1"),
        ("", "but it is empty"),
    ],
)
def test_tables_of_patients_that_are_refused(tmp_path, text, why):
    (tmp_path / "patients.csv").write_text(text)
    with pytest.raises(CohortError, match=why) as raised:
        read_patients(tmp_path / "patients.csv", ["m1"])
    assert "patients.csv" in str(raised.value)


def test_rows_longer_than_the_header_are_refused(tmp_path):
    for text in ("id,patient\ns1,a,\ns2,b,\n", "id,patient\ns1,a,x\ns2,b\n"):
        (tmp_path / "table.csv").write_text(text)
        with pytest.raises(CohortError, match="expected 2 values as in its first line, found 3"):
            read_patients(tmp_path / "table.csv", ["s1", "s2"])


BLANKS = (" ", "\t", "\u00a0", "\u200b", "\ufeff", "\u3000")  # from the third: no-break, of no width (two), ideographic


@pytest.mark.parametrize("blank", [*BLANKS, "".join(BLANKS)], ids=ascii)
def test_what_is_blank_around_a_cell_is_no_part_of_it_and_empty_rows_are_none(tmp_path, blank):
    around = f"{blank}{{}}{blank}"
    rows = [("id", "part", "patient"), ("a 1", "train", "P 1"), ("b", "validation", "P 1"), ("c", "test", "Q")]
    lines = [",".join(map(around.format, row)) for row in rows]
    lines[2:2] = [",,", "", f"{blank},,{blank}"]  # as Excel leaves them
    path = published(tmp_path, "\n".join(lines) + "\n,,\n")
    split = read_published(path, [Scan(name, name) for name in ("a 1", "b", "c")])
    assert (split.train, split.validation, split.test) == (("a 1",), ("b",), ("c",))
    assert read_patients(path, ["a 1", "b"]) == {"a 1": "P 1", "b": "P 1", "c": "Q"}


def test_an_id_that_only_looks_like_a_known_one_shows_what_else_it_holds(tmp_path):
    path = published(tmp_path, "id,part\na\u200b1,train\nb\u00a02,test\n")
    with pytest.raises(CohortError, match=r"2 ids are not in the cohort of 1: 'a\\u200b1', 'b\\xa02'$"):
        read_published(path, [Scan("a1", "a1")])


@pytest.mark.parametrize(
    ("one", "other"), [("1", "01"), ("3", "3.0"), ("P0", "p0"), ("0", "000"), ("P7", "P07"), ("Groß", "GROSS")]
)
def test_two_writings_of_one_patient_are_refused_with_the_ids_of_both(tmp_path, one, other):
    path = published(tmp_path, f"id,patient\na,{one}\nb,{other}\nc,{one}\nd,Q\n")
    with pytest.raises(CohortError) as raised:
        read_patients(path, "abcd")
    assert str(raised.value).startswith(str(path))
    assert f"found names that differ by zeros or case only: '{one}' (a, c) and '{other}' (b)" in str(raised.value)
    # those who are not in the cohort cannot be torn
    assert read_patients(path, "acd") == {"a": one, "b": other, "c": one, "d": "Q"}


def test_other_names_are_other_patients(tmp_path):
    names = ("1", "10", "100", "0.1", "1.1", "1.01", "1.2.840.0", "1.2.840", "P", "P1", "P10", "P0", "ab0c1", "ab0c10")
    path = published(tmp_path, "id,patient\n" + "".join(f"s{n},{name}\n" for n, name in enumerate(names)))
    ids = [f"s{n}" for n in range(len(names))]
    assert tuple(read_patients(path, ids).values()) == names


@pytest.mark.parametrize("nobody", ["NA", "nan", "n/a", "Unknown", "none", "NULL", "?", "-"])
def test_a_word_that_names_nobody_is_no_patient(tmp_path, nobody):
    path = published(tmp_path, f"id,patient\na,{nobody}\nb,{nobody}\nc,P\n")
    with pytest.raises(CohortError) as raised:
        read_patients(path, "abc")
    assert str(raised.value).startswith(f"{path}: expected a patient for every subject, found ")
    assert f"found '{nobody}' for a, '{nobody}' for b:" in str(raised.value)
    assert read_patients(path, "c")["c"] == "P"


def test_a_name_as_a_mac_writes_it_is_the_same_name(tmp_path):
    composed, apart = "J\u00e4ger", "Ja\u0308ger"
    path = published(tmp_path, f"id,part,patient\n{apart},train,{apart}\nb,validation,{composed}\nc,test,Q\n")
    assert read_published(path, [Scan(composed, "1"), Scan("b", "2"), Scan("c", "3")]).train == (composed,)
    assert read_patients(path, [composed, "b", "c"]) == {composed: composed, "b": composed, "c": "Q"}
