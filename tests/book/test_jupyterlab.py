"""Chapters in a real JupyterLab: they run, nothing raw is shown, an answer and a widget work."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from test_site import in_browser

ROOT = Path(__file__).resolve().parents[2]
RAW = re.compile(r"\{[a-z:]+\}`|^:{3,}", re.M)  # a role, a directive
WRONG = """from daitir.book.exercises import foundations

foundations.nightfall(lambda scene: scene)"""
ALL_CELLS = {"@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}  # not on scroll
MINUTES = 8
pytestmark = [pytest.mark.slow, pytest.mark.site, in_browser]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab over copies of the chapters."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for name in ("appendix", "book", "results"):
        (folder / name).symlink_to(ROOT / name)
    for path in (folder / "notebooks").glob("*.ipynb"):
        chapter = json.loads(path.read_text("utf-8"))
        if path.stem == "00_welcome":
            chapter["cells"].append({"cell_type": "code", "id": "wrong", "source": WRONG})
        for cell in chapter["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"metadata": {}, "outputs": [], "execution_count": None}
        path.write_text(json.dumps(chapter), "utf-8")
    for plugin, settings in ALL_CELLS.items():
        file = folder / "settings" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "DAITIR_PROFILE": "classroom"}
    places |= {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}",
               "--IdentityProvider.token="]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urlopen(f"{address}/api", timeout=5).close()
            break
        except OSError:
            time.sleep(1)
    yield address
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def page():
    from playwright.sync_api import sync_playwright
    from test_site import BROWSER, FLAGS

    with sync_playwright() as playwright:
        options = {"executable_path": BROWSER, "chromium_sandbox": False, "args": FLAGS}
        browser = playwright.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(MINUTES * 60_000)
        yield page
        browser.close()


def wait_for_kernel(page, lab, chapter):
    """Wait until the page is connected to its kernel; run before, it would ask for one instead."""
    for _ in range(120):
        with urlopen(f"{lab}/api/sessions", timeout=60) as answer:
            kernels = [s["kernel"] for s in json.load(answer) if chapter in s["path"]]
        if any(k["connections"] and k["execution_state"] == "idle" for k in kernels):
            return
        page.wait_for_timeout(1000)
    raise AssertionError(f"{chapter}: no kernel after two minutes")


def run_all(page, lab, chapter):
    """Open a chapter and run all its cells."""
    page.goto(f"{lab}/lab/tree/notebooks/{chapter}.ipynb?reset")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    wait_for_kernel(page, lab, chapter)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function("""
        [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")]
          .every(prompt => /\\[\\d+\\]/.test(prompt.innerText))
    """)
    texts = page.locator(".jp-Notebook .jp-RenderedMarkdown").all_inner_texts()
    assert len(texts) > 20 and not [text for text in texts if RAW.search(text)]


ERRORS = ".jp-Notebook [data-mime-type='application/vnd.jupyter.stderr']"  # and warnings


def test_a_wrong_answer_shows_one_sentence(lab, page):
    run_all(page, lab, "00_welcome")
    [error] = page.locator(ERRORS).all_inner_texts()
    assert "\n" not in error.strip() and "lambda" not in error and len(error) < 120


def test_the_widget_answers(lab, page):
    run_all(page, lab, "04_dar")
    assert page.locator(ERRORS).all_inner_texts() == []
    line = page.locator("input[placeholder='describe the picture']")
    before = page.locator(".widget-image").count()
    line.fill("a red umbrella on the beach")
    line.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.widget-image').length > {before}")
