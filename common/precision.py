"""The precision in which a network multiplies, looked up for a device in one place for all frameworks."""

from pathlib import Path
from typing import Literal

Precision = Literal["float32", "float16", "bfloat16"]
Wanted = Literal["auto", "float32", "float16", "bfloat16"]

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Linux's names of the instructions that multiply bfloat16; x86 has these two sets."""


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's processors multiply bfloat16, by their flags; False where the system lists none.

    Others compute it in float32 and round, which is slower than float32 itself.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = [set(line.partition(":")[2].split()) for line in lines if line.partition(":")[0].strip() == "flags"]
    return bool(flags) and all(BFLOAT16_FLAGS & each for each in flags)


def resolve(wanted: Wanted | None, *, mixed_precision: bool, gpu: bool) -> Precision:
    """What a training computes in on a GPU, or on this machine's processors.

    auto: float16 on a GPU, bfloat16 on processors that multiply it, else float32. None: float16 on a GPU where
    mixed_precision says so, else float32. Raises ValueError for float16 without a GPU.
    """
    if wanted is None:
        return "float16" if mixed_precision and gpu else "float32"
    if wanted == "auto":
        return "float16" if gpu else "bfloat16" if multiplies_bfloat16() else "float32"
    if wanted == "float16" and not gpu:
        raise ValueError("expected a GPU for precision float16, found none; a CPU has float32, bfloat16 and auto")
    return wanted


def resolve_for_prediction(wanted: Wanted | None, *, mixed_precision: bool, gpu: bool) -> Precision:
    """As :func:`resolve`; a network that was trained in float16 predicts in float32 where there is no GPU."""
    return resolve(None if wanted == "float16" and not gpu else wanted, mixed_precision=mixed_precision, gpu=gpu)


LIGHTNING: dict[Precision, str] = {"float32": "32-true", "float16": "16-mixed", "bfloat16": "bf16-mixed"}
"""Lightning's names: weights and losses stay float32, float16 has its loss scaled."""
