from dataclasses import replace

import pytest

from common.cohort import find_subjects
from common.prepared import prepare
from tests.cohorts import write_cohort
from unet_tf.config import Config

CROP = ((4, 36), (8, 40), (2, 34))


@pytest.fixture(scope="session")
def config_3d():
    """A small 3D network on a crop of the tiny subjects that holds the whole tumour, at their own voxel size."""
    return Config(crop=CROP, extent=(40, 48, 36), shape=(32, 32, 32), filters=2, levels=2, workers=1)


@pytest.fixture(scope="session")
def config_25d(config_3d):
    """A small 2.5D network: 8 slices of two contrasts and their neighbours, in-plane resized to half."""
    return replace(
        config_3d,
        spatial_dims=2,
        contrasts=("FLAIR", "T1ce"),
        context=1,
        crop=((0, 40), (0, 48), (12, 20)),
        shape=(20, 24, 8),
        batch_size=1,
    )


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Folder with five subjects of 40 x 48 x 36 voxels."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), 5)


@pytest.fixture(scope="session")
def entries_of(tiny_cohort, tmp_path_factory):
    """The five subjects as a configuration's network sees them."""
    folder, known = tmp_path_factory.mktemp("store"), {}

    def prepared(config):
        if config.recipe not in known:
            store = prepare(find_subjects(tiny_cohort).subjects, config.recipe, folder, n_jobs=1)
            assert not store.problems
            known[config.recipe] = list(store.entries.values())
        return known[config.recipe]

    return prepared
