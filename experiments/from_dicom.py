"""A folder of patients' DICOM series as a cohort that every experiment takes: told apart, registered, skull-stripped.

    python -m experiments.from_dicom --data FOLDER --output FOLDER --brain-mask hd-bet

--data holds a folder per patient with MR series in any arrangement. Each of FLAIR, T1, T1ce and T2 is found by its
name, its measurement and its contrast agent; the others are registered to T1ce by a rigid motion and resampled to 1 mm;
what is outside the brain becomes 0. --output then holds <patient>/<patient>_flair.nii.gz and so on, BraTS's layout, and
--steps what is left of every step: why a series was taken for what it was, the transforms, the brain's mask, and a
picture by which to see whether it went well; and patients.csv, for --patients of what splits the cohort: which folders
hold one patient's visits, by a hash of PatientID (who has a list of PatientIDs can undo it). A patient that cannot be
converted is named with the reason, and the others are; the same command again goes on with those that are missing.
Cost: about 8 s of one core per phantom patient of 50 to 120 images per series, without the extraction of the brain.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from common.command_line import parse
from common.words import plural
from experiments.base.options import wrapped


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which patients are converted, and how."""

    data: Path
    """Folder with a folder of DICOM series per patient."""
    output: Path
    """Folder of the cohort to write, outside of --data."""
    brain_mask: str
    """Tool that extracts the brain (hd-bet, synthstrip: where brainles-preprocessing is installed), a folder with
    <patient>.nii.gz in the space of T1ce, or none where the series hold the brain alone."""
    series: Path | None = None
    """CSV with the columns patient, contrast, series: which series is which contrast where it is not told by itself;
    by its UID or its folder below the patient's."""
    steps: Path | None = None
    """Folder for what is left of every step; by default <output>_steps."""
    jobs: int = 1
    """Processes side by side; each holds a patient, about 1 GB."""


def main() -> None:
    options = parse(Options, prog="python -m experiments.from_dicom", description=wrapped(__doc__))
    from common.preprocess.cohort import Conversion, convert, read_named, write_patients  # and with it registration

    steps = options.steps or options.output.with_name(f"{options.output.name}_steps")
    try:
        conversion = Conversion(
            data=options.data,
            output=options.output,
            steps=steps,
            brain_mask=options.brain_mask,
            named=read_named(options.series),
        )
        problems = convert(conversion, n_jobs=options.jobs)
        notes = write_patients(conversion)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    n_there = len([place for place in options.output.glob("[!.]*") if place.is_dir()]) if options.output.exists() else 0
    print(f"patients in {options.output}: {n_there}; every step, with a picture each: {steps}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        sys.exit(f"error: {plural(len(problems), 'patient')} could not be converted:\n{listing}")


if __name__ == "__main__":
    main()
