"""A run's networks as files: ONNX, TorchScript and MONAI's bundle, compared with the networks before they are named."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.exported import Agreement
from common.files import plain, write_json
from experiments.base.options import Refused
from experiments.exporting import card
from experiments.exporting.source import MGMT, SEGRESNET, UNET, Source, read

RECORD = "export.json"
"""In every exported folder: what it was made of, by which it is known as one that may be replaced."""


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends well, and vanishes when it fails.

    Raises Refused when there is something that is no export.
    """
    if folder.exists() and not (folder / RECORD).exists():
        raise Refused(f"{folder}: expected a new folder or an earlier export, found another; --output names one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
    try:
        made = temporary / folder.name
        made.mkdir()
        yield made
        if folder.exists():
            folder.rename(temporary / "before")
        made.rename(folder)
    finally:
        shutil.rmtree(temporary)


def _export(run: Path, to: str, folder: Path) -> None:
    """Write, compare, describe."""
    source = read(run)
    with new_folder(folder) as made:
        agreement, where = _WRITE[to](source, made)
        files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
        record = {"format": to, "about": source.about, "agreement": agreement, "files": files}
        (made / where).parent.mkdir(exist_ok=True)
        (made / where).write_text(card.text(source, to, agreement), encoding="utf-8")
        write_json(made / RECORD, record)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    print(
        f"{source.name} as {to}: {size:.1f} MiB; probabilities within {agreement.difference:.1g} of the framework's "
        f"and {agreement.difference_from_run:.1g} of the run's own; {agreement.seconds:.2f} s where that took "
        f"{agreement.seconds_of_run:.2f} s"
    )
    print(f"written: {folder}")


def _onnx(source: Source, folder: Path) -> tuple[Agreement, str]:
    path = folder / "model.onnx"
    if source.kind == SEGRESNET:
        from segresnet_monai import export

        networks, config, _ = source.networks
        export.to_onnx(networks, config, path, source.about)
        return export.agrees(networks, config, export.load_onnx(path)[0][0], path), card.NAME
    if source.kind == UNET:
        from unet_tf import export

        network, config = source.networks
        export.to_onnx(network, config, path, source.about)
        return export.agrees(network, config, path), card.NAME
    from mgmt_classifier import export

    export.to_onnx(source.networks, path, source.about)
    return export.agrees(source.networks, path), card.NAME


def _torchscript(source: Source, folder: Path) -> tuple[Agreement, str]:
    path, about = folder / "model.ts", json.dumps(plain(source.about))
    if source.kind == UNET:
        raise Refused(f"{source.folder}: expected networks of PyTorch to trace, found a U-Net of Keras: --to onnx")
    if source.kind == MGMT:
        from mgmt_classifier import export

        export.to_torchscript(source.networks, path, about)
        return export.agrees(source.networks, path), card.NAME
    from segresnet_monai import export

    networks, config, _ = source.networks
    export.to_torchscript(networks, config, path, about)
    return export.agrees(networks, config, export.read_torchscript(path), path), card.NAME


def _bundle(source: Source, folder: Path) -> tuple[Agreement, str]:
    if source.kind != SEGRESNET:
        raise Refused(f"{source.folder}: expected a SegResNet, which a MONAI bundle can hold, found another: --to onnx")
    from segresnet_monai import bundle

    networks, config, decision = source.networks
    bundle.write(networks, config, decision, folder, source.about, intended_use=card.INTENDED_USE)
    return bundle.agrees(networks, config, decision, folder), f"docs/{card.NAME}"


_WRITE = {"onnx": _onnx, "torchscript": _torchscript, "monai-bundle": _bundle}


def write(run: Path, to: str, folder: Path) -> None:
    """Export a finished run's networks. Raises RunError when it is not finished or the export differs, Refused when its
    networks have no such form."""
    try:
        _export(run, to, folder)
    except ModuleNotFoundError as error:
        raise Refused(f"{error.name} is not installed; it comes with: pip install 'glioma-suite[onnx]'") from None
