"""Whether other machines see the folder in which trainings lie: a file written here must be there."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.files import write_text
from experiments.base.trainings import Training


def common_folder(trainings: Sequence[Training]) -> Path:
    """The folder below which all of them lie."""
    folder = Path(os.path.commonpath([each.folder.resolve().parent for each in trainings]))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def token_file(folder: Path) -> Iterator[Path]:
    """A file that stands in the folder while others look for it."""
    token = folder / f".{uuid.uuid4().hex}.part"
    write_text(token, "seen\n")
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)
