"""Time one piece of work against what a user would use instead, alternating within one run.

Alternating, because another process or a warm cache then slows or speeds both sides alike. The ratio is that of the
medians; the smallest and largest ratio of one round stand beside it.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What every benchmark is told on its command line."""

    data: Path | None = None
    """Folder of scans, or of the MGMT competition, where the benchmark reads any; synthetic ones without it."""
    json: Path | None = None
    """Where to write the rows as JSON."""
    repeats: int = 7
    """Rounds; each times every side once."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: medians in seconds, ratio = peer / ours with its smallest and largest round."""

    name: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    floor_s: float
    floor: str


def compare(
    name: str,
    ours: Callable[[], object],
    peers: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    floor_s: float,
    floor: str,
    warmup: int = 1,
) -> list[Row]:
    """One row per peer, each round timing ours and then every peer once.

    floor_s: seconds the work cannot go below on this machine; floor: in words, what that is.
    Raises ValueError when repeats is below 1 or there is no peer.
    """
    if repeats < 1 or not peers:
        raise ValueError(f"At least one repeat and one peer are needed, received {repeats} and {list(peers)}.")
    for work in (ours, *peers.values()):
        for _ in range(warmup):
            work()
    ours_s: list[float] = []
    peers_s: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(repeats):
        ours_s.append(seconds(ours))
        for peer, work in peers.items():
            peers_s[peer].append(seconds(work))
    rows = []
    for peer, taken in peers_s.items():
        ratios = [theirs / own for theirs, own in zip(taken, ours_s, strict=True)]
        rows.append(
            Row(
                name=name,
                ours_s=statistics.median(ours_s),
                peer=peer,
                peer_s=statistics.median(taken),
                ratio=statistics.median(taken) / statistics.median(ours_s),
                ratio_low=min(ratios),
                ratio_high=max(ratios),
                floor_s=floor_s,
                floor=floor,
            )
        )
    return rows


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(rows: Sequence[Row], json_path: Path | None) -> None:
    """Print the rows as a table and, given a path, write them as JSON."""
    width = max(len(row.name) for row in rows)
    peer_width = max(len(row.peer) for row in rows)
    for row in rows:
        print(
            f"{row.name:{width}}  ours {row.ours_s:9.4f} s  {row.peer:{peer_width}} {row.peer_s:9.4f} s  "
            f"{row.ratio:6.1f}x ({row.ratio_low:.1f}-{row.ratio_high:.1f})  floor {row.floor_s:.4f} s ({row.floor})"
        )
    if json_path is not None:
        keys = ("name", "ours_s", "peer", "peer_s", "ratio", "floor_s")
        json_path.write_text(json.dumps([{key: getattr(row, key) for key in keys} for row in rows], indent=2) + "\n")
