"""The page of claims: its verdicts follow from rows of results, and change with them."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import verdicts  # noqa: E402  # an extension of the book, which no package holds

CLAIMS = verdicts.read(verdicts.FILES["claims"]).to_dict("records")


def verdict_of(claim):
    return verdicts.verdict(verdicts.judge(claim, verdicts.evidence())["says"].tolist())


@pytest.mark.parametrize(
    ("interval", "side", "reference", "least", "said"),
    [
        ((0.1, 0.3), "above", (0, 0), 0, "for"),
        ((-0.3, -0.1), "above", (0, 0), 0, "against"),
        ((-0.1, 0.1), "above", (0, 0), 0, "open"),
        ((0.7, 0.9), "below", (1, 1), 0, "for"),
        ((1.1, 1.2), "below", (1, 1), 0, "against"),
        ((0.4, 0.5), "above", (0.5, 0.5), 0, "open"),
        ((-0.004, 0.002), "below", (0, 0), 0.01, "against"),  # no room for an effect that counts
        ((-0.02, 0.002), "below", (0, 0), 0.01, "open"),
        ((6, 10), "below", (14, 21), 0, "for"),  # two intervals that do not meet
        ((6, 15), "below", (14, 21), 0, "open"),
        ((-0.1, 0.1), "equal", (0, 0), 0, "for"),
        ((0.1, 0.3), "equal", (0, 0), 0, "against"),
    ],
)
def test_what_an_interval_says(interval, side, reference, least, said):
    assert verdicts.speaks(*interval, reference, side, least) == said


@pytest.mark.parametrize(
    ("said", "result"),
    [
        (["for", "for"], "holds"),
        (["for", "against"], "in part"),
        (["for", "open"], "in part"),
        (["open", "against"], "does not"),
        (["open"], "cannot be told"),
        ([], "in the chapter alone"),
    ],
)
def test_the_verdict_is_a_rule(said, result):
    assert verdicts.verdict(said) == result


def test_a_verdict_turns_with_its_row(monkeypatch):
    claim = next(c for c in CLAIMS if c["claim"] == "NRGR gains over text")
    assert verdict_of(claim) == "holds"
    read = verdicts.read

    def turned(path):
        table = read(path)
        if path.name != "leaderboard.csv":
            return table
        flipped = {name: (-table[old].where(table[old] != "", "nan").astype(float)).astype(str)
                   for name, old in (("ci_low", "ci_high"), ("ci_high", "ci_low"))}  # fmt: skip
        return table.assign(**flipped)

    monkeypatch.setattr(verdicts, "read", turned)
    assert verdict_of(claim) == "does not"


def test_every_row_belongs_to_a_claim_and_every_published_figure_is_found():
    names = {claim["claim"] for claim in CLAIMS}
    own = {  # said by this book alone
        "A tuned weight gains over text", "Leaving out what is denied gains over text",
        "Text-only fine-tuning is ahead of leaving it out",
    }  # fmt: skip
    assert set(verdicts.evidence()["claim"]) - names == own
    assert len(names) == len(CLAIMS)
    for claim in CLAIMS:
        rows = verdicts.published_rows(claim["published"])
        assert bool(rows) != bool(claim["source"]), "a figure has its source in the table"
    with pytest.raises(ValueError, match="0 rows of the published figures"):
        verdicts.published_rows("DAR|no such metric|10")


def test_a_figure_of_another_metric_is_not_compared():
    claim = next(c for c in CLAIMS if c["claim"] == "ADaFuSE gains over DAR")
    shown = verdicts.judge(claim, verdicts.evidence())
    recall = shown["shows"].str.startswith("R@10")
    assert set(shown[recall]["place"]) == {"not comparable"}
    assert set(shown[~recall]["place"]) <= {"inside", "above", "below"}


def test_the_null_space_is_judged_as_its_chapter_judges_it():
    chapter = nbformat.read(ROOT / "notebooks" / "13_null_space.ipynb", as_version=4)
    said = [o["data"]["text/plain"] for c in chapter.cells for o in c.get("outputs", [])
            if "conditions met" in o.get("data", {}).get("text/plain", "")]  # fmt: skip
    found = dict(re.findall(r"^([a-e]) .*?(holds in part|holds|does not)", said[0], re.M))
    ours = {c["claim"][12]: verdict_of(c) for c in CLAIMS if c["claim"].startswith("Null space")}
    assert ours == {letter: words.replace("holds in", "in") for letter, words in found.items()}


def test_no_measured_number_is_typed():
    for text in [(ROOT / "book" / "claims.md").read_text("utf-8"), *(c["caveat"] for c in CLAIMS)]:
        assert not re.search(r"\d\.\d|\d%", text), text
