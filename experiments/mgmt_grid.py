"""MGMT: the report's grid of contrast, number of central images and batch size (Fig. 13).

    python -m experiments.mgmt_grid                    embedded phantoms (DICOM), demo preset, two CPU cores
    python -m experiments.mgmt_grid --data FOLDER      RSNA-MICCAI folder; the report's recipe, one GPU

Reproduces threshold, loss and AUC of 24 models, FLAIR, T2w, T1wCE and T1w with 3, 7 and 15 images at batch 4 and 8, on
70 / 15 / 15 % of the patients, and says how high the best of 24 comes without any signal. A killed grid goes on with
the cell it was in. Cost: demo 5 minutes on two cores of an AMD EPYC once the phantoms are written.
"""

from dataclasses import replace

from experiments.base.options import command_line
from experiments.mgmt.grid import Settings, score
from experiments.mgmt.opening import mgmt_study
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.study import SMALL

EXPERIMENT = "mgmt_grid"

PAPER = Settings()
DEMO = replace(PAPER, cell=replace(PAPER.cell, **SMALL), fractions=(0.55, 0.2, 0.25))


def main() -> None:
    options, settings = command_line(EXPERIMENT, {"paper": PAPER, "demo": DEMO}, __doc__, options_type=MgmtOptions)
    with mgmt_study(EXPERIMENT, options, settings, settings.cells.values(), settings.fractions) as study:
        if not study.run.is_finished:
            score(study, settings)
        study.show((study.run.folder / "grid.txt").read_text(encoding="utf-8"), only="best_")


if __name__ == "__main__":
    main()
