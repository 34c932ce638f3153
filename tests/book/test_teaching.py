"""The instructor guide has all chapters, answers to all predictions, and minutes that add up."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "book" / "teaching.md").read_text("utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def numbered(part):
    return re.findall(r"^(\d+)\. ", part, re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_has_its_notes(path):
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    title = re.match(r"# (.*)", cells[0])[1]
    asked = sum(text.count("**Predict.**") for text in cells)
    part = GUIDE.split(f"### {int(path.name[:2])}. {title}\n", 1)[1].split("\n### ", 1)[0]
    assert part.index("**Talk track.**") < part.index("**Discuss.**") < part.index("**Misconc")
    discussed, answered = part.split("**Predictions.**")
    assert numbered(discussed) == list("12345")
    assert numbered(answered) == [str(number + 1) for number in range(asked)]


@pytest.mark.parametrize(("schedule", "minutes"), [("90 minutes", 90), ("Half a day", 210)])
def test_minutes_add_up(schedule, minutes):
    part = GUIDE.split(f"\n### {schedule}", 1)[1].split("\n##", 1)[0]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", part, re.M))) == minutes


def test_points_add_up():
    part = GUIDE.split("\n## A marking rubric", 1)[1].split("\n## ", 1)[0]
    assert sum(map(int, re.findall(r"^\| (\d+) \|", part, re.M))) == 20


def test_no_measured_number_is_typed():
    assert not re.search(r"\d\.\d\d|\d%|[+−]\d", GUIDE)
