"""Any method's label maps on one cohort: scores, paired differences, lesions and a ranking, by one set of definitions.

    python -m experiments.score --data FOLDER --predictions nnunet=FOLDER --predictions ours=FOLDER
    python -m experiments.score --runs-of runs/unet3d/A runs/table1_baseline/B         two finished runs
    python -m experiments.score --data FOLDER --predictions a=FOLDER --convention a=brats2023 --cases intersection

Label maps are brought to the truth's grid by their affine, told apart by their names or a dataset.json, and scored with
every mask and lesion; each case's scores are kept as they come, so the same command goes on where a killed call stopped
and a further method costs its own cases only. Ends with the table of means with intervals, paired differences after
Holm, and the ranking with the share of resamples in which each method is first; CSV, LaTeX and pictures lie in the
folder that it names. A case that a method lacks ends the command, or with --cases intersection leaves every method.
"""

from common.command_line import parse
from experiments.base.options import refusals, wrapped
from experiments.evaluation.inputs import ScoreOptions


def main() -> None:
    options = parse(ScoreOptions, prog="python -m experiments.score", description=wrapped(__doc__))
    from experiments.evaluation.evaluate import evaluate  # and with it the plotting library

    with refusals():
        evaluate(options)


if __name__ == "__main__":
    main()
