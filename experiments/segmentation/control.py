"""Fine-tuning beside its control: the same training from random weights, compared on the same test cases."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from common.files import write_csv
from common.summary import EmptyPolicy
from common.words import p_value
from experiments.base import results
from experiments.base.ending import end
from experiments.base.options import refusals
from experiments.segmentation import paired
from experiments.segmentation.options import SegResNetOptions

METRICS = ("mean_dice", "dice_NCR", "dice_ED", "dice_ET", "dice_TC", "dice_WT", "hd95_TC", "hd95_WT")
CONTROL = "control.csv"


def run_with_control(
    options: SegResNetOptions, run: Callable[[SegResNetOptions], Path], *, scored: Sequence[str] = (".",)
) -> None:
    """Run an experiment; with --control the same without --from too, and both in one table.

    run: what the experiment does with its options; returns the run's folder. The control is a run of its own, the one
    that the same command without --from and --control makes. scored: folders in it that hold cases.csv; in each of
    the fine-tuned run's that there are the table is written as control.csv.
    """
    folder = run(options)
    if not options.control:
        return
    control = run(replace(options, start_from=None, control=False))
    with refusals():
        texts = []
        for part in scored:
            if (folder / part / "cases.csv").exists():
                table = compare(folder / part, control / part, options.empty_masks)
                write_csv(folder / part / CONTROL, table)
                texts += [as_text(table), f"fine-tuned: {folder / part}", f"from random weights: {control / part}"]
        end(folder.parent.name, folder, *texts)


def compare(fine_tuned: Path, control: Path, policy: EmptyPolicy) -> pd.DataFrame:
    """As :func:`experiments.segmentation.paired.compare`, its columns called fine_tuned and from_random."""
    table = paired.compare(control, fine_tuned, policy, METRICS)
    return table.rename(columns={"own": "fine_tuned", "against": "from_random"})


def as_text(table: pd.DataFrame) -> str:
    rows = [("metric", "fine-tuned", "from random", "difference", "95 % interval", "p (Holm)", "n")]
    for row in table.itertuples():
        interval = "" if pd.isna(row.low) else f"{row.low:+.3f} to {row.high:+.3f}"
        p = "-" if pd.isna(row.p_holm) else p_value(row.p_holm)
        cells = (results.short(row.fine_tuned), results.short(row.from_random), f"{row.difference:+.3f}")
        rows.append((row.metric, *cells, interval, p, str(row.n)))
    once = "each was trained once: intervals and tests are over patients, not over trainings"
    return f"{results.aligned(rows)}\n{results.p_note(table)}; {once}."
