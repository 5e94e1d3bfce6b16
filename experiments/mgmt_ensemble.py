"""MGMT: the report's final classifier, 0.75 FLAIR + 0.25 T1w, with what its AUC is worth.

    python -m experiments.mgmt_ensemble                     embedded phantoms (DICOM), demo preset, two CPU cores
    python -m experiments.mgmt_ensemble --data FOLDER       RSNA-MICCAI folder; the report's recipe, one GPU
    python -m experiments.mgmt_ensemble --protocol nested   every patient tested once, weights chosen inside, controls

Reproduces the AUCs 0.652 (FLAIR, 31 tumour-centred images), 0.628 (T1w, 15 central ones) and 0.665 (both), and the
learning curves, on 70 / 15 / 15 % of the patients; weights are the report's, epochs and thresholds are chosen on
validation. ``--protocol submission`` trains on 70 %, validates on 30 %, and predicts the patients without a label.
Cost: demo 2.5 minutes on two cores of an AMD EPYC, two of them writing phantoms; paper needs a GPU (a step of batch 8
at 255 x 255 x 15 takes 75 s and 9 GiB on those cores) and has not been timed. Expect on 50 phantoms with the default
effect an AUC near 0.87. The same command resumes, or shows the table of a finished run.
"""

from dataclasses import dataclass, replace
from typing import Literal

from common.classification import roc_auc
from experiments.base.options import command_line
from experiments.mgmt.ensemble import Settings, predict_unlabelled, score, train
from experiments.mgmt.opening import mgmt_study
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.study import SMALL

EXPERIMENT = "mgmt_ensemble"

# Every setting says whether the report states it.
PAPER = Settings()

# The same path for two CPU cores and a few minutes; more patients are tested, so that the interval says something.
DEMO = replace(
    PAPER,
    flair=replace(PAPER.flair, **SMALL),
    t1w=replace(PAPER.t1w, **SMALL),
    fractions=(0.55, 0.2, 0.25),
)
PRESETS = {"paper": PAPER, "demo": DEMO}


@dataclass(frozen=True, kw_only=True)
class Options(MgmtOptions):
    """Options of the final classifier."""

    protocol: Literal["report", "submission", "nested"] = "report"
    """The report's one split; its submission; or cross-validation over patients with everything chosen inside."""


def main() -> None:
    options, settings = command_line(EXPERIMENT, PRESETS, __doc__, options_type=Options)
    if options.protocol == "nested":
        from experiments.mgmt.nested import run
    else:
        run = submission if options.protocol == "submission" else report
    run(options, settings)


def report(options: MgmtOptions, settings: Settings) -> None:
    """The report's protocol: one split, scored on its test part."""
    with open_study(options, settings) as study:
        if not study.run.is_finished:
            score(study, settings, train(study, settings))
        study.show()


def open_study(options: MgmtOptions, settings: Settings):
    """The study in which the report's protocol is run: ``with open_study(...) as study``."""
    return mgmt_study(EXPERIMENT, options, settings, settings.models.values(), settings.fractions)


def submission(options: Options, settings: Settings) -> None:
    """Train on 70 %, validate on 30 %, and predict the patients without a label. Nothing is claimed: none is tested."""
    models, fractions = settings.models.values(), settings.submission_fractions
    with mgmt_study(EXPERIMENT, options, settings, models, fractions) as study:
        if not study.run.is_finished:
            fitted = train(study, settings)
            predict_unlabelled(study, settings)
            found = []
            for name, model in fitted.items():
                validation = model.validation
                auc = roc_auc(validation["probability"].to_numpy(), validation["label"].to_numpy())
                found.append(study.result(f"submission_{name}__validation_auc", auc, len(validation)))
            study.finish(
                found, ["Submission: chosen and measured on the same patients, so these AUCs flatter; no test."]
            )
        study.show()


if __name__ == "__main__":
    main()
