"""What is taken from others is named by its content: packages by hashes, actions by commits."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_every_package_of_the_lock_has_its_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in text and not re.search(r"^\s*-(?!-hash=)", text, re.M)
    packages = re.split(r"^(?=\w)", text, flags=re.M)[1:]
    assert len(packages) > 200
    for package in packages:
        assert re.match(r"[\w.-]+==[\w.+-]+ ", package), package
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", package), package


def test_every_action_is_named_by_a_commit_and_its_version():
    uses = [line for path in WORKFLOWS for line in path.read_text("utf-8").splitlines()
            if "uses:" in line]  # fmt: skip
    assert len(uses) >= 4
    for line in uses:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_only_the_job_that_publishes_may_write():
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text("utf-8"))
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            publishes = any("deploy-pages" in step.get("uses", "") for step in job["steps"])
            assert publishes == ("permissions" in job)
            for step in job["steps"]:
                if "checkout" in step.get("uses", ""):
                    assert step["with"]["persist-credentials"] is False
