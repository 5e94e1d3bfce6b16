"""MGMT: where the two final models look, by GradCAM++ on validation patients (Fig. 18).

    python -m experiments.mgmt_explain                    embedded phantoms (DICOM), demo preset, two CPU cores
    python -m experiments.mgmt_explain --data FOLDER      RSNA-MICCAI folder; the report's recipe, one GPU

The models are those of ``experiments.mgmt_ensemble`` with the same options: trained here if they are not yet. The
report finds FLAIR's attention on the brain and most on the tumour, T1w's on the brain but not on the tumour (it calls
the second model T1wCE there). Stated here, over all validation patients: the saliency's share on the brain and on its
brightest twentieth (in FLAIR the tumour), beside that of an even saliency, and its rank correlation with an untrained
network's.
"""

from dataclasses import asdict, dataclass, replace

from common.runs import Run
from experiments import mgmt_ensemble
from experiments.base.options import command_line
from experiments.mgmt.ensemble import train
from experiments.mgmt.explanation import explain
from experiments.mgmt.options import MgmtOptions
from experiments.mgmt.study import MgmtStudy

EXPERIMENT = "mgmt_explain"


@dataclass(frozen=True, kw_only=True)
class Options(MgmtOptions):
    """Options of the explanation."""

    shown: int = 3
    """Validation patients in the picture; the numbers are over all of them."""


def main() -> None:
    options, settings = command_line(EXPERIMENT, mgmt_ensemble.PRESETS, __doc__, options_type=Options)
    # --fresh means the explanation: the ensemble's finished run is another command's.
    with mgmt_ensemble.open_study(replace(options, fresh=False), settings) as ensemble:
        train(ensemble, settings)
        with Run(options.runs / EXPERIMENT / ensemble.run.folder.name, fresh=options.fresh) as run:
            study = MgmtStudy(**vars(ensemble) | {"experiment": EXPERIMENT, "run": run})
            if not run.is_finished:
                settings_of = {"experiment": EXPERIMENT, "options": asdict(options), "model": asdict(settings)}
                data = {"ensemble": ensemble.run.folder, "folder": ensemble.cohort.folder}
                data |= {"synthetic": ensemble.synthetic}
                run.describe(config=settings_of, data=data, split=ensemble.split.as_dict())
                explain(study, ensemble.run, settings.models, shown=options.shown)
            study.show()


if __name__ == "__main__":
    main()
