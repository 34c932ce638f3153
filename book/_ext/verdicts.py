"""The directive `verdicts`: published claims, what `results/` says of each, a verdict by rule.

`book/published_claims.csv` holds the claims, `book/claims.csv` and `book/evidence.csv` name the
rows of results that each rests on, and the published figures come from `book/published*.csv`.
Nothing of what is shown as measured, and no verdict, is typed.
"""

from functools import cache

import pandas as pd
from docutils import nodes
from leaderboard import CLAIMS, METRICS, ROOT
from sphinx.util.docutils import SphinxDirective

BOOK, RESULTS = ROOT / "book", ROOT / "results"
PUBLISHED = (BOOK / "published.csv", BOOK / "published_neighbours.csv")
FILES = {"claims": BOOK / "published_claims.csv", "evidence": BOOK / "evidence.csv"}
PROTOCOL = ("benchmark", "encoder", "query", "text", "noise", "rival", "metric", "round")
FORMS = {"points": (100, "+.1f", " points"), "percent": (100, ".1f", "%"), "ratio": (1, ".3f", ""),
         "change": (1, "+.3f", ""), "places": (1, ".1f", " places")}  # fmt: skip
# A published figure stands beside a measured one only where both are of one metric.
SAME_METRIC = {"hits_at_10_gain": "gain in hits_at_10", "degradation_rate": "degradation rate"}


@cache
def read(path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, dtype=str)


def selectors(text: str) -> dict[str, str]:
    """`a=1; b=2` as a mapping."""
    return dict(part.split("=", 1) for part in text.split("; "))


def the_row(table: pd.DataFrame, wanted: dict[str, str], name: str) -> pd.Series:
    """The one row with these values. Raises ValueError where there is none or several."""
    rows = table
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows of {name} for {wanted}")
    return rows.iloc[0]


def bounds(row: pd.Series) -> tuple[float, float]:
    """The interval, widened where a single training lies outside it."""
    low, high = float(row["ci_low"]), float(row["ci_high"])
    if row.get("seed_low"):
        low, high = min(low, float(row["seed_low"])), max(high, float(row["seed_high"]))
    return low, high


def evidence() -> pd.DataFrame:
    """All rows that a claim rests on: gains of `claims.csv`, and what `evidence.csv` names."""
    gains = read(CLAIMS)
    where = ["; ".join(f"{n}={row[n]}" for n in PROTOCOL) for row in gains.to_dict("records")]
    same = {"table": "leaderboard", "side": "above", "reference": "0", "least": "0",
            "shows": "", "form": "points"}  # fmt: skip
    gains = gains[["claim"]].assign(where=where, **same)
    return pd.concat([gains, read(FILES["evidence"])]).drop_duplicates(["claim", "where"])


def speaks(low: float, high: float, reference: tuple[float, float], side: str, least=0.0) -> str:
    """What an interval says of a claim to lie on a side of a reference: for, against, or open.

    It speaks against where it leaves no room for an effect of at least `least` on that side.
    """
    below, above = reference
    if side == "equal":
        return "for" if low <= above and high >= below else "against"
    if side == "below":
        low, high, below, above = -high, -low, -above, -below
    return "for" if low > above else "against" if high < below + least else "open"


def verdict(said: list[str]) -> str:
    """All rows for it: holds; some: in part; none, and one against: does not; else unknown."""
    if not said:
        return "in the chapter alone"
    if "for" in said:
        return "holds" if set(said) == {"for"} else "in part"
    return "does not" if "against" in said else "cannot be told"


def protocol(where: dict[str, str], reference: str) -> str:
    """A row of the leaderboard in words."""
    metric = METRICS[where["metric"].removesuffix("_gain")]
    rival = f" over `{where['rival']}`" if where["rival"] else ""
    rival += f" against `{where['encoder']}+{reference.split('=')[1]}`" if "=" in reference else ""
    text, noise = where["text"].replace("_", " "), where["noise"]
    return (f"{metric}: `{where['encoder']}+{where['query']}`{rival}; {where['benchmark']}; "
            f"text: {text}; noise: {noise}; round {where['round']}")  # fmt: skip


def published_rows(keys: str) -> list[pd.Series]:
    """The rows of the published figures that a claim names, as `method|metric|round`."""
    table = pd.concat([read(path) for path in PUBLISHED])
    names = ("method", "metric", "round")
    wanted = [dict(zip(names, key.split("|"), strict=True)) for key in keys.split("; ") if key]
    return [the_row(table, one, "the published figures") for one in wanted]


def place(
    interval: tuple[float, float], where: dict[str, str], table: str, published: pd.Series | None
) -> str:
    """Where the published figure lies. Only figures of one metric, round and size of gallery."""
    if published is None:
        return "no figure"
    metric = SAME_METRIC.get(where.get("metric", ""), "no metric")
    rounds = published["round"] in ("", where.get("round"))
    if table != "leaderboard" or not rounds or not published["metric"].startswith(metric):
        return "not comparable"
    value, (low, high) = float(published["value"]), (100 * end for end in interval)
    return "inside" if low <= value <= high else "below" if value < low else "above"


def judge(claim: dict, rows: pd.DataFrame) -> pd.DataFrame:
    """The evidence of a claim: what is shown, with its interval, what it says, and the place."""
    published = published_rows(claim["published"])
    found = []
    for one in rows[rows["claim"] == claim["claim"]].to_dict("records"):
        table, wanted = read(RESULTS / f"{one['table']}.csv"), selectors(one["where"])
        row = the_row(table, wanted, one["table"])
        low, high = bounds(row)
        if "=" in one["reference"]:
            other = {**wanted, **selectors(one["reference"])}
            reference = bounds(the_row(table, other, one["table"]))
        else:
            reference = (float(one["reference"]),) * 2
        scale, form, unit = FORMS[one["form"]]
        value, least, most = (f"{scale * x:{form}}" for x in (float(row["value"]), low, high))
        figure = published[0] if published else None
        found.append({
            "shows": one["shows"] or protocol(wanted, one["reference"]),
            "value": f"{value} [{least}, {most}]{unit}".replace("-", "−"),
            "says": speaks(low, high, reference, one["side"], float(one["least"])),
            "place": place((low, high), wanted, one["table"], figure),
        })  # fmt: skip
    return pd.DataFrame(found, columns=["shows", "value", "says", "place"])


def figure_of(claim: dict) -> str:
    """The published figures with their sources, or where the claim without a figure stands."""
    rows = published_rows(claim["published"])
    if not rows:
        return f"no figure ({claim['source']})"
    told = "; ".join(
        f"{row['value']} {row['unit']}, {row['method']}, {row['metric']}"
        f"{', round ' + row['round'] if row['round'] else ''} ({row['source']})"
        for row in rows
    )
    return told.replace("hits_at_10", "Hits@10").replace("recall_at_1", "R@1")


def as_markdown() -> str:
    """An overview of all claims, then each with its evidence."""
    claims, rows = read(FILES["claims"]).to_dict("records"), evidence()
    overview = ["| claim | of | verdict |", "|---|---|---|"]
    sections = []
    for number, claim in enumerate(claims, 1):
        shown = judge(claim, rows)
        result = verdict(shown["says"].tolist())
        overview.append(f"| [{number}. {claim['claim']}](#claim-{number}) | {claim['paper']} "
                        f"| {result} |")  # fmt: skip
        page = claim["page"].split("/")[1]
        name = f"chapter {int(page[:2])}" if page[:2].isdigit() else page.partition(".")[0]
        link = f"[{name}](../{claim['page']})"
        lines = [f"(claim-{number})=", f"### {number}. {claim['claim']}", "",
                 f"**Verdict**: {result}. **Published**: {figure_of(claim)}. "
                 f"**Where**: {link}. {claim['caveat']}".rstrip()]  # fmt: skip
        if len(shown):
            names = {"shows": "measured", "value": "value, 95% interval", "says": "speaks",
                     "place": "published figure"}  # fmt: skip
            if not claim["published"]:
                del names["place"]
            rows_shown = [names.values(), ["---"] * len(names), *shown[[*names]].to_numpy()]
            lines += ["", *("| " + " | ".join(row) + " |" for row in rows_shown)]
        sections.append("\n".join(lines))
    return "\n".join(overview) + "\n\n## One by one\n\n" + "\n\n".join(sections) + "\n"


class Verdicts(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        tables = {RESULTS / f"{name}.csv" for name in evidence()["table"]}
        for path in (CLAIMS, *PUBLISHED, *FILES.values(), *tables):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(as_markdown(), allow_section_headings=True)


def setup(app):
    app.add_directive("verdicts", Verdicts)
    return {"version": "1", "parallel_read_safe": True}
