"""The version of the package, of the citation and of the changelog are one."""

import re
from pathlib import Path

import yaml

from daitir import __version__

ROOT = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d|unreleased)$", re.M)


def test_the_newest_dated_version_is_that_of_the_package_and_of_the_citation():
    versions = HEADING.findall((ROOT / "CHANGELOG.md").read_text("utf-8"))
    dated = [version for version, date in versions if date != "unreleased"]
    assert versions and len(versions) - len(dated) <= 1
    assert versions == sorted(versions, key=lambda v: [*map(int, v[0].split("."))], reverse=True)
    assert not dated or dated[0] == __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == __version__
