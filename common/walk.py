"""Walk through a folder of data and name everything on the way that cannot be read, without opening any file."""

from __future__ import annotations

import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Trouble:
    """A file or folder that could not be taken, and why."""

    path: Path
    what: str

    @property
    def name(self) -> str:
        return shown(self.path.name)


@dataclass(frozen=True)
class Walk:
    """Regular files, and what could not be taken, in the order of their paths' parts."""

    files: tuple[Path, ...]
    troubles: tuple[Trouble, ...]


def walk(folder: str | Path, *, suffixes: tuple[str, ...]) -> Walk:
    """All regular files below a folder whose names end in one of the suffixes, without hidden ones (macOS leaves ._*).

    Links are followed, and each folder is entered once, by its own name where it lies below `folder` itself: links to
    a folder above end nowhere. Troubles: folders that cannot be listed; files of these suffixes that are pipes, sockets
    or devices; links of these suffixes or of none that lead nowhere; names that are no plain text.
    """
    files: list[Path] = []
    troubles: list[Trouble] = []
    links: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [Path(folder)]
    while waiting or links:
        # Links wait until every folder has been entered by its own name.
        path = (waiting or links).pop(0)
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as listing:
                entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            troubles.append(Trouble(path, f"cannot be listed: {error.strerror or error}"))
            continue
        for entry in entries:
            _sort_in(entry, suffixes, files, troubles, waiting, links)
    return Walk(tuple(sorted(files)), tuple(sorted(troubles, key=lambda trouble: trouble.path)))


def _sort_in(
    entry: os.DirEntry[str],
    suffixes: tuple[str, ...],
    files: list[Path],
    troubles: list[Trouble],
    waiting: list[Path],
    links: list[Path],
) -> None:
    path = Path(entry.path)
    what = irregular(entry)
    wanted = entry.name.lower().endswith(suffixes)
    if what != "a folder" and not wanted and not (entry.is_symlink() and not path.suffix):
        return
    if not entry.name.isprintable():
        troubles.append(Trouble(path, "its name is no plain text (UTF-8 without control characters): rename it"))
    elif what == "a folder":
        (links if entry.is_symlink() else waiting).append(path)
    elif what is None and wanted:
        files.append(path)
    elif what is not None:
        troubles.append(Trouble(path, f"expected a file, found {what}"))


def irregular(entry: Path | os.DirEntry[str]) -> str | None:
    """What a path is that is no regular file, in words; None for a regular file or a link to one. Opens nothing."""
    try:
        if isinstance(entry, os.DirEntry) and entry.is_file(follow_symlinks=False):
            return None  # the listing has told: no further question to a disk that may be far away
        kind = stat.S_IFMT(entry.stat().st_mode)
    except FileNotFoundError:
        return "a link that leads nowhere" if entry.is_symlink() else "nothing"
    except OSError as error:
        return f"what cannot be looked at ({error.strerror or error})"
    return None if kind == stat.S_IFREG else _KINDS.get(kind, "no regular file")


def composed(name: str) -> str:
    """A name as ids are made of it, so that those of files and of tables are the same: Unicode's form NFC.

    A file from a Mac may bear ``ä`` as two characters (NFD); what is typed or exported holds it as one.
    """
    return unicodedata.normalize("NFC", name)


def shown(name: str | Path) -> str:
    """A name as text that terminals, JSON and CSV take: bytes that are no UTF-8 and control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
