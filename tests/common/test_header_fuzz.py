"""Header fields drawn at random: a scan is refused, noted, or gives what the untouched one gives, and nothing else."""

import gzip
import warnings

import nibabel as nib
import numpy as np
import pytest

from common.grid import BRATS_AFFINE
from common.labels import BRATS_2018
from common.patient import PatientArguments, segment
from common.prepared import prepare
from common.recipe import Recipe
from common.subject import Subject
from tests.cohorts import make_subject

FILES = {"FLAIR": "flair", "T1": "t1", "T1ce": "t1ce", "T2": "t2", "label": "seg"}
FIELDS = nib.Nifti1Header().template_dtype.fields
NUMBERS = (0, 1, -1, 2, 3, 7, 0.5, 1000, 1e-3, -0.0, 255, 32767, np.nan, np.inf, 1e30)
MUTATIONS = 120


@pytest.fixture(scope="module")
def untouched():
    """The five files' decompressed content, by name; sform and qform are both said."""
    images, labels = make_subject(11, shape=(20, 24, 18))
    content = {}
    for name, data in {**images, "seg": labels}.items():
        image = nib.Nifti1Image(data, BRATS_AFFINE)
        image.set_qform(BRATS_AFFINE, code=1)
        image.header.set_xyzt_units("mm", "sec")
        content[name] = image.to_bytes()
    return content


def mutated(content, rng):
    """One header field changed, in one file or the same way in all."""
    field = list(FIELDS)[rng.integers(len(FIELDS))]
    changed = list(content) if rng.random() < 0.5 else [list(content)[rng.integers(len(content))]]
    kind, offset = FIELDS[field][:2]
    item = kind.base.itemsize
    place = offset + item * int(rng.integers(kind.itemsize // item))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        drawn = np.array(NUMBERS[rng.integers(len(NUMBERS))])
        value = rng.bytes(item) if rng.random() < 0.3 or kind.base.kind == "S" else drawn.astype(kind.base).tobytes()
    found = dict(content)
    for name in changed:
        found[name] = content[name][:place] + value + content[name][place + item :]
    return found, f"{field} at byte {place} becomes {value.hex()} in {', '.join(changed)}"


def outcome(content, folder, recipe, capsys):
    """Label map and volumes, None where refused; what is prepared, None where refused; notes."""
    folder.mkdir()
    for name, data in content.items():
        (folder / f"{name}.nii.gz").write_bytes(gzip.compress(data, 1))
    files = {role: folder / f"{name}.nii.gz" for role, name in FILES.items()}
    capsys.readouterr()

    def bright(volume):
        values, region = volume.on_working_grid(volume.image(), volume.box)
        return volume.to_source(np.where(values[2] > 0.6, 3, 0), region)

    scans = {FILES[role]: file for role, file in files.items() if role != "label"}
    try:
        found = segment(PatientArguments(run=folder, output=folder / "out.nii.gz", **scans), recipe, bright)
        found = np.asarray(nib.load(folder / "out.nii.gz").dataobj), tuple(found.values())
    except (ValueError, OSError):
        found = None
    # What is noted of the untouched scan says nothing of a mutant.
    always = ("does not say on which grid", "3 ml of it are not 0")
    notes = [line for line in capsys.readouterr().err.splitlines() if not any(words in line for words in always)]
    label = files.pop("label")
    store = prepare([Subject("a", files, label, BRATS_2018)], recipe, folder / "store", n_jobs=1)
    assert bool(store.entries) != bool(store.problems)
    entry = store.entries.get("a")
    return found, entry and entry.open(), notes


@pytest.mark.parametrize("seed", [5, 2026])
def test_no_mutated_header_changes_a_result_in_silence(untouched, tmp_path, capsys, seed):
    recipe = Recipe(intensity="maximum")
    (labels, volumes_ml), volume, notes = outcome(untouched, tmp_path / "untouched", recipe, capsys)
    assert labels.any()
    assert notes == []
    rng, refused = np.random.default_rng(seed), 0
    for number in range(MUTATIONS // 2):
        content, what = mutated(untouched, rng)
        found, entry, notes = outcome(content, tmp_path / str(number), recipe, capsys)
        refused += found is None
        if found is not None and not notes:
            np.testing.assert_array_equal(found[0], labels, err_msg=what)
            assert found[1] == pytest.approx(volumes_ml, rel=0.03), what
        if entry is not None and not (notes or str(entry.placement)):
            np.testing.assert_allclose(entry.image(), volume.image(), atol=1e-4, err_msg=what)
            np.testing.assert_array_equal(entry.labels(), volume.labels(), err_msg=what)
    assert 0.1 < refused / (MUTATIONS // 2) < 0.9
