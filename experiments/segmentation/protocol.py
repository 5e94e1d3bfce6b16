"""One network on one split, or on every fold of a cross-validation with all tested cases put together."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import write_csv, write_json
from common.runs import Run, configuration_hash
from common.summary import summarise
from experiments.base import results
from experiments.base.ending import end
from experiments.base.engines import run
from experiments.base.options import Refused, refusals
from experiments.base.progress import step
from experiments.base.trainings import require, shared_by
from experiments.segmentation import external
from experiments.segmentation.finished import FOLDS, read_run
from experiments.segmentation.options import NetworkOptions, Options
from experiments.segmentation.study import Study

OpenStudy = Callable[[Options], AbstractContextManager[Study]]


def run_network(kind: str, config: Any, options: NetworkOptions, open_study: OpenStudy) -> Path:
    """One training and its results, or with --folds and without --fold one of every fold and their cases pooled.

    Prints the table and returns the run's folder.
    kind: of training, as in :mod:`experiments.train`. open_study: the study on the split that the options name. With
    --test-data the network is scored on that cohort too, which is read and checked before anything is trained.
    """
    if options.folds is not None and options.fold is None:
        with refusals():
            if options.test_data is not None:
                raise Refused("expected --fold beside --test-data and --folds: every fold has a network of its own")
        return cross_validate(kind, config, options, open_study)
    with open_study(options) as opened:
        other = external.CohortOptions.of(options)
        checked = None if other is None else external.check(read_run(opened.run.folder), other)
        asked = shared_by(config)
        several = asked.get("devices", 1) * asked.get("nodes", 1) > 1
        if not opened.run.is_finished and (several or options.on != "local"):
            opened.run.close()  # the training is another process's, or several processes'
            with step(3):
                require(run([opened.training(kind, opened.experiment, config, opened.run.folder)], options))
        elif not opened.run.is_finished:
            from experiments.segmentation import training  # and with it the plotting library

            training.show_patient(opened)
            getattr(training, kind)(opened, config)
        opened.show()
        if checked is not None:
            print()
            external.score(read_run(opened.run.folder), checked, other)
        return opened.run.folder


def cross_validate(kind: str, config: Any, options: Options, open_study: OpenStudy) -> Path:
    """Train and test every fold, pool the cases, each of which was tested once, print the table; returns its folder.

    kind: of training, as in :mod:`experiments.train`. open_study: the study of one fold, whose run is that of
    ``--fold`` alone. The pooled results have a folder of their own beside the folds', with cases.csv (a column
    ``fold``), scores.csv, folds.json and summary.json, and lesions.csv and its picture where every fold has it.
    """
    trainings, studies = [], []
    for fold in range(1, options.folds + 1):
        with open_study(replace(options, fold=fold)) as study:
            study.run.close()  # the training is another process's
            studies.append(study)
            trainings.append(study.training(kind, f"fold{fold}", config, study.run.folder))
    with refusals():
        with step(3):
            require(run(trainings, options))
        with step(4):
            folder = pool(studies, config, options)
        found = results.read_summary(folder / "summary.json")
        end(
            studies[0].experiment,
            folder,
            results.segmentation_table(found, headlines_under=options.headlines_under),
            f"every subject is tested once, by a network that has not seen it, in {options.folds} folds (folds.json)",
            notes=[
                *([results.SYNTHETIC_NOTE] if studies[0].synthetic else []),
                studies[0].source,
                *studies[0].trained_with(),
            ],
            synthetic=studies[0].synthetic,
        )
        return folder


def pool(studies: list[Study], config: Any, options: Options) -> Path:
    """The folds' cases as one finished run; returns its folder."""
    first = studies[0]
    name = first.run.folder.name.rpartition("-")[0].removesuffix(first.split.name)
    digest = configuration_hash(*(study.run.folder.name for study in studies))
    folder = first.run.folder.with_name(f"{name}{options.folds}folds-{digest}")
    with Run(folder):
        text = {"case": str, "patient": str, "view": str}
        cases = pd.concat(
            [
                pd.read_csv(study.run.folder / "cases.csv", dtype=text).fillna({"view": ""}).assign(fold=fold)
                for fold, study in enumerate(studies, start=1)
            ],
            join="inner",  # a fold that was scored before there were lesion-wise scores lacks their columns
        )
        scores = pd.concat(
            summarise(rows.drop(columns=["view", "fold"]), policy=options.empty_masks).assign(view=view)
            for view, rows in cases.groupby("view", sort=True)
        )
        settings = {"experiment": first.experiment, "options": asdict(options), "model": asdict(config)}
        write_json(folder / "config.json", settings)
        write_json(folder / FOLDS, [study.run.folder for study in studies])
        write_csv(folder / "cases.csv", cases)
        write_csv(folder / "scores.csv", scores)
        files = [study.run.folder / "lesions.csv" for study in studies]
        if all(file.exists() for file in files):
            from experiments.segmentation.lesion_detection import write_lesions  # and with it the plotting library

            lesions = [
                pd.read_csv(file, dtype=text).fillna({"view": ""}).assign(fold=n) for n, file in enumerate(files, 1)
            ]
            write_lesions(folder, pd.concat(lesions), synthetic=first.synthetic)
        summary = results.segmentation_results(first.experiment, scores, synthetic=first.synthetic)
        write_json(folder / "summary.json", results.as_rows(summary))
    return folder
