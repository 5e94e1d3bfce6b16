"""How far a training has come, read from its folder while it goes on."""

from pathlib import Path

from common.files import read_json
from common.runs import History


def epochs(folder: Path) -> str:
    """``epoch 3 of 20``; empty before the first epoch's end. Says that history or configuration are damaged, if so."""
    history, config = folder / "history.csv", folder / "config.json"
    if not history.exists():
        return ""
    try:
        done = [row["epoch"] for row in History(history).rows()]
        model = read_json(config, dict)["model"] if config.exists() else {}
        total = f" of {int(model['epochs'])}" if "epochs" in model else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"damaged: expected a history and a configuration, found: {error!r}"
    return f"epoch {done[-1] if done else 0}{total}"
