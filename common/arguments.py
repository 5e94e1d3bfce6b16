"""What the commands that segment patients are told; light, so that they parse before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DICOM_SUFFIX = ".dcm"


@dataclass(frozen=True, kw_only=True)
class PatientArguments:
    """What every network's command for one's own patients is told: one patient's scans, or --data."""

    run: Path
    """Folder of the training run, for example runs/<experiment>/..., or a model.onnx of experiments.export."""
    flair: Path | None = None
    """FLAIR scan, .nii or .nii.gz; with --dicom the UID or the folder of the FLAIR series, where it is not told by
    itself, and so on."""
    t1: Path | None = None
    """T1 scan."""
    t1ce: Path | None = None
    """T1 scan with contrast agent."""
    t2: Path | None = None
    """T2 scan."""
    dicom: Path | None = None
    """Folder with one patient's DICOM series in place of scans: they are told apart, registered and brought back."""
    brain_mask: str | None = None
    """With --dicom: file of the brain's mask in the space of the T1ce series, hd-bet or synthstrip (where
    brainles-preprocessing is installed), or none where the series hold the brain alone."""
    steps: Path | None = None
    """With --dicom: folder for what is left of every step; by default beside the output, <output>_steps."""
    data: Path | None = None
    """Folder of many patients in place of one patient's scans, in any layout that the experiments read; each needs
    the contrasts that the network takes, and no mask."""
    layout: Path | None = None
    """Beside --data: mapping file (TOML, six lines: see common.cohort.mapping) of a folder in none of those layouts."""
    output: Path
    """Segmentation to write, .nii or .nii.gz, on the scans' grid, with a picture beside it (.png); with --dicom on that
    of the T1ce series, also as a DICOM segmentation (.dcm) with a measurement report beside it; with --data a folder,
    for ID.nii.gz of each patient, ID.png to look at and volumes.csv. The same command again goes on where it was
    stopped."""
    labels: Literal["brats2018", "brats2023", "msd"] = "brats2018"
    """Label values of the segmentation: NCR/ED/ET are 1/2/4, 1/2/3 or 2/1/3. A DICOM segmentation (.dcm) numbers its
    segments 1/2/3 whatever is said here."""

    def __post_init__(self) -> None:
        if self.layout is not None and self.data is None:
            raise ValueError(f"expected --data beside --layout {self.layout}, received none")

    @property
    def scans(self) -> dict[str, Path]:
        """The scans given, by contrast."""
        given = {"FLAIR": self.flair, "T1": self.t1, "T1ce": self.t1ce, "T2": self.t2}
        return {name: file for name, file in given.items() if file is not None}

    @property
    def is_dicom_out(self) -> bool:
        """Whether the segmentation is to be a DICOM object."""
        return self.output.name.lower().endswith(DICOM_SUFFIX)

    @property
    def steps_folder(self) -> Path:
        """Where every step from DICOM and back is kept."""
        return self.steps or self.output.with_name(f"{self._stem}_steps")

    @property
    def report_file(self) -> Path:
        """Where the measurement report goes, beside a segmentation as DICOM."""
        return self.output.with_name(f"{self._stem}_report{DICOM_SUFFIX}")

    @property
    def picture_file(self) -> Path:
        """Where the picture of a segmentation as NIfTI goes, beside it."""
        return self.output.with_name(f"{self._stem}.png")

    @property
    def _stem(self) -> str:
        name = self.output.name
        suffix = next((end for end in (".nii.gz", ".nii", DICOM_SUFFIX) if name.lower().endswith(end)), "")
        return name[: len(name) - len(suffix)]
