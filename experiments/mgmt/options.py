"""What every MGMT experiment is told on its command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.base.options import FromPreset, at_least
from experiments.base.trainings import Placement

PHANTOM_SEED = 2021


@dataclass(frozen=True, kw_only=True)
class MgmtOptions(FromPreset, Placement):
    """What every MGMT experiment is told on its command line."""

    data: Path | None = None
    """The competition's folder, or its train folder (DICOM). Without it the embedded phantoms are used."""
    labels: Path | None = None
    """Label table (BraTS21ID, MGMT_value); by default train_labels.csv beside train."""
    preset: Literal["paper", "demo"] | None = None
    """The report's settings, or small ones for two CPU cores; by default paper with --data and demo without."""
    leave_out_bad: bool = False
    """Go on without patients that cannot be used; they are named in the run's folder and counted in the table."""
    leave_out_doubtful: bool = False
    """Leave out 00109, 00123 and 00709, as the competition's organisers allow."""
    max_patients: int | None = None
    """Use at most so many patients, the first by id."""
    effect: float = 1.0
    """Strength of the signal planted in the embedded phantoms; 0: their images know nothing of the labels."""
    confounder: float = 0.0
    """How much wider a field of view the embedded phantoms' methylated patients are scanned with; 0: all the same."""
    phantom_seed: int = PHANTOM_SEED
    """Seed of the embedded phantoms."""
    split_seed: int = 0
    """Seed of the split and of the permutation tests."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    prepared: Path = Path("prepared")
    """Folder of the prepared store."""
    local_copy: Path | None = None
    """Folder on a disk of the training machine's own, to which prepared entries are copied once to be read there."""
    phantoms: Path = Path("phantoms_mgmt")
    """Folder of the embedded cohorts."""
    jobs: int = -1
    """Processes that read and prepare; -1 takes every core."""
    fresh: bool = False
    """Start over, in place of going on from the last finished epoch or showing the finished result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, max_patients=self.max_patients, jobs=None if self.jobs == -1 else self.jobs)

    @property
    def planted(self) -> str:
        """What the embedded phantoms hold, as part of names."""
        return f"effect{self.effect:g}" + (f"_confounder{self.confounder:g}" if self.confounder else "")

    @property
    def planted_in_words(self) -> str:
        """What there is to be found in the embedded phantoms."""
        if not self.effect:
            link = "No link between tumour and status was planted in these phantoms (--effect 0)"
        else:
            link = (
                "The link was planted in these phantoms: a methylated tumour holds less water, so FLAIR and T2w are "
                "darker there, T1w and T1wCE brighter; --effect 0 plants none"
            )
        field = (
            "; methylated patients were scanned with a wider field of view (--confounder)" if self.confounder else ""
        )
        return f"{link}{field}."
