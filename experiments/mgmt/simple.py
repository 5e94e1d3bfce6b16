"""Simple features of prepared images: a network that does no better than they has not read the images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from mgmt_classifier.data import Entry

BRIGHT_SD = 2.0  # of a series' non-zero pixels; about where oedema begins in FLAIR


def simple_features(entries: "Mapping[str, Mapping[str, Entry]]", ids: Sequence[str]) -> pd.DataFrame:
    """By patient: plane and number of images of each series, and the share of bright pixels in FLAIR's chosen images,
    which stands for the tumour's size. entries: prepared images by contrast and id, FLAIR's among them."""
    rows = []
    for id in ids:
        row: dict[str, object] = {}
        for contrast, of_patient in entries.items():
            row[f"{contrast}_plane"] = of_patient[id].geometry["plane"]
            row[f"{contrast}_images"] = of_patient[id].geometry["series_images"]
        images, flair = entries["FLAIR"][id].open(), entries["FLAIR"][id].geometry
        bright = images > flair["mean"] + BRIGHT_SD * flair["sd"]
        row["bright_share"] = np.count_nonzero(bright) / np.count_nonzero(images)
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(ids, name="id"))
