import pytest

from common.cohort import find_subjects
from common.prepared import prepare
from common.recipe import Recipe
from tests.cohorts import write_cohort


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Folder with five subjects of 40 x 48 x 36 voxels."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), 5)


@pytest.fixture(scope="session")
def tiny_entries(tiny_cohort, tmp_path_factory):
    """The same subjects prepared on their own grid."""
    store = prepare(find_subjects(tiny_cohort).subjects, Recipe(), tmp_path_factory.mktemp("store"), n_jobs=2)
    assert not store.problems
    return list(store.entries.values())
