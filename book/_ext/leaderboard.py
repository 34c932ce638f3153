"""The directives `leaderboard` and `claims`: tables made from `results/` as the book is built.

`leaderboard` shows one protocol as a plain table and hands all rows to `leaderboard.js`, which
filters and sorts them in the reader's browser. `claims` sets each sentence of `book/claims.csv`
beside the row of the table that it is about.
"""

import json
from html import escape
from pathlib import Path

import pandas as pd
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
TABLE, CLAIMS = ROOT / "results" / "leaderboard.csv", ROOT / "book" / "claims.csv"
SWITCHES = ("benchmark", "text", "noise", "round", "metric")
FIRST = {"benchmark": "human", "text": "current_rewrite", "noise": "new", "round": 10,
         "metric": "hits_at_10"}  # fmt: skip
METRICS = {"hits_at_10": "Hits@10", "recall_at_10": "R@10", "recall_at_1": "R@1", "mrr": "MRR",
           "bri": "BRI", "degradation_rate": "degraded by a place or more",
           "degradation_rate_ln2": "degraded to half or less"}  # fmt: skip
SHARES = tuple(name for name in METRICS if name not in ("mrr", "bri"))
BOX = '<div class="leaderboard-box" tabindex="0">'  # scrolls by the keyboard too
SIGNS = {"above": "gains", "below": "loses", "unclear": "cannot be told"}


def read_table() -> pd.DataFrame:
    return pd.read_csv(TABLE, keep_default_na=False, na_values={"detectable": "", "ci_low": "",
                                                                "ci_high": ""})  # fmt: skip


def find(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of a protocol. A query without text or views belongs to every text or noise."""
    for name, value in wanted.items():
        always = {"text": ["none"], "noise": ["none", "both"]}.get(name, [])
        table = table[table[name].isin([value, *always])]
    return table


def with_interval(row: pd.Series | dict, *, points: bool, sign: bool = False) -> str:
    """A value with its interval, in percent or points where it is a share."""
    scale, digits = (100, 1) if points else (1, 3)
    form = f"+.{digits}f" if sign else f".{digits}f"
    value, low, high = (scale * float(row[name]) for name in ("value", "ci_low", "ci_high"))
    return f"{value:{form}} [{low:{form}}, {high:{form}}]".replace("-", "−")


def tie_groups(table: pd.DataFrame, metric: str, text: str, noise: str) -> pd.Series:
    """The group of each method of a protocol at the last round; two metrics have one."""
    label = f"tie_group_of_{metric} ({text}, {noise})"
    rows = table[table["metric"] == label]
    return rows.set_index(["benchmark", "encoder", "query", "text", "noise"])["value"]


def as_json(table: pd.DataFrame) -> str:
    """All rows, each name written once."""
    shown = table[table["metric"].str.removesuffix("_gain").isin(METRICS)]
    shown = shown.assign(rival=shown["rival"].str.partition(",")[0], full=shown["rival"])
    columns = ("benchmark", "encoder", "query", "text", "noise", "full", "metric", "num_seeds")
    names = {column: sorted(set(shown[column])) for column in columns}
    codes = {column: {n: i for i, n in enumerate(names[column])} for column in columns}
    rows = []
    for row in shown.to_dict("records"):
        numbers = [row[n] for n in ("value", "ci_low", "ci_high", "detectable")]
        numbers = [None if pd.isna(n) else round(10_000 * float(n)) for n in numbers]
        rows.append([*(codes[c][row[c]] for c in columns), row["round"], *numbers])
    groups = table[table["metric"].str.startswith("tie_group")]
    ties = {
        "|".join((r["benchmark"], r["encoder"], r["query"], r["text"], r["noise"], r["metric"])):
            int(float(r["value"])) for r in groups.to_dict("records")
    }  # fmt: skip
    data = {"names": names, "rows": rows, "ties": ties, "metrics": METRICS, "first": FIRST}
    return json.dumps(data, separators=(",", ":")).replace("</", "<\\/")


def as_html(table: pd.DataFrame) -> str:
    """The first protocol as a table: what a reader without JavaScript sees."""
    values = find(table, **FIRST)
    groups = tie_groups(table, FIRST["metric"], FIRST["text"], FIRST["noise"])
    rows = []
    for row in values.sort_values("value", ascending=False).to_dict("records"):
        place = tuple(row[n] for n in ("benchmark", "encoder", "query", "text", "noise"))
        cells = (row["encoder"], row["query"], row["text"], row["noise"],
                 row["num_seeds"], with_interval(row, points=True),
                 f"{float(groups.get(place, float('nan'))):.0f}")  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    heads = ("encoder", "query", "text", "noise", "seeds", "Hits@10, round 10", "tie group")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div id="leaderboard-table">{BOX}<table>'
        "<caption>Human-like dialogues, current rewrite as text, new noise.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
        f'<script type="application/json" id="leaderboard-data">{as_json(table)}</script>'
    )


class Leaderboard(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(TABLE))
        return [nodes.raw("", as_html(read_table()), format="html")]


def measured(table: pd.DataFrame, claim: pd.Series | dict) -> pd.Series:
    """The one row that a claim is about. Raises ValueError where there is none or several."""
    names = ("benchmark", "encoder", "query", "text", "noise", "rival", "metric")
    rows = table
    for name in names:
        rows = rows[rows[name] == claim[name]]
    rows = rows[rows["round"] == int(claim["round"])]
    if len(rows) != 1:
        raise ValueError(f"{CLAIMS.name}: {len(rows)} rows of {TABLE.name} for {dict(claim)}")
    return rows.iloc[0]


def sign_of(row: pd.Series) -> str:
    """What the interval of a gain carries."""
    return "above" if row["ci_low"] > 0 else "below" if row["ci_high"] < 0 else "unclear"


def verdict(claim: dict, row: pd.Series) -> str:
    """What the interval says of the sign, and of the published figure where there is one."""
    if not claim["points"]:
        return SIGNS[sign_of(row)]
    points, low, high = float(claim["points"]), 100 * row["ci_low"], 100 * row["ci_high"]
    place = "inside" if low <= points <= high else "below" if points < low else "above"
    return f"{SIGNS[sign_of(row)]}; the published figure lies {place} the interval"


def claims_html(table: pd.DataFrame, claims: pd.DataFrame) -> str:
    rows = []
    for claim in claims.to_dict("records"):
        row = measured(table, claim)
        protocol = f"{claim['benchmark']}; text: {claim['text']}; noise: {claim['noise']}; "
        protocol += f"rival: {claim['rival']}; {METRICS[claim['metric'].removesuffix('_gain')]}, "
        protocol += f"round {claim['round']}"
        where = f'<a href="../{claim["page"]}.html">{claim["page"].split("/")[-1]}</a>'
        cells = [escape(claim["claim"]), escape(claim["published"]), escape(claim["before"]),
                 escape(with_interval(row, points=True, sign=True)), escape(verdict(claim, row)),
                 escape(protocol), where]  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("claim", "published", "what the book said", "measured now, points", "verdict",
             "protocol", "where")  # fmt: skip
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f"{BOX}<table><caption>Claims and what the sealed test measures.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


class Claims(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        for path in (TABLE, CLAIMS):
            self.env.note_dependency(str(path))
        html = claims_html(read_table(), pd.read_csv(CLAIMS, keep_default_na=False))
        return [nodes.raw("", html, format="html")]


def setup(app):
    app.add_directive("leaderboard", Leaderboard)
    app.add_directive("claims", Claims)
    return {"version": "1", "parallel_read_safe": True}
