"""The grid of Fig. 13: its cells, their scores on the same test patients, and the best of them beside chance."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd

from common.classification import auc_interval, best_under_chance, log_loss, roc_auc, verdict
from common.dicom.mgmt_cohort import CONTRASTS
from common.files import write_csv, write_text
from experiments.mgmt.study import MgmtStudy, Model
from mgmt_classifier.config import Config

BEST = Config()  # the report's best cell, the package's default


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The grid and what its cells have in common."""

    cell: Config = BEST
    """Every other setting of the models."""
    contrasts: tuple[str, ...] = ("FLAIR", "T2w", "T1wCE", "T1w")
    """In the report's order (R)."""
    images: tuple[int, ...] = (3, 7, 15)
    """Numbers of central images (R)."""
    batch_sizes: tuple[int, ...] = (4, 8)
    """Patients per step (R)."""
    fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
    """Of the patients, to train, validate and test (R)."""

    def __post_init__(self) -> None:
        if not self.contrasts or not set(self.contrasts) <= set(CONTRASTS):
            raise ValueError(f"expected contrasts out of {', '.join(CONTRASTS)}, received {self.contrasts}")

    @property
    def cells(self) -> dict[str, Config]:
        """By name, FLAIR_n3_b4 and so on."""
        return {
            f"{contrast}_n{images}_b{size}": replace(self.cell, contrast=contrast, images=images, batch_size=size)
            for contrast, size, images in product(self.contrasts, self.batch_sizes, self.images)
        }


def score(study: MgmtStudy, settings: Settings) -> None:
    """Train every cell, score all on the same test patients, and compare the best with the best under chance."""
    rows, probabilities, found, labels = [], [], [], np.empty(0)
    cells = study.fit({name: Model(config=config) for name, config in settings.cells.items()})
    for name, config in settings.cells.items():
        fitted = cells[name]
        labels, values = fitted.test["label"].to_numpy(), fitted.test["probability"].to_numpy()
        n, auc, loss = len(labels), roc_auc(values, labels), log_loss(values, labels)
        probabilities.append(values)
        found += [
            study.result(f"{name}__threshold", fitted.threshold, len(study.split.validation)),
            study.result(f"{name}__loss", loss, n),
            study.result(f"{name}__auc", auc, n, auc_interval(values, labels)),
        ]
        rows.append((config.contrast, config.images, config.batch_size, fitted.threshold, loss, auc))
    table = pd.DataFrame(rows, columns=["contrast", "images", "batch_size", "threshold", "loss", "auc"])
    chance = best_under_chance(np.stack(probabilities), labels, seed=study.options.split_seed)
    best = table.groupby("contrast")["auc"].max().nlargest(2).index
    found += [
        study.result(
            "best_contrasts", " and ".join(name for name in settings.contrasts if name in set(best)), len(labels)
        ),
        study.result("best_of_all__auc", chance.best, len(labels)),
        study.result("best_of_all_under_chance__auc", chance.expected, len(labels)),
        study.result("best_of_all__permutation_p", chance.p, len(labels)),
    ]
    write_csv(study.run.folder / "grid.csv", table)
    write_text(study.run.folder / "grid.txt", as_printed(table))
    from experiments.mgmt.pictures import draw_grid  # and with it the plotting library

    draw_grid(study.run.figures / "grid.png", table, chance=(chance.expected, chance.high), synthetic=study.synthetic)
    study.finish(found, [f"Grid: {verdict(np.stack(probabilities), labels, seed=study.options.split_seed)}"])


def as_printed(cells: pd.DataFrame) -> str:
    """The grid as the report prints it, each contrast's best cell marked with a star."""
    lines = []
    for contrast in dict.fromkeys(cells["contrast"]):
        own = cells[cells["contrast"] == contrast].sort_values(["batch_size", "images"]).reset_index(drop=True)
        best = own["auc"].idxmax()

        def line(label: str, values: list[str], best: int = best, *, mark: bool = False) -> str:
            marked = [f"{value}*" if mark and i == best else f"{value} " for i, value in enumerate(values)]
            return f"{label:<15}" + "".join(f"{value:>8}" for value in marked)

        lines += [
            contrast,
            line("images", [str(value) for value in own["images"]]),
            line("batch size", [str(value) for value in own["batch_size"]]),
            *(
                line(label, [f"{value:.3f}" for value in own[column]], mark=True)
                for label, column in (("best threshold", "threshold"), ("loss", "loss"), ("ROC AUC", "auc"))
            ),
            "",
        ]
    return "\n".join(lines)
