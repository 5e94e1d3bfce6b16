"""Damage as a fading disk makes it."""

from pathlib import Path

import numpy as np


def loaded_after_flips(path: Path, load, error: type[Exception], *, flips: int, seed: int = 0) -> list:
    """What ``load`` makes of a file in which one bit is wrong, for each of so many bits; refusals are left out."""
    intact = path.read_bytes()
    rng = np.random.default_rng(seed)
    loaded = []
    try:
        for position in rng.integers(0, len(intact), flips):
            damaged = bytearray(intact)
            damaged[position] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            try:
                loaded.append(load(path))
            except error:
                continue
    finally:
        path.write_bytes(intact)
    return loaded
