"""A framework's loading is said once, and PyTorch's finds no TensorFlow and no MLflow."""

import importlib
import platform
import resource
import subprocess
import sys
import types

import pytest

from common.loading import NOT_NEEDED, loading, not_installed, require_framework
from experiments.base.options import refusals


@pytest.fixture
def nothing_loaded(monkeypatch):
    for name in ("torch", "keras", *NOT_NEEDED, "tensorboard.compat"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize("name", NOT_NEEDED)
def test_what_pytorch_does_not_need_cannot_be_imported_while_it_is_loaded_and_can_afterwards(name, capsys):
    with loading("PyTorch"):
        with pytest.raises(ImportError):
            importlib.import_module(name)
        sys.modules["tensorboard.compat"] = types.ModuleType("tensorboard.compat")  # remembers it
    assert not {*NOT_NEEDED, "tensorboard.compat"} & set(sys.modules)
    assert capsys.readouterr().err == "    loading PyTorch\n"


@pytest.mark.usefixtures("nothing_loaded")
def test_what_is_loaded_is_not_said_and_not_hidden(monkeypatch, capsys):
    loaded = {name: types.ModuleType(name) for name in ("torch", "tensorflow")}
    for name, module in loaded.items():
        monkeypatch.setitem(sys.modules, name, module)
    with loading("PyTorch"):
        assert sys.modules["tensorflow"] is loaded["tensorflow"]
    assert sys.modules["tensorflow"] is loaded["tensorflow"]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize("installed", [True, False])
def test_keras_has_its_backend_and_what_tensorflow_writes_is_explained_where_it_is(installed, monkeypatch, capsys):
    monkeypatch.setattr("common.loading.find_spec", lambda name: object() if installed else None)
    with loading("Keras"):
        assert "tensorflow" not in sys.modules
    said = capsys.readouterr().err
    assert said.startswith("    loading Keras")
    assert ("no errors" in said) == installed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told so")
def test_memory_that_is_freed_is_used_again_without_new_pages():
    program = """
import resource, numpy as np
from common.loading import keep_freed_memory
assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        blocks = [np.ones(2**21 + i) for i in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages = 4 * 4 * 2**24 // resource.getpagesize()
    assert int(done.stdout) < pages / 20


@pytest.mark.usefixtures("nothing_loaded")
def test_a_framework_that_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch):
    class Config:
        pass

    monkeypatch.setattr("common.loading.find_spec", lambda name: None)
    for package, module, extra in (("segresnet_monai", "torch", "segresnet"), ("unet_tf", "keras", "unet")):
        monkeypatch.setattr(Config, "__module__", f"{package}.config")
        with pytest.raises(ModuleNotFoundError) as caught:
            require_framework(Config())
        assert not_installed(caught.value) == (
            f"{module} is not installed; it comes with: pip install 'glioma-suite[{extra}]'"
        )
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        require_framework(Config())
    require_framework(object())
    assert not_installed(ModuleNotFoundError(name="monai.networks")).startswith("monai is not installed")
    assert not_installed(ModuleNotFoundError(name="common.typo")) is None


def test_commands_end_with_that_sentence_and_other_missing_modules_are_errors_of_the_suite():
    with pytest.raises(SystemExit, match="error: keras is not installed; it comes with"), refusals():
        raise ModuleNotFoundError(name="keras")
    with pytest.raises(ModuleNotFoundError), refusals():
        raise ModuleNotFoundError(name="common.typo")
