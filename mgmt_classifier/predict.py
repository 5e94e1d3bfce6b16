"""Estimate MGMT methylation of one's own patient with a trained ensemble.

``python -m mgmt_classifier.predict RUN PATIENT_FOLDER [--out FOLDER]``
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.command_line import parse
from common.loading import loading


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Estimate MGMT methylation of one's own patient with a trained ensemble. Research software: not for diagnosis.

    Prints the probability, the threshold and the models' parts, and writes them with a picture of what spoke for
    methylation.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of an ensemble's run: ensemble.json and one model's folder per contrast; or a model.onnx of
    experiments.export, which draws no picture."""
    patient: Annotated[Path, tyro.conf.Positional]
    """Folder of one patient: a folder of DICOM files per contrast, called FLAIR, T1w, T1wCE or T2w."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["--output"])] = None
    """Folder for result.json and saliency.png; by default mgmt_<patient> here."""


def main() -> None:
    arguments = parse(Arguments, prog="python -m mgmt_classifier.predict")
    out = arguments.out or Path(f"mgmt_{arguments.patient.resolve().name}")
    try:
        with loading("PyTorch"):
            from mgmt_classifier.patient import predict_patient, report

        result = predict_patient(arguments.run, arguments.patient, out)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed; it comes with: pip install 'glioma-suite[mgmt]'")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    report(result)
    print(f"written: {out / 'result.json'}" + ("" if arguments.run.is_file() else f", {out / 'saliency.png'}"))


if __name__ == "__main__":
    main()
