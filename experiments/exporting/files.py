"""A run's networks as files: ONNX, TorchScript and MONAI's bundle, compared with the networks before they are named."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.exported import Agreement
from common.files import plain, read_json, write_json
from common.networks import EXPORTED
from common.runs import Run
from experiments.base.options import Refused
from experiments.exporting import card
from experiments.exporting.source import MGMT, SEGRESNET, UNET, Source, read

RECORD = "export.json"
"""In every exported folder: what it was made of, its run's folder too, by which it is known as one that the same run
may replace."""


@contextmanager
def new_folder(folder: Path, run: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends well, and vanishes when it fails.

    What a killed call has left is put back or removed first. run: whose export it is to be.
    Raises Refused when there is something that is no export of the run, RunInUseError when another process writes it.
    """
    if folder.exists() and not (folder / RECORD).exists():
        raise Refused(f"{folder}: expected a new folder or an earlier export, found another; --output names one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Run(folder.parent / f".export-{folder.name}") as held:
        made, before = held.folder / "made" / folder.name, held.folder / "before" / folder.name
        try:
            _put_back(before, folder)
            _require_own(folder, run)
            for each in (made, before):
                shutil.rmtree(each.parent, ignore_errors=True)
                each.parent.mkdir()
            made.mkdir()
            yield made
            if folder.exists():
                folder.rename(before)
            made.rename(folder)
        finally:
            _put_back(before, folder)
            shutil.rmtree(held.folder)


def _put_back(before: Path, folder: Path) -> None:
    """An export that was moved aside for another, which did not take its place."""
    if before.exists() and not folder.exists():
        before.rename(folder)


def _require_own(folder: Path, run: Path) -> None:
    if not folder.exists():
        return
    try:
        made_of = read_json(folder / RECORD, dict).get("folder", "a run that it does not name")
    except ValueError as error:
        raise Refused(f"{error}; --output names another folder") from None
    if made_of != str(run.resolve()):
        raise Refused(
            f"{folder}: expected a new folder or an earlier export of {run}, found one of {made_of}; --output names "
            "another folder"
        )


def _export(run: Path, to: str, folder: Path) -> None:
    """Write, compare, describe."""
    source = read(run)
    with new_folder(folder, run) as made:
        agreement, where = _WRITE[to](source, made)
        files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
        record = {"format": to, "folder": run.resolve(), "about": source.about}
        record |= {"agreement": agreement, "files": files}
        (made / where).parent.mkdir(exist_ok=True)
        tensors = [*(_tensors(made / EXPORTED) if to == "onnx" else ()), f"outputs are {card.activation(source)}"]
        (made / where).write_text(card.text(source, to, agreement, tensors), encoding="utf-8")
        write_json(made / RECORD, record)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    print(
        f"{source.name} as {to}: {size:.1f} MiB; probabilities within {agreement.difference:.1g} of the framework's "
        f"and {agreement.difference_from_run:.1g} of the run's own; {agreement.seconds:.2f} s where that took "
        f"{agreement.seconds_of_run:.2f} s"
    )
    print(f"written: {folder}")


def _tensors(path: Path) -> Iterator[str]:
    """Inputs and outputs of an ONNX file, with their shapes."""
    import onnx

    graph = onnx.load(path).graph
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            sides = (str(side.dim_value or side.dim_param) for side in value.type.tensor_type.shape.dim)
            yield f"{kind} `{value.name}`: float32 ({', '.join(sides)})"


def _onnx(source: Source, folder: Path) -> tuple[Agreement, str]:
    path = folder / EXPORTED
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
    bundle.write(networks, config, decision, folder, source.about, intended_use=card.intended_use(source))
    return bundle.agrees(networks, config, decision, folder), f"docs/{card.NAME}"


_WRITE = {"onnx": _onnx, "torchscript": _torchscript, "monai-bundle": _bundle}


def write(run: Path, to: str, folder: Path) -> None:
    """Export a finished run's networks. Raises RunError when it is not finished or the export differs, Refused when its
    networks have no such form."""
    try:
        _export(run, to, folder)
    except ModuleNotFoundError as error:
        of_onnx = (error.name or "").startswith("onnx")
        where = "; it comes with: pip install 'glioma-suite[onnx]'" if of_onnx else ""
        raise Refused(f"{error.name} is not installed{where}") from None
