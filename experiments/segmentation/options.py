"""What the segmentation experiments are told on their command lines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.phantom.randomised import Kind
from common.summary import EmptyPolicy
from experiments.base.options import FromPreset, Refused, at_least
from experiments.base.reading import Reading
from experiments.base.trainings import Placement


@dataclass(frozen=True, kw_only=True)
class Options(Reading, FromPreset, Placement):
    """What every segmentation experiment is told on its command line."""

    data: Path | None = None
    """Folder of scans: BraTS 2018-2024, UCSF-PDGM, UPENN-GBM, MSD Task01, nnU-Net raw, or as --layout says. Without it
    the embedded phantoms are used."""
    preset: Literal["paper", "demo"] | None = None
    """The report's settings, or small ones for two CPU cores; by default paper with --data and demo without."""
    leave_out_bad: bool = False
    """Go on without subjects that cannot be used; they are named in the run's folder and counted in the table."""
    max_subjects: int | None = None
    """Use at most so many subjects, the first by id."""
    patients: Path | None = None
    """CSV with the columns id and patient, where the ids do not tell which scans are one patient's."""
    split_seed: int = 0
    """Seed of the split into training, validation and test."""
    subjects: Path | None = None
    """Published split: a CSV with the columns id and part (train, validation, test)."""
    folds: int | None = None
    """Cross-validation: number of folds."""
    fold: int | None = None
    """Test this fold alone, from 1 to --folds; without it all are trained and tested, and their cases pooled."""
    empty_masks: EmptyPolicy = "brats"
    """What an empty mask is worth: Dice 1 or 0 and 0 or 373.13 mm (the grid's diagonal), or ignored and counted."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    prepared: Path = Path("prepared")
    """Folder of the prepared store."""
    local_copy: Path | None = None
    """Folder on a disk of the training machine's own, to which prepared entries are copied once to be read there."""
    phantoms: Path = Path("phantoms")
    """Folder of the embedded cohort; that of the randomised patients has the same name and ``_randomised``."""
    synthetic: int = 0
    """Randomised synthetic patients to train on beside the training part; none is validated or tested on."""
    synthetic_without: tuple[Kind, ...] = ()
    """Kinds of tumours that these are not to have."""
    jobs: int = -1
    """Threads that prepare and score; -1 takes every core."""
    all_rows: bool = False
    """Show every row of the table; by default those that say most, with what they mean."""
    fresh: bool = False
    """Start over, in place of going on from the last finished epoch or showing the finished result."""

    @property
    def headlines_under(self) -> EmptyPolicy | None:
        """The policy of a table of few rows; None where all are to be shown."""
        return None if self.all_rows else self.empty_masks

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, max_subjects=self.max_subjects, jobs=None if self.jobs == -1 else self.jobs)
        at_least(3, folds=self.folds)
        at_least(0, synthetic=self.synthetic)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """What an experiment that trains one network is told on its command line."""

    test_data: Path | None = None
    """Folder of another cohort, on which the finished network is scored too (see experiments.external)."""


@dataclass(frozen=True, kw_only=True)
class SegResNetOptions(NetworkOptions):
    """What every segmentation experiment is told on its command line, and where its network starts."""

    start_from: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Fine-tuning: folder of a finished run whose weights the training starts from."""
    control: bool = False
    """Beside --from: the same training from random weights too, and a table of both with their differences."""


def refuse_contradictions(options: Options) -> None:
    """Raises Refused when an option has no effect beside another or without one, before anything is read."""
    if options.fold is not None and options.folds is None:
        raise Refused(f"expected --folds beside --fold {options.fold}, received none")
    if options.subjects is not None:
        others = {"--folds": options.folds, "--max-subjects": options.max_subjects, "--split-seed": options.split_seed}
        if found := [name for name, value in others.items() if value]:
            raise Refused(f"{options.subjects} (--subjects) says who is in which part: leave out {' and '.join(found)}")
    if options.layout is not None and options.data is None:
        raise Refused(f"expected --data beside --layout {options.layout}, received none")
    if options.synthetic_without and not options.synthetic:
        raise Refused("expected --synthetic beside --synthetic-without, received none")
    if isinstance(options, SegResNetOptions) and options.control and options.start_from is None:
        raise Refused("expected --from beside --control, received none")
