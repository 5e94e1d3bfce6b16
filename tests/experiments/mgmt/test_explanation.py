"""Saliency in numbers, and whom the picture shows."""

import numpy as np

from experiments.mgmt import explanation


def test_shares_of_a_saliency():
    image = np.zeros((1, 10, 10), np.float32)
    image[0, :, :5] = 1 + np.arange(50).reshape(10, 5)  # the brain: the left half
    heat = np.zeros_like(image)
    heat[0, 0, 0], heat[0, 9, 4], heat[0, 0, 9] = 1, 2, 1  # dark brain, brightest brain, background
    found = explanation.shares(image, heat, image)
    assert found["brain"] == 0.75
    assert found["bright"] == 0.5
    assert found["brain_expected"] == 0.5
    assert found["bright_expected"] == 3 / 100  # the brightest twentieth of 50 pixels: 2.5
    assert np.isnan(explanation.shares(image, np.zeros_like(heat), image)["brain"])


def test_pictured_patients_are_of_both_classes():
    labels = {"a": 0, "b": 0, "c": 1, "d": 0, "e": 1}
    assert explanation.alternating(list("abcde"), labels) == ["c", "a", "e", "b", "d"]
