"""Batches: what a network sees of a subject, and in which order."""

from dataclasses import replace

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from tests.cohorts import make_subject  # noqa: E402
from unet_tf.data import Batches, network_input, network_labels  # noqa: E402

FILES = {"FLAIR": "flair", "T1": "t1", "T1ce": "t1ce", "T2": "t2"}


def original(entry, config):
    """Scans (contrast, x, y, z) in the crop, the whole scans' maxima, and classes (x, y, z) of a tiny subject."""
    images, labels = make_subject(int(entry.id[-3:]))
    crop = tuple(slice(*ends) for ends in config.crop)
    scans = np.stack([images[FILES[name]][crop] for name in config.contrasts]).astype(np.float64)
    maxima = [images[FILES[name]].max() for name in config.contrasts]
    return scans, np.array(maxima, np.float64), np.where(labels == 4, 3, labels)[crop]


def test_the_network_sees_scans_divided_by_their_maxima_to_less_than_half_an_integer(config_3d, entries_of):
    for entry in entries_of(config_3d)[:2]:
        scans, maxima, _ = original(entry, config_3d)
        seen = network_input(entry.open(), config_3d)
        assert seen.shape == (1, 32, 32, 32, 4)
        assert seen.dtype == np.float32
        for c in range(4):
            # Half a step of the stored integers: 32767 steps up to the crop's largest value.
            half_step = 0.5 * scans[c].max() / maxima[c] / 32767
            np.testing.assert_allclose(seen[0, ..., c], scans[c] / maxima[c], atol=1.01 * half_step, rtol=2e-7)
            np.testing.assert_array_equal(np.rint(seen[0, ..., c] * maxima[c]), scans[c])
            assert seen[0, ..., c].max() <= 1 + 1e-6


def test_contrasts_come_in_the_order_of_the_configuration(config_3d, entries_of):
    config = replace(config_3d, contrasts=("T2", "FLAIR"))
    scans, maxima, _ = original(entries_of(config)[0], config)
    seen = network_input(entries_of(config)[0].open(), config)
    np.testing.assert_allclose(seen[0], np.moveaxis(scans / maxima.reshape(-1, 1, 1, 1), 0, -1), atol=1e-4)


def test_labels_stand_where_the_image_stands(config_3d, entries_of):
    for entry in entries_of(config_3d)[:2]:
        _, _, labels = original(entry, config_3d)
        found = network_labels(entry.open(), config_3d)
        assert found.dtype == np.uint8
        assert set(np.unique(found)) == {0, 1, 2, 3}
        np.testing.assert_array_equal(found[0], labels)


def test_without_resizing_slices_are_those_of_the_scan(config_25d, entries_of):
    config = replace(config_25d, shape=(40, 48, 8), context=0)
    entry = entries_of(config)[0]
    scans, maxima, labels = original(entry, config)
    image, found = network_input(entry.open(), config), network_labels(entry.open(), config)
    assert image.shape == (8, 40, 48, 2)
    for z in range(8):
        np.testing.assert_array_equal(found[z], labels[:, :, z])
        for c in range(2):
            np.testing.assert_allclose(image[z, :, :, c], scans[c, :, :, z] / maxima[c], atol=1e-4)


@pytest.mark.parametrize("context", [1, 2, 9])
def test_channels_are_the_neighbouring_slices_and_the_last_is_repeated(config_25d, entries_of, context):
    config = replace(config_25d, context=context)
    volume = entries_of(config)[1].open()
    single = network_input(volume, replace(config, context=0))
    found = network_input(volume, config)
    assert found.shape == (8, 20, 24, config.channels)
    for z in range(8):
        channel = 0
        for step in range(-context, context + 1):
            neighbour = max(0, min(7, z + step))
            for contrast in range(2):
                np.testing.assert_array_equal(found[z, :, :, channel], single[neighbour, :, :, contrast])
                channel += 1


def test_a_subject_without_labels_can_be_seen_but_not_learned(config_3d, entries_of):
    volume = entries_of(config_3d)[0].open()
    unlabelled = replace(volume, voxels=volume.voxels[:4])
    np.testing.assert_array_equal(network_input(unlabelled, config_3d), network_input(volume, config_3d))
    with pytest.raises(ValueError, match="expected a subject with labels"):
        network_labels(unlabelled, config_3d)


def order_of(batches, entries, config):
    """Indices of the subjects in each batch, found by their labels."""
    known = [network_labels(entry.open(), config)[0].tobytes() for entry in entries]
    return [[known.index(labels.tobytes()) for labels in batches[step][1]] for step in range(len(batches))]


def test_an_epoch_shows_every_subject_once_and_the_last_batch_is_what_is_left(config_3d, entries_of):
    entries = entries_of(config_3d)
    order = order_of(Batches(entries, config_3d, shuffle=True), entries, config_3d)
    assert [len(batch) for batch in order] == [2, 2, 1]
    assert sorted(subject for batch in order for subject in batch) == [0, 1, 2, 3, 4]


def test_the_order_is_a_function_of_seed_and_epoch(config_3d, entries_of):
    entries, orders = entries_of(config_3d), {}
    for seed in (0, 1):
        for epoch in (0, 1):
            batches = Batches(entries, replace(config_3d, seed=seed), shuffle=True)
            batches.epoch = epoch
            orders[seed, epoch] = order_of(batches, entries, config_3d)
            again = Batches(entries, replace(config_3d, seed=seed), shuffle=True)
            order_of(again, entries, config_3d)  # what was read before must not matter
            again.epoch = epoch
            assert order_of(again, entries, config_3d) == orders[seed, epoch]
    assert len({str(order) for order in orders.values()}) == 4


def test_without_shuffling_the_order_is_the_given_one(config_3d, entries_of):
    entries = entries_of(config_3d)
    assert order_of(Batches(entries, config_3d, shuffle=False), entries, config_3d) == [[0, 1], [2, 3], [4]]


def test_image_and_labels_of_a_batch_belong_together(config_3d, entries_of):
    entries = entries_of(config_3d)
    batches = Batches(entries, config_3d, shuffle=True)
    for step, subjects in enumerate(order_of(batches, entries, config_3d)):
        images = batches[step][0]
        for image, subject in zip(images, subjects, strict=True):
            np.testing.assert_array_equal(image, network_input(entries[subject].open(), config_3d)[0])


def test_slices_of_several_subjects_follow_each_other(config_25d, entries_of):
    entries, config = entries_of(config_25d)[:2], replace(config_25d, batch_size=2)
    images, labels = Batches(entries, config, shuffle=False)[0]
    assert images.shape == (16, 20, 24, 6)
    for number, entry in enumerate(entries):
        part = slice(8 * number, 8 * number + 8)
        np.testing.assert_array_equal(images[part], network_input(entry.open(), config))
        np.testing.assert_array_equal(labels[part], network_labels(entry.open(), config))


def test_nothing_is_kept_between_items(config_3d, entries_of):
    batches = Batches(entries_of(config_3d), config_3d, shuffle=False)
    first, again = batches[0], batches[0]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.shares_memory(one, other)
        one[:] = 0
    assert batches[0][0].any()
    assert batches[0][1].any()


@pytest.mark.parametrize("workers", [1, 2])
def test_training_reads_each_epoch_in_its_own_order(config_3d, entries_of, workers):
    """Threads that read ahead must not read the next epoch in the order of this one."""
    config = replace(config_3d, workers=workers, batch_size=1)
    batches, shown = Batches(entries_of(config), config, shuffle=True), []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            batches.epoch = epoch
            shown.append([])

        def on_train_batch_end(self, batch, logs=None):
            shown[-1].append(logs["loss"])

    network = keras.Sequential([keras.Input((None, None, None, 4)), keras.layers.Conv3D(1, 1)])
    network.compile("sgd", loss=lambda y, p: keras.ops.mean(y) + 0 * keras.ops.mean(p), jit_compile=False)
    network.fit(batches, epochs=3, shuffle=False, verbose=0, callbacks=[Watch()])
    expected = []
    for epoch in range(3):
        batches.epoch = epoch
        means = [batches[step][1].mean() for step in range(5)]
        expected.append(np.cumsum(means) / np.arange(1, 6))  # Keras shows the mean over the epoch so far
    np.testing.assert_allclose(shown, expected, rtol=1e-5)
    assert not np.allclose(expected[0], expected[1])
