"""Plots of `make sim` for the documentation, as SVG text: the same figures give the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 70, 150, 36, 44
COLOURS = ["#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00"]

Run = dict[str, Any]
Line = list[tuple[float, float]]


def write_plots(runs: list[Run], folder: Path) -> None:
    """Writes balance.svg, power-failures.svg and repair.svg, a line for each run."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "balance": ("balance (max / mean) over days", _balances),
        "power-failures": ("share that lose pages over servers that fail at once", _losing),
        "repair": ("minutes to repair over share of repairs", _repairs),
    }
    for name, (title, line_of) in plots.items():
        lines = {f"{run['replicas']}, width {run['width']}": line_of(run) for run in runs}
        (folder / f"{name}.svg").write_text(_svg(title, lines))


def _balances(run: Run) -> Line:
    # From the second day on, every quarter of a day.
    return [(1 + index / 4, balance) for index, balance in enumerate(run["balances"])]


def _losing(run: Run) -> Line:
    return [(servers, losing) for servers, losing, _ in run["power_failures"]]


def _repairs(run: Run) -> Line:
    minutes = run["repair_minutes"]
    return [(index / (len(minutes) - 1), each) for index, each in enumerate(minutes)]


def _svg(title: str, lines: dict[str, Line]) -> str:
    points = [point for line in lines.values() for point in line]
    x_most = max(x for x, _ in points)
    y_least = min(y for _, y in points)
    y_most = max(*(y for _, y in points), y_least + 1e-9)

    def place(x: float, y: float) -> str:
        across = LEFT + x / x_most * (WIDTH - LEFT - RIGHT)
        up = (y - y_least) / (y_most - y_least) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{HEIGHT - BOTTOM - up:.1f}"

    text = '<text x="{}" y="{}" text-anchor="{}">{}</text>'.format
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 20, "start", title),
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="grey"/>',
        text(LEFT - 6, HEIGHT - BOTTOM, "end", f"{y_least:.4g}"),
        text(LEFT - 6, TOP + 8, "end", f"{y_most:.4g}"),
        text(LEFT, HEIGHT - BOTTOM + 18, "start", "0"),
        text(WIDTH - RIGHT, HEIGHT - BOTTOM + 18, "end", f"{x_most:.4g}"),
    ]
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        course = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline points="{course}" fill="none" stroke="{colour}"/>')
        y = TOP + 16 + 18 * index
        parts.append(f'<g fill="{colour}">{text(WIDTH - RIGHT + 12, y, "start", name)}</g>')
    return "\n".join([*parts, "</svg>", ""])
