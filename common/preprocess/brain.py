"""Where the brain is: a mask that the user has, one by a tool that the user has, or scans that hold nothing else."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import nifti
from common.dicom.extras import MissingToolError, load_module
from common.preprocess.space import from_scan, load_sitk, mask_to_grid, write_nifti

if TYPE_CHECKING:
    import SimpleITK as sitk

NONE = "none"
EXTRACTORS = {  # classes of brainles-preprocessing, and the extra of it that they need
    "hd-bet": ("brainles_preprocessing.brain_extraction.brain_extractor", "HDBetExtractor", ""),
    "synthstrip": ("brainles_preprocessing.brain_extraction.synthstrip", "SynthStripExtractor", "[synthstrip]"),
}


def check_choice(choice: str | None) -> None:
    """Before any work: that a choice of :func:`brain_mask` can be followed.

    Raises ValueError for a file that is not there and for no choice at all, MissingToolError for a tool that is not
    installed.
    """
    if choice is None:
        raise ValueError(
            "expected --brain-mask: a mask's file (.nii or .nii.gz, in the space of the T1ce series), hd-bet or "
            "synthstrip where brainles-preprocessing is installed, or none where the scans hold the brain alone"
        )
    if choice in EXTRACTORS:
        _extractor(choice)
    elif choice != NONE:
        if not Path(choice).is_file():
            tools = ", ".join((*EXTRACTORS, NONE))
            raise ValueError(f"--brain-mask {choice}: expected a file or one of {tools}, found no such file")
        nifti.check_name(Path(choice))


def brain_mask(choice: str, image: sitk.Image) -> np.ndarray | None:
    """The brain on an image's grid, bool (image, row, column); None where the scans hold nothing else.

    choice: ``none``, ``hd-bet``, ``synthstrip``, or the file of a mask that lies in the image's space, whatever its
    grid: not 0 is brain. Raises ValueError when there is no brain in it or the tool fails, and what reading the file
    raises.
    """
    if choice == NONE:
        return None
    try:
        found = mask_to_grid(_extracted(choice, image) if choice in EXTRACTORS else _read(choice), image)
    except nifti.ScanError as error:
        raise nifti.ScanError(f"--brain-mask {choice}: {error}") from error
    if not found.any():
        raise ValueError(f"{choice}: expected a brain where the T1ce series is, found none: is it of this patient?")
    return found


def _read(path: Path | str) -> sitk.Image:
    return from_scan(nifti.read(path))


def _extractor(choice: str) -> Any:
    module, name, extra = EXTRACTORS[choice]
    try:
        return getattr(load_module(module, extra="preprocess"), name)()
    except MissingToolError as error:
        raise MissingToolError(
            f"--brain-mask {choice} needs brainles-preprocessing: pip install 'brainles-preprocessing{extra}', or give "
            f"the file of a mask ({error.__cause__})"
        ) from error


def _extracted(choice: str, image: sitk.Image) -> sitk.Image:
    extractor = _extractor(choice)
    torch = sys.modules.get("torch")  # which the extractor has brought along, whatever this package knows of it
    has_gpu = torch is not None and torch.cuda.is_available()
    gpu = {"hd-bet": 0, "synthstrip": "cuda"}[choice]
    with tempfile.TemporaryDirectory() as folder:
        scan, masked, mask = (Path(folder) / f"{name}.nii.gz" for name in ("scan", "masked", "mask"))
        write_nifti(scan, load_sitk().Cast(image, load_sitk().sitkFloat32))
        try:
            extractor.extract(scan, masked, mask, device=gpu if has_gpu else "cpu")
        except Exception as error:  # somebody else's program, which is one patient's failure whatever it raises
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
            raise ValueError(f"--brain-mask {choice}: expected it to find the brain, found: {reason}") from error
        if not mask.exists():
            raise ValueError(f"--brain-mask {choice}: expected it to write a mask, found none")
        return _read(mask)
