"""MGMT: the classifier on patients of other hospitals, beside what it reaches on its own: which of the two to believe.

    python -m experiments.mgmt_external                                  embedded phantoms, a second site of phantoms
    python -m experiments.mgmt_external --confounder 1 --effect 0        a trap: the field of view tells it, inside
    python -m experiments.mgmt_external --data RSNA --sites ucsf=FOLDER upenn=FOLDER
    python -m experiments.mgmt_external --protocol leave-one-site-out --data RSNA --sites ucsf=FOLDER upenn=FOLDER
    python -m experiments.mgmt_external --run runs/mgmt_ensemble/RUN --sites ucsf=FOLDER

Trains ``experiments.mgmt_ensemble`` with the same options, or takes its finished run, and tests it on UCSF-PDGM,
UPENN-GBM or any cohort of NIfTI with a table: AUC with interval beside the internal one and their difference,
calibration, subgroups, simple features, models of shuffled labels, and the verdict in words. Scans are cut into images
as the training's series lie; patients of the training cohort are found by the tables and left out. Cost: that of
``experiments.mgmt_ensemble``, twice with the control; the sites' phantoms take 1.5 s of a core each. Expect with the
confounder an AUC near 1 inside and one at chance outside (60 and 40 phantoms: 1.000 and 0.562, 0.373 to 0.735), and the
advice to believe the latter. No run on patients has been made.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from experiments import mgmt_ensemble
from experiments.base.options import Refused, command_line, refusals
from experiments.mgmt import left_out_site
from experiments.mgmt.ensemble import score, train
from experiments.mgmt.external import EXPERIMENT, sites_of, test_on
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.sites import SiteOptions, places

OF_THE_RUN = ("labels", "max_patients", "leave_out_doubtful", "effect", "confounder", "phantom_seed")
"""Options of the training, which do nothing where its finished run is given."""


@dataclass(frozen=True, kw_only=True)
class Options(SiteOptions):
    """Options of the external test."""

    protocol: Literal["external", "leave-one-site-out"] = "external"
    """Train on --data and test on the sites; or train on all sites but one, for each in turn."""
    run: Path | None = None
    """A finished run of experiments.mgmt_ensemble, in place of training one."""
    shuffled: bool = True
    """Train the models once more, on labels dealt to other patients: outside they must come out at chance."""


def main() -> None:
    options, settings = command_line(EXPERIMENT, mgmt_ensemble.PRESETS, __doc__, options_type=Options)
    run = options.run
    with refusals():
        if options.protocol == "leave-one-site-out":
            if run is not None:
                raise Refused(
                    "expected --run with --protocol external only: leaving a site out trains models of its own"
                )
            left_out_site.run(options, settings, shuffled=options.shuffled)
            return
        if run is not None and options.data is not None:
            raise Refused("expected --data or --run, received both: a run knows what it was trained on")
        if run is not None and (idle := without_effect(options)):
            raise Refused(f"expected --run without options of a training, which it has had, received {', '.join(idle)}")
        if not places(options) and (options.data or options.overlap):
            raise Refused("expected other hospitals' cohorts with --sites NAME=FOLDER, received none")
    if run is None:
        own = MgmtOptions(**{each.name: getattr(options, each.name) for each in fields(MgmtOptions)})
        # --fresh means the external test: the ensemble's finished run is another command's.
        with mgmt_ensemble.open_study(replace(own, fresh=False), settings) as study:
            sites_of(options, study.labels, synthetic=study.synthetic)  # refused before time is spent
            if not study.run.is_finished:
                score(study, settings, train(study, settings))
            run = study.run.folder
    with refusals():
        test_on(run, options, shuffled=options.shuffled)


def without_effect(options: Options) -> list[str]:
    """What has been asked for that a finished run has settled."""
    default = Options()
    asked = [name for name in OF_THE_RUN if getattr(options, name) != getattr(default, name)]
    return [f"--{name.replace('_', '-')}" for name in asked] + [f"--model.{setting}" for setting in options.changed]


if __name__ == "__main__":
    main()
