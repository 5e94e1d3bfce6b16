"""How far a training has come, read from its folder while it goes on."""

import csv
import json
from pathlib import Path


def epochs(folder: Path) -> str:
    """``epoch 3 of 20``; empty before the first epoch's end. Says that history or configuration are damaged, if so."""
    history, config = folder / "history.csv", folder / "config.json"
    if not history.exists():
        return ""
    try:
        with history.open(encoding="utf-8", newline="") as file:
            done = [row["epoch"] for row in csv.DictReader(file)]
        model = json.loads(config.read_text(encoding="utf-8"))["model"] if config.exists() else {}
        total = f" of {model['epochs']}" if "epochs" in model else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"damaged: expected a history and a configuration, found: {error!r}"
    return f"epoch {done[-1] if done else 0}{total}"
