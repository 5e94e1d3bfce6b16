"""The precision of a device: by processors' flags, by wish, by what older settings say."""

import sys

import pytest

from common import precision
from common.precision import multiplies_bfloat16, resolve, resolve_for_prediction


@pytest.mark.parametrize(
    ("processors", "found"),
    [
        (["flags\t\t: fpu sse4_2 avx512f avx512_bf16 vaes"] * 2, True),
        (["flags\t\t: avx512f amx_bf16 amx_tile"], True),
        (["flags\t\t: fpu sse4_2 avx2 f16c"] * 2, False),
        (["flags\t\t: avx512_bf16", "flags\t\t: avx2"], False),  # a training must not hang on where it is scheduled
        (["flags\t\t: avx512_bf16_like", "vmx flags\t: avx512_bf16"], False),
        (["Features\t: fp asimd bf16"], False),
        ([], False),
    ],
)
def test_processors_say_by_their_flags_whether_they_multiply_bfloat16(tmp_path, processors, found):
    file = tmp_path / "cpuinfo"
    file.write_text("".join(f"processor\t: {n}\n{line}\n\n" for n, line in enumerate(processors)))
    assert multiplies_bfloat16(file) is found
    assert not multiplies_bfloat16(tmp_path / "another system's")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists flags")
def test_pytorch_sees_the_same_of_this_machine():
    torch = pytest.importorskip("torch")
    found = torch.cpu.get_capabilities()
    assert multiplies_bfloat16() == (found.get("avx512_bf16", False) or found.get("amx_bf16", False))


@pytest.mark.parametrize(
    ("wanted", "mixed", "gpu", "old_cpu", "new_cpu"),
    [
        (None, True, "float16", "float32", "float32"),
        (None, False, "float32", "float32", "float32"),
        ("auto", False, "float16", "float32", "bfloat16"),
        ("float32", True, "float32", "float32", "float32"),
        ("bfloat16", True, "bfloat16", "bfloat16", "bfloat16"),
    ],
)
def test_a_precision_for_every_device(monkeypatch, wanted, mixed, gpu, old_cpu, new_cpu):
    for multiplies, on_cpu in ((False, old_cpu), (True, new_cpu)):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda multiplies=multiplies: multiplies)
        for resolved in (resolve, resolve_for_prediction):
            assert resolved(wanted, mixed_precision=mixed, gpu=True) == gpu
            assert resolved(wanted, mixed_precision=mixed, gpu=False) == on_cpu


def test_float16_needs_a_gpu_to_train_and_predicts_in_float32_without():
    assert resolve("float16", mixed_precision=True, gpu=True) == "float16"
    assert resolve_for_prediction("float16", mixed_precision=True, gpu=True) == "float16"
    assert resolve_for_prediction("float16", mixed_precision=True, gpu=False) == "float32"
    with pytest.raises(ValueError, match="expected a GPU for precision float16, found none"):
        resolve("float16", mixed_precision=True, gpu=False)
