"""Draw the map of the code from the code: docs/map.svg, and the table of modules in docs/map.md.

    python docs/draw_map.py            writes both
    python docs/draw_map.py --check    exit status 1 where they are not as the code is now

Rooms are packages, arrows are imports (those for type checking included), as grimp reads them; an import is not drawn
where other arrows lead to the same room.
"""

import ast
import sys
import textwrap
from html import escape
from pathlib import Path

import grimp

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGES = ("experiments", "segresnet_monai", "unet_tf", "mgmt_classifier", "common")
ROWS = (
    ("experiments",),
    ("experiments.evaluation",),
    ("experiments.page",),
    ("experiments.figures",),
    ("experiments.comparison", "experiments.exporting"),
    ("experiments.segmentation", "experiments.mgmt"),
    ("experiments.drawing", "experiments.base"),
    ("segresnet_monai", "unet_tf", "mgmt_classifier"),
    ("common.phantom",),
    ("common.preprocess",),
    ("common.dicom",),
    ("common.cohort",),
    ("common",),
)
"""Rooms from top to bottom; every arrow points down."""
FORMER = {"common.mgmt_cohort": "common.dicom"}
"""Names that are kept for old commands -> the room to which what they name has moved."""
ABOVE = ("common.answers",)
"""Modules that stand above a room of their package, and what they import of it is not drawn."""
FILLS = {"experiments": "#e3eef9", "common": "#e6f2e6"}
MODEL_FILL = "#fbeedd"
WIDTH, MARGIN, GAP, LINE = 1000, 16, 44, 17
BEGIN, END = "<!-- made by docs/draw_map.py -->", "<!-- end -->"


def modules() -> dict[str, list[str]]:
    """Room -> its own modules, sorted, without __init__."""
    found: dict[str, list[str]] = {room: [] for row in ROWS for room in row}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            room = ".".join(path.relative_to(ROOT).parent.parts)
            if path.stem != "__init__":
                found[room].append(path.stem)
    return found


def arrows() -> list[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second, without those that other arrows lead to as well.

    Raises ValueError where one points up.
    """
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    level = {room: number for number, row in enumerate(ROWS) for room in row}
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = _room(module, graph), _room(imported, graph)
            if pair[0] != pair[1] and not (module in ABOVE and pair[1].startswith(pair[0])):
                if level[pair[0]] >= level[pair[1]]:
                    raise ValueError(f"expected every arrow to point down, found {module} -> {imported}")
                found.add(pair)
    below: dict[str, set[str]] = {}
    for source in sorted(level, key=level.get, reverse=True):
        direct = {target for first, target in found if first == source}
        below[source] = direct.union(*(below[target] for target in direct))
    needed = {
        (source, target)
        for source, target in found
        if not any(target in below[other] for first, other in found if first == source)
    }
    return sorted(needed, key=lambda pair: (level[pair[0]], pair))


def _room(module: str, graph: grimp.ImportGraph) -> str:
    return FORMER.get(module) or (module if graph.find_children(module) else module.rpartition(".")[0])


def picture() -> str:
    """The map as SVG."""
    found = modules()
    boxes: dict[str, tuple[float, float, float, float]] = {}
    drawn, y = [], MARGIN
    for row in ROWS:
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        texts = {room: textwrap.wrap(" · ".join(found[room]), int(width / 7.2)) for room in row}
        height = LINE * (max(map(len, texts.values())) + 2)
        for column, room in enumerate(row):
            x = MARGIN + column * (width + GAP)
            boxes[room] = (x, y, width, height)
            fill = FILLS.get(room.partition(".")[0], MODEL_FILL)
            title = f"{room}/" if room != "experiments" else "experiments/  (commands: python -m experiments.NAME)"
            drawn.append(
                f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="8" fill="{fill}"'
                ' stroke="#555"/>'
            )
            drawn.append(f'<text x="{x + 10:.0f}" y="{y + 20:.0f}" font-weight="bold">{escape(title)}</text>')
            drawn += [
                f'<text x="{x + 10:.0f}" y="{y + 20 + LINE * (number + 1):.0f}">{escape(line)}</text>'
                for number, line in enumerate(texts[room])
            ]
        y += height + GAP
    lines = [_arrow(boxes[source], boxes[target]) for source, target in arrows()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - GAP + MARGIN:.0f}"'
            ' font-family="sans-serif" font-size="13">',
            "<title>Rooms of the suite and their imports, from top to bottom</title>",
            '<rect width="100%" height="100%" fill="white"/>',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>',
            *lines,
            *drawn,
            "</svg>",
            "",
        ]
    )


def _arrow(source: tuple[float, float, float, float], target: tuple[float, float, float, float]) -> str:
    """A line from the lower edge of one box to the upper edge of another, where it hides least behind those between."""
    sx, sy, sw, sh = source
    tx, ty, tw, _ = target
    x1, x2 = sx + sw * (0.2 + 0.6 * (tx + tw / 2) / WIDTH), tx + tw * (0.2 + 0.6 * (sx + sw / 2) / WIDTH)
    return (
        f'<line x1="{x1:.0f}" y1="{sy + sh:.0f}" x2="{x2:.0f}" y2="{ty - 1:.0f}" stroke="#777" stroke-width="1.3"'
        ' marker-end="url(#head)"/>'
    )


def table() -> str:
    """Every module with the first line of its docstring, room by room, as Markdown."""
    lines = []
    for room, names in modules().items():
        folder = room.replace(".", "/")
        lines += [f"### `{folder}/`", "", "| file | what it is |", "|---|---|"]
        for name in names:
            source = (ROOT / folder / f"{name}.py").read_text(encoding="utf-8")
            said = (ast.get_docstring(ast.parse(source)) or "").splitlines() or [""]
            lines.append(f"| [`{name}.py`](../{folder}/{name}.py) | {said[0].replace('|', '/')} |")
        lines.append("")
    return "\n".join(lines)


def page(now: str) -> str:
    """map.md with its generated part as the code is now."""
    before, _, rest = now.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def main() -> None:
    text = (DOCS / "map.md").read_text(encoding="utf-8")
    wanted = {DOCS / "map.svg": picture(), DOCS / "map.md": page(text)}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        if stale:
            names = " and ".join(path.name for path in stale)
            sys.exit(f"error: {names} differ from the code; python docs/draw_map.py draws them")
        return
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")


if __name__ == "__main__":
    main()
