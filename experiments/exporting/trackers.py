"""A run's folder as a tracker's run: parameters, curves, scores, pictures; of a finished run or of one still going.

A tracker's run is known by its folder's identity. The same content again changes nothing; of a run that has gone on,
what is new is added (MLflow) or the local copy is made anew under the same id (Weights & Biases, offline).
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import read_json
from common.runs import History, is_in_use
from experiments.base import results
from experiments.base.options import Refused
from experiments.base.trainings import given

RUN, CONTENT = "glioma_suite.run", "glioma_suite.content"
FILES = ("config.json", "data.json", "split.json", "environment.json", "summary.json", "costs.json", "scores.csv")
MEASURED = "seconds"
"""The curve whose points may differ from those that a tracker has: of epochs trained again after a kill."""
LONGEST = 500
"""Characters of a parameter that MLflow takes."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """What a tracker is told of a run.

    identity: the same for the same settings, data and split. content: digest of all that is here. curves: by name, of
    (epoch, value). scores: of summary.json. files: to be kept as they are, by their place below the run's folder.
    """

    experiment: str
    name: str
    identity: str
    content: str
    state: str
    parameters: dict[str, str]
    curves: dict[str, list[tuple[int, float]]]
    scores: dict[str, float]
    files: dict[str, Path]


def read(folder: Path) -> Log:
    """Read a run's folder. Raises RunError when it is none or a file of it is damaged."""
    config = given(folder)
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.rglob("history.csv")):
        prefix = "" if path.parent == folder else f"{path.parent.relative_to(folder)}/"
        for row in History(path).rows():
            for name, value in row.items():
                if name != "epoch" and value and math.isfinite(number := float(value)):
                    curves.setdefault(f"{prefix}{name}", []).append((int(row["epoch"]), number))
    summary = folder / "summary.json"
    found = results.read_summary(summary) if summary.exists() else []
    scores = {}
    for result in found:
        for name, value in (("", result.value), ("_low", result.low), ("_high", result.high)):
            if isinstance(value, (int, float)):
                scores[f"{result.key.partition('.')[2]}{name}"] = float(value)
    files = {name: folder / name for name in FILES if (folder / name).exists()}
    files |= {f"figures/{path.name}": path for path in sorted(folder.glob("figures/*")) if path.is_file()}
    parameters = dict(_flat({"model": config.get("model", {}), "options": config.get("options", {})}))
    parts = [config.get("experiment"), config.get("model"), *(_read(folder, name) for name in ("data", "split"))]
    identity = hashlib.sha256(json.dumps([folder.resolve().name, *parts], sort_keys=True).encode()).hexdigest()[:16]
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    state = "finished" if summary.exists() else "running" if is_in_use(folder) else "stopped"
    content = hashlib.sha256(json.dumps([parameters, curves, digests, state], sort_keys=True).encode()).hexdigest()[:16]
    return Log(
        experiment=config.get("experiment", folder.resolve().parent.name),
        name=folder.resolve().name,
        identity=identity,
        content=content,
        state=state,
        parameters=parameters,
        curves=curves,
        scores=scores,
        files=files,
    )


def _read(folder: Path, name: str) -> object:
    path = folder / f"{name}.json"
    return read_json(path, dict) if path.exists() else None


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def to_mlflow(folder: Path, output: Path | None) -> None:
    """Log a run into MLflow's store: a folder (by default mlruns), or the server that MLFLOW_TRACKING_URI names.

    Raises Refused where that has other points of the run's curves.
    """
    log = read(folder)
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    with _needs("mlflow"):
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient
    address = os.environ.get("MLFLOW_TRACKING_URI") if output is None else None
    client = MlflowClient(address or (output or Path("mlruns")).resolve().as_uri())
    known = client.get_experiment_by_name(log.experiment)
    experiment = client.create_experiment(log.experiment) if known is None else known.experiment_id
    found = client.search_runs([experiment], f"tags.`{RUN}` = '{log.identity}'")
    if found and found[0].data.tags.get(CONTENT) == log.content:
        _say(log, f"MLflow run {found[0].info.run_id}", "nothing new")
        return
    run = found[0] if found else client.create_run(experiment, tags={RUN: log.identity}, run_name=log.name)
    identifier, started = run.info.run_id, run.info.start_time
    metrics = []
    for name, points in log.curves.items():
        kept = {metric.step: metric.value for metric in client.get_metric_history(identifier, name)} if found else {}
        other = [step for step, value in points if kept.get(step, value) != value]
        if other and name.rpartition("/")[2] != MEASURED:
            raise Refused(
                f"{folder}: expected the curves that MLflow run {identifier} has of it, found another {name} at epoch "
                f"{other[0]} than its {kept[other[0]]:g}: trained anew? Delete that run, or name a new store (--output)"
            )
        metrics += [Metric(name, value, started, step) for step, value in points if step not in kept]
    parameters = [Param(name, value[:LONGEST]) for name, value in log.parameters.items() if name not in run.data.params]
    for first in range(0, len(parameters), 100):
        client.log_batch(identifier, params=parameters[first : first + 100])
    metrics += [
        Metric(f"score/{name}", value, started, 0)
        for name, value in log.scores.items()
        if run.data.metrics.get(f"score/{name}") != value
    ]
    for first in range(0, len(metrics), 500):
        client.log_batch(identifier, metrics=metrics[first : first + 500])
    for name, path in log.files.items():
        client.log_artifact(identifier, str(path), str(Path(name).parent) if "/" in name else None)
    # The content's digest comes last: without it the same command goes on.
    client.log_batch(identifier, tags=[RunTag("state", log.state), RunTag(CONTENT, log.content)])
    ended = {"finished": "FINISHED", "running": "RUNNING", "stopped": "KILLED"}[log.state]
    if ended == "RUNNING":
        client.update_run(identifier, status=ended)
    else:
        client.set_terminated(identifier, ended)
    _say(log, f"MLflow run {identifier}", f"{len(metrics)} values of curves and scores")


def to_wandb(folder: Path, output: Path | None) -> None:
    """Write a run for Weights & Biases, offline, below a folder (by default here); ``wandb sync`` sends it."""
    log = read(folder)
    with _needs("wandb"):
        import wandb
    place = output or Path()
    place.mkdir(parents=True, exist_ok=True)
    before = sorted(place.glob(f"wandb/offline-run-*-{log.identity}"))
    if before and (before[-1] / CONTENT).exists() and (before[-1] / CONTENT).read_text() == log.content:
        _say(log, str(before[-1]), "nothing new")
        return
    settings = wandb.Settings(mode="offline", console="off", silent=True, x_disable_stats=True, disable_git=True)
    run = wandb.init(
        project="glioma-suite",
        group=log.experiment,
        name=log.name,
        id=log.identity,
        dir=str(place),
        config=log.parameters,
        tags=[log.state],
        settings=settings,
    )
    try:
        run.define_metric("*", step_metric="epoch")
        for epoch in sorted({step for points in log.curves.values() for step, _ in points}):
            values = {name: value for name, points in log.curves.items() for step, value in points if step == epoch}
            run.log({"epoch": epoch, **values})
        run.summary.update({f"score/{name}": value for name, value in log.scores.items()})
        for name, path in log.files.items():
            if path.suffix == ".png":
                run.log({name: wandb.Image(str(path))})
            kept = Path(run.dir) / name
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, kept)  # saved from elsewhere it would be a link
            run.save(str(kept), base_path=run.dir, policy="now")
        made = Path(run.dir).parent
    finally:
        run.finish()
    (made / CONTENT).write_text(log.content)
    for old in before:
        if old != made:
            shutil.rmtree(old)
    _say(log, str(made), f"{len(log.curves)} curves and {len(log.scores)} scores")


def _say(log: Log, where: str, what: str) -> None:
    print(f"{log.experiment}/{log.name} ({log.state}) in {where}: {what}")


@contextmanager
def _needs(package: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise Refused(f"{error.name} is not installed; it comes with: pip install 'glioma-suite[{package}]'") from None


TRACKERS = {"mlflow": to_mlflow, "wandb": to_wandb}
