"""Mutated headers end in a refusal, a note, or the slices of the untouched series."""

import pytest

from benchmarks.fuzz_dicom import Mutation, fuzz


@pytest.mark.parametrize("seed", [11, 12])
def test_mutated_headers(seed):
    counts, faults = fuzz(100, seed)
    assert not faults
    assert min(counts[what] for what in ("same", "refused", "noted")) > 0


def test_a_fault_is_found(monkeypatch):
    """Were padding passed over in silence, the mutants would tell."""
    monkeypatch.setattr("common.dicom.checks.notes", lambda images: [])
    monkeypatch.setattr(
        Mutation, "draw", lambda rng: Mutation("PixelPaddingValue", "value", (900).to_bytes(2, "little"))
    )
    counts, faults = fuzz(8, 0)
    assert counts["silent"] == len(faults) > 0
    assert "other slices without a word" in faults[0]
