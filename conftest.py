"""Rules for every test run, the notebooks' included."""

import pytest
from hypothesis import settings

# A busy machine is slow, not wrong.
settings.register_profile("daitir", deadline=None)
settings.load_profile("daitir")

# Examples are looked for in all modules, and of modules of one name only one can be imported.
collect_ignore_glob = ["*/conftest.py"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn an expected failure into a failure.

    After a cell has timed out, nbval expects all later cells of the notebook to fail and reports
    them as xfailed, which would hide how much of the chapter did not run.
    """
    report = yield
    if report.outcome == "skipped" and hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"not accepted as an expected failure: {report.wasxfail}"
    return report
