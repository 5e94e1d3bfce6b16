"""A training that another run has done already."""

import shutil
import sys
from pathlib import Path
from typing import Any

from common.files import atomic_path, plain, read_json, write_text
from common.runs import same_settings
from experiments.segmentation.study import DEFAULT_BACKEND, Study

TRAINED = ("history.csv", "costs.json")


def adopt_training(study: Study, config: Any) -> Path | None:
    """Take over, into the study's open run, what a finished run with the same settings, split and data has trained.

    A training depends on nothing else, so it need not be repeated. Copies checkpoints, history and costs, and says
    where they come from in adopted.txt; returns that folder, None where no such run lies below the runs folder.
    """
    data = read_json(study.run.folder / "data.json", dict)
    for summary in sorted(study.options.runs.glob("**/summary.json")):
        other = summary.parent
        if not (other / "checkpoints").is_dir() or other == study.run.folder:
            continue
        try:
            written = read_json(other / "config.json", dict)
            same = (
                same_settings(written["model"], config)
                and ("grid" in written or not data["brought_to_grid"])  # older runs took scans as they lay
                and written.get("backend", DEFAULT_BACKEND) == (study.backend or DEFAULT_BACKEND)
                and "start" not in written  # fine-tuned
                and read_json(other / "split.json", dict) == plain(study.split.as_dict())
                and read_json(other / "data.json", dict).get("fingerprint") == data["fingerprint"]
            )
        except (OSError, ValueError, KeyError, AttributeError) as error:
            print(f"{other}: cannot be compared with this run: {error}", file=sys.stderr)
            continue
        if same:
            checkpoints = sorted(path.relative_to(other) for path in (other / "checkpoints").iterdir())
            for name in (*checkpoints, *TRAINED):
                with atomic_path(study.run.folder / name) as temporary:
                    shutil.copyfile(other / name, temporary)
            write_text(study.run.folder / "adopted.txt", f"trained in {other}\n")
            return other
    return None
