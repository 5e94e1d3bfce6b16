"""Which series is which contrast: names and times as scanners and people write them, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from common.dicom.pixels import DicomError
from common.preprocess.contrasts import choose, has_agent, read_contrast
from common.preprocess.series import Header, find_series
from tests.common.dicom.dicom_files import SAGITTAL, noise, write_enhanced, write_series


def series(
    folder: Path, number: int, name: str = "", *, images: int = 4, spacing_mm=(3.0, 1.0, 1.0), **changes
) -> Path:
    """A series of the study in a folder; changes: elements by keyword, times as TE, TR and TI."""
    times = {"TE": "EchoTime", "TR": "RepetitionTime", "TI": "InversionTime"}
    elements = {times.get(keyword, keyword): value for keyword, value in changes.items()}
    given = {
        "SeriesDescription": name, "SeriesInstanceUID": f"1.2.{number}", "SeriesNumber": number,
        "StudyInstanceUID": "1.2", "PatientID": "P", "ImageType": ["ORIGINAL", "PRIMARY"],
    }  # fmt: skip
    return write_series(folder / f"s{number}", noise(4, seed=number), spacing_mm=spacing_mm, **(given | elements))


def reading(folder: Path, name: str = "", **changes):
    series(folder, 1, name, **changes)
    (found,) = find_series(folder).series
    return read_contrast(found)


@pytest.mark.parametrize(
    ("name", "elements", "expected"),
    [
        ("AX T2 FLAIR PROPELLER", {}, "FLAIR"),
        ("t2_spc_sag_p2", {"TE": 388, "TR": 5000, "TI": 1800}, None),  # T2 by its name, FLAIR by its times
        ("t2_spc_da-fl_sag_p2", {"TE": 388, "TR": 5000, "TI": 1800}, "FLAIR"),
        ("t2_space_dark-fluid_sag_p3_iso", {"TE": 380, "TR": 5000}, "FLAIR"),
        ("T2W_TSE_tra", {"TE": 100, "TR": 3000}, "T2"),
        ("Ax T1 FLAIR", {"TE": 12, "TR": 2200, "TI": 860}, "T1"),
        ("sag 3D BRAVO +C", {"TE": 3.1, "TR": 8.2, "TI": 450}, "T1ce"),
        ("t1_mpr_sag_iso_KM", {}, "T1ce"),
        ("AX T1 POST", {}, "T1ce"),
        ("AX T1 PRE", {}, "T1"),
        ("T1 without contrast", {}, "T1"),
        ("T1 nativ", {"ContrastBolusAgent": "NONE"}, "T1"),
        ("AX T1", {"ContrastBolusAgent": "NO CONTRAST"}, "T1"),
        ("T1 KM-", {}, "T1"),
        ("T1 CE minus T1 nativ", {}, None),
        ("AX T1 pre", {"ContrastBolusAgent": "Dotarem"}, None),
        ("AX T1 pre and post Gd", {}, None),
        ("AX T1", {"ContrastBolusAgent": "Dotarem"}, "T1ce"),
        ("AX T1 +C post chemo", {}, "T1ce"),
        ("T1 posterior fossa", {}, "T1"),
        ("T1 SE post-op", {}, "T1"),
        ("T1 no fat sat +C", {}, "T1ce"),
        ("AX T1 W/O", {}, "T1"),
        ("AX T1 precontrast", {}, "T1"),
        ("AX T1", {"ProtocolName": "BRAIN W/WO CONTRAST"}, "T1"),
        ("AX T1 POST", {"ProtocolName": "BRAIN W/WO CONTRAST"}, "T1ce"),
        ("", {"TE": 12, "TR": 600}, "T1"),
        ("", {"TE": 95, "TR": 4500}, "T2"),
        ("", {"TE": 120, "TR": 9000, "TI": 2500}, "FLAIR"),
        ("FLAIR tra", {"TE": 120, "TR": 9000}, "FLAIR"),  # without the inversion time it looks like a T2
        ("", {"TE": 30, "TR": 3000}, None),
        ("T1 T2 mix", {}, None),
        ("AX T2* GRE", {"TE": 20, "TR": 600}, None),
        ("ep2d_diff_3scan_trace_p2_ADC", {}, None),
        ("T2 localizer", {}, None),
        ("AX T1 SUB", {}, None),
        ("T2 TSE", {"Modality": "CT"}, None),
        ("T2", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION"]}, None),
    ],
)
def test_what_a_series_is_taken_for(tmp_path, name, elements, expected):
    found = reading(tmp_path, name, **elements)
    assert found.contrast == expected, found
    assert all(found.reasons)


def test_an_enhanced_files_times_and_agent_lie_in_its_groups(tmp_path):
    path = write_enhanced(tmp_path / "a.dcm", noise(4), SeriesInstanceUID="1.2.3", Modality="MR")
    dataset, echo, timing, agent = dcmread(path), Dataset(), Dataset(), Dataset()
    echo.EffectiveEchoTime, timing.RepetitionTime, agent.ContrastBolusAgentNumber = 3.0, 8.0, 1
    dataset.SharedFunctionalGroupsSequence[0].MREchoSequence = [echo]
    dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence = [timing]
    dataset.ContrastBolusAgentSequence = [agent]
    dataset.save_as(path)
    (found,) = find_series(tmp_path).series
    assert read_contrast(found).contrast == "T1ce"


def test_real_scanners_series_are_told_by_their_times(real_data):
    for vendor, expected in {"ge": "T1", "philips": "FLAIR", "siemens": "FLAIR"}.items():
        (found,) = find_series(real_data / "dicom" / vendor).series
        assert read_contrast(found).contrast == expected


def study(folder: Path) -> Path:
    for number, name in enumerate(("FLAIR", "T1 pre", "T1 post", "T2"), start=1):
        series(folder, number, name)
    return folder


def test_one_series_per_contrast_wherever_their_files_lie(tmp_path):
    study(tmp_path / "sorted")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, file in enumerate(sorted((tmp_path / "sorted").rglob("*.dcm"))):
        file.rename(mixed / f"IM{number:05d}")
    chosen = choose(find_series(mixed)).series
    assert {name: found.uid for name, found in chosen.items()} == {
        "FLAIR": "1.2.1", "T1": "1.2.2", "T1ce": "1.2.3", "T2": "1.2.4",
    }  # fmt: skip


def test_the_finest_as_measured_is_taken_and_equals_are_refused(tmp_path):
    study(tmp_path)
    series(tmp_path, 5, "T1 post sag", spacing_mm=(1.0, 1.0, 1.0), orientation=SAGITTAL)
    series(tmp_path, 6, "T1 post MPR", spacing_mm=(0.5, 0.5, 0.5), ImageType=["DERIVED", "SECONDARY"])
    assert choose(find_series(tmp_path)).series["T1ce"].uid == "1.2.5"
    series(tmp_path, 7, "T1 post again", spacing_mm=(1.02, 1.0, 1.0))
    with pytest.raises(DicomError, match=r"4 series are T1ce and equally fine.*--t1ce UID"):
        choose(find_series(tmp_path))
    for name in ("1.2.7", "s7", tmp_path / "s7"):
        assert choose(find_series(tmp_path), named={"T1ce": name}).series["T1ce"].uid == "1.2.7"


def test_what_is_missing_is_said_with_all_that_is_there(tmp_path):
    series(study(tmp_path), 3, "T1 pre and post")
    with pytest.raises(DicomError, match=r"no series is T1ce: name it with --t1ce UID(.|\n)*both with and without"):
        choose(find_series(tmp_path))
    chosen = choose(find_series(tmp_path), named={"T1ce": "1.2.3"})
    assert chosen.series["T1ce"].uid == "1.2.3"
    with pytest.raises(DicomError, match=r"--t1ce 9\.9: expected a series' UID"):
        choose(find_series(tmp_path), named={"T1ce": "9.9"})
    with pytest.raises(DicomError, match="series of its own for T1ce, found the one given for T1"):
        choose(find_series(tmp_path), named={"T1": "1.2.2", "T1ce": "1.2.2"})


NO_AGENT = (
    "NO CONTRAST", "Non-contrast", "Without contrast", "NONE GIVEN", "N/A", "NO_CONTRAST", "noncontrast", "--",
    "contrast not given", "Contrast: none", "w/o contrast", "ohne KM", "not applicable", "0 ml", "0.0 ml Gadovist",
)  # fmt: skip
WITHOUT = (
    "T1 KM-", "T1 KM- sag", "T1 KM -", "T1 GD-", "T1 -GAD", "AX T1 CE-", "T1ce-", "T1 before GD",
    "T1 prior to contrast", "T1 without IV contrast", "T1 minus GD", "T1 Gd neg", "T1 GAD (-) sag", "T1 (-)GAD",
    "T1 kein KM", "T1 ohne", "T1 contrast: no", "T1 w/o Dotarem",
)  # fmt: skip
WITH = ("T1-Gd", "T1 Gd-DTPA", "t1_mpr-km", "t1ce-mprage", "T1 - post", "T1 KM - sag", "T1 KM no fs", "T1 nach KM-Gabe")


def read_agent(name: str, agent: str = "") -> bool | None:
    """Whether a T1 was measured with contrast agent, None where it cannot be told."""
    return has_agent(Header(values={"SeriesDescription": name, "ContrastBolusAgent": agent}))[0]


def test_no_agent_is_written_in_many_ways():
    assert {agent: read_agent("AX T1", agent) for agent in NO_AGENT} == dict.fromkeys(NO_AGENT, False)
    given = ("Gadovist", "Gadovist, no reaction", "0.1 mmol/kg Dotarem", "Gadovist 10", "YES")
    assert {agent: read_agent("AX T1", agent) for agent in given} == dict.fromkeys(given, True)


def test_a_name_says_without_agent_in_many_ways_and_a_hyphen_is_none_of_them():
    assert {name: read_agent(name) for name in WITHOUT} == dict.fromkeys(WITHOUT, False)
    assert {name: read_agent(name, "Gadovist") for name in WITHOUT} == dict.fromkeys(WITHOUT, None)
    assert {name: read_agent(name) for name in WITH} == dict.fromkeys(WITH, True)
    assert read_agent("T1 - KM") is None  # a minus or a dash


@pytest.mark.parametrize(("keyword", "what"), [("PatientID", "patient"), ("StudyInstanceUID", "study")])
def test_two_patients_and_two_studies_are_never_one(tmp_path, keyword, what):
    study(tmp_path)
    series(tmp_path, 4, "T2", **{keyword: "9.9"})
    with pytest.raises(DicomError, match=f"expected the series of one {what}, found several"):
        choose(find_series(tmp_path))


def test_an_image_that_cannot_be_read_keeps_its_series_out(tmp_path):
    study(tmp_path)
    file = tmp_path / "s4" / "Image-3.dcm"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DicomError, match=r"T2, but no stack that can be used: .*Image-3\.dcm: truncated"):
        choose(find_series(tmp_path))
    file.write_bytes(b"nothing")  # whose it is cannot even be told
    with pytest.raises(DicomError, match=r"T2, but no stack that can be used: .*expected DICM"):
        choose(find_series(tmp_path))


def test_an_export_that_holds_a_series_twice_holds_it_once(tmp_path):
    shutil.copytree(study(tmp_path) / "s4", tmp_path / "again" / "s4")
    search = find_series(tmp_path)
    assert len(choose(search).series["T2"].folder.images) == 4
    assert search.others == {"copies of another image": 4}
    file = tmp_path / "again" / "s4" / "Image-3.dcm"
    file.write_bytes(file.read_bytes()[:-2] + b"\1\1")  # no copy: which is right cannot be told
    with pytest.raises(DicomError, match="expected one image per position"):
        choose(find_series(tmp_path))


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DicomError, match="expected"):
            find_series(folder)


def test_images_with_a_series_each_are_one_stack(tmp_path):
    for number, file in enumerate(sorted(series(tmp_path, 1, "FLAIR").glob("*.dcm"))):
        dataset = dcmread(file)
        dataset.SeriesInstanceUID = f"1.2.3.{number}"
        dataset.save_as(file)
    (found,) = find_series(tmp_path).series
    assert len(found.folder.images) == 4
    assert np.isclose(found.folder.series().spacing_mm[0], 3.0)
