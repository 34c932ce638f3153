"""The leaderboard's page and its claims: what prose says is what the table's intervals carry."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from daitir.data.dialogues import TEXT_CONVENTIONS

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "book" / "_ext" / "leaderboard.py"
spec = importlib.util.spec_from_file_location("leaderboard_extension", EXTENSION)
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)
CLAIMS = pd.read_csv(page.CLAIMS, keep_default_na=False)


@pytest.fixture(scope="module")
def table():
    return page.read_table()


def text_of(name):
    """The prose of a page, on one line."""
    path = ROOT / name
    if path.with_suffix(".ipynb").is_file():
        cells = json.loads(path.with_suffix(".ipynb").read_text("utf-8"))["cells"]
        sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
        parts = [text for kind, text in sources if kind == "markdown" or "chapters.say(" in text]
    else:
        parts = [path.with_suffix(".md").read_text("utf-8")]
    return " ".join(" ".join(parts).split())


def wrong(claims, table):
    """The claims whose sign the interval does not carry."""
    signs = [page.sign_of(page.measured(table, claim)) for claim in claims.to_dict("records")]
    return claims[claims["sign"] != signs]


def test_every_claim_has_the_sign_that_its_interval_carries(table):
    assert wrong(CLAIMS, table).empty, wrong(CLAIMS, table).to_string()


def test_a_claim_with_another_sign_or_without_a_row_is_found(table):
    turned = CLAIMS.assign(sign=CLAIMS["sign"].map({"above": "below"}).fillna("above"))
    assert len(wrong(turned, table)) == len(turned)
    with pytest.raises(ValueError, match="0 rows of leaderboard.csv"):
        wrong(CLAIMS.assign(benchmark="nowhere"), table)


@pytest.mark.parametrize("claim", CLAIMS.to_dict("records"), ids=lambda claim: claim["sentence"])
def test_the_sentence_of_a_claim_stands_on_its_page(claim):
    assert claim["sentence"] in text_of(claim["page"])


def test_every_row_names_its_protocol(table):
    assert set(table["text"]) == {"none", *TEXT_CONVENTIONS}
    assert set(table["noise"]) == {"new", "kept", "none", "both"}
    gains = table[table["metric"].str.endswith("_gain")]
    assert gains["rival"].ne("").all() and gains["detectable"].notna().all()
    assert (table["num_queries"] == 500).all()


def test_the_page_shows_the_first_protocol_and_hands_over_all_rows(table):
    html = page.as_html(table)
    store = re.search(r'id="leaderboard-data">(.*)</script>', html)[1]
    data = json.loads(store.replace("<\\/", "</"))
    rows = table[table["metric"].str.removesuffix("_gain").isin(page.METRICS)]
    assert len(data["rows"]) == len(rows) and len(html) < 1_500_000
    first = page.find(table, **page.FIRST)
    assert html.count("<tr>") == len(first) + 1
    best = first.loc[first["value"].idxmax()]
    assert page.with_interval(best, points=True) in html
    key = "|".join(best[n] for n in ("benchmark", "encoder", "query", "text", "noise"))
    assert data["ties"][f"{key}|tie_group_of_hits_at_10 (current_rewrite, new)"] == 1


def test_the_numbers_in_the_prose_are_those_of_the_study(table):
    notes = json.loads(page.TABLE.with_suffix(".json").read_text("utf-8"))
    gallery, asked = (notes["profile"][f"num_sealed_{name}"] for name in ("gallery", "dialogues"))
    text = text_of("book/leaderboard")
    assert f"{asked} new dialogues of each of six sources" in text
    assert f"a gallery of {gallery:,} pictures, of which {gallery - asked:,} are the same" in text


BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_the_address_chooses_a_protocol_in_the_browser(table, tmp_path):
    script = page.TABLE.parents[1].joinpath("book", "_static", "leaderboard.js").read_text("utf-8")
    site = tmp_path / "page.html"
    site.write_text(f"<body>{page.as_html(table)}<script>{script}</script></body>", "utf-8")
    wanted = {"benchmark": "terse", "text": "raw_dialogue", "noise": "kept", "round": 5,
              "metric": "recall_at_10"}  # fmt: skip
    address = "&".join(f"{name}={value}" for name, value in wanted.items())
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    ran = subprocess.run(
        [*command, f"{site.as_uri()}#{address}"], capture_output=True, text=True, timeout=120
    )
    body = re.search(r"<tbody>.*</tbody>", ran.stdout, re.DOTALL)[0]
    rows = page.find(table, **wanted)
    assert body.count("<tr>") == len(rows) > 0
    assert page.with_interval(rows.loc[rows["value"].idxmax()], points=True) in body
