"""Draw the front page's figure, `book/images/hero.svg`, from `results/leaderboard.csv`.

    python book/draw_hero.py

It is SVG written here rather than by Matplotlib, so that its words stay words: the page shows them
in its own colours, light or dark, and a phone shows them at a size that can be read.
"""

from pathlib import Path

import pandas as pd

BOOK = Path(__file__).parent
TABLE, FIGURE = BOOK.parent / "results" / "leaderboard.csv", BOOK / "images" / "hero.svg"
PROTOCOL = {"benchmark": "human", "text": "current_rewrite", "round": 10}
GROUPS = {  # what is compared: encoder and query, and the rival
    "DAR over its own text": ("zero_shot", "dar", "zero_shot+text"),
    "ADaFuSE over DAR": ("zero_shot", "adafuse", "zero_shot+dar"),
    "DMCL over text-only fine-tuning": ("dmcl", "dar", "finetune_text+dar"),
}
METRICS = {"hits_at_10_gain": ("Hits@10", "#d55e00"), "recall_at_10_gain": ("R@10", "#0083c9")}
NOISES = ("new", "kept")
TITLE = "Three methods, each counted four ways"
NOTES = (
    "A dot is a gain in points, a line its 95% interval.",
    "Hollow: no gain can be told.",
)
TICKS = (-5, 0, 5, 10, 15, 20)

WIDTH, TOP, STEP, GAP = 440, 62, 22, 40  # pixels: between rows, and above a group's first row
ZERO, POINT, NUMBERS = 230, 7.2, 438  # where no gain stands, the width of a point, the last column


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """The twelve gains of the figure in percentage points, with their intervals, top down."""
    for name, value in PROTOCOL.items():
        table = table[table[name] == value]
    names = ["encoder", "query", "rival", "metric", "noise"]
    rows = [(*who, metric, noise) for who in GROUPS.values() for metric in METRICS
            for noise in NOISES]  # fmt: skip
    return 100 * table.set_index(names)[["value", "ci_low", "ci_high"]].loc[rows].astype(float)


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def draw_row(y: float, label: str, colour: str, row: pd.Series) -> str:
    """One gain: a dot with its interval, hollow where the interval holds zero."""
    x, low, high = (
        round(ZERO + POINT * v, 1) for v in (row["value"], row["ci_low"], row["ci_high"])
    )
    told = row["ci_low"] > 0 or row["ci_high"] < 0
    return (
        f'<text x="2" y="{y + 5}">{label}</text>'
        f'<path d="M{low} {y}H{high}" stroke="{colour}" stroke-width="2.5"/>'
        f'<circle cx="{x}" cy="{y}" r="5" stroke="{colour}" stroke-width="2" '
        + (f'fill="{colour}"/>' if told else 'class="paper" fill="#fff"/>')
        + f'<text x="{NUMBERS}" y="{y + 5}" text-anchor="end">{signed(row["value"])}</text>'
    )


def draw_grid(top: float, bottom: float) -> str:
    return "".join(
        f'<path d="M{ZERO + POINT * points:.1f} {top}V{bottom}" stroke="#888" '
        f'stroke-width="{0.5 if points else 1.5}"/>'
        for points in TICKS
    )


def draw(table: pd.DataFrame) -> str:
    found, parts, told, y = gains(table), [], [], TOP
    for title, who in GROUPS.items():
        parts.append(f'<text x="2" y="{y}" font-weight="bold">{title}</text>')
        parts.append(draw_grid(y + 9, y + 10 + 4 * STEP))
        for metric, (name, colour) in METRICS.items():
            for noise in NOISES:
                y += STEP
                row, label = found.loc[(*who, metric, noise)], f"{name}, {noise} noise"
                parts.append(draw_row(y, label, colour, row))
                told.append(f"{title}, {label}: {signed(row['value'])}.")
        y += GAP
    labels = (
        f'<text x="{ZERO + POINT * points:.1f}" y="{y - 10}" text-anchor="middle">'
        f"{signed(points)[:-2] if points else 0}</text>"
        for points in TICKS
    )
    notes = (f'<text x="2" y="{y + 16 + 19 * i}">{note}</text>' for i, note in enumerate(NOTES))
    height = y + 46
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="hero-title hero-text" font-family="system-ui, sans-serif" font-size="15" '
        'fill="currentColor">',
        f'<title id="hero-title">{TITLE}</title>',
        f'<desc id="hero-text">Gains in points. {" ".join(told)}</desc>',
        f'<rect class="paper" width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="2" y="24" font-size="18" font-weight="bold">{TITLE}</text>',
        *parts, *labels, *notes, "</svg>\n",
    ))  # fmt: skip


if __name__ == "__main__":
    FIGURE.write_text(draw(pd.read_csv(TABLE, keep_default_na=False)), "utf-8")
