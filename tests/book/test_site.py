"""The built book in a browser: every page on a phone and a laptop, light and dark, without network.

`make test` runs these after it has built the book; elsewhere they run on the book that is there.
"""

import shutil
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
LEADS_ON = SITE / "index.html"  # to book/index.html, at once
PAGES = sorted({path for path in SITE.rglob("*.html") if "_static" not in path.parts} - {LEADS_ON})
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
WIDTHS = (390, 1300)
AUDITS = {"light": 390, "dark": 1300}  # axe takes seconds a page: each scheme and width once
MEGABYTE = 1_000_000
FLAGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
LACKS = [
    name
    for name, there in (
        ("a built book", PAGES),
        ("a browser", BROWSER),
        ("playwright", find_spec("playwright")),
        ("axe-playwright-python", find_spec("axe_playwright_python")),
    )
    if not there
]
in_browser = pytest.mark.skipif(bool(LACKS), reason=f"without {', '.join(LACKS)}")
built = pytest.mark.skipif(not PAGES, reason="without a built book")
pytestmark = [pytest.mark.slow, pytest.mark.site]

WIDER = "document.documentElement.scrollWidth - window.innerWidth"
SCROLLING_CODE = """[...document.querySelectorAll("div.highlight pre")]
  .filter(code => code.scrollWidth > code.clientWidth + 1).map(code => code.innerText)"""
BROKEN_IMAGES = """[...document.images].filter(image => image.loading != "lazy")
  .filter(image => !(image.complete && image.naturalWidth)).map(image => image.src)"""
RAW_FORMULAS = """async () => {
  await window.MathJax?.startup?.promise;
  const raw = [...document.querySelectorAll(".math")]
    .filter(math => !math.querySelector("mjx-container") || math.querySelector("mjx-merror"));
  const article = document.querySelector("article")?.cloneNode(true);
  article?.querySelectorAll("pre, code").forEach(code => code.remove());
  return [...raw.map(math => math.textContent), ...article?.textContent.match(/\\$\\$.*/g) ?? []];
}"""
# The theme lets the keyboard into boxes that scroll 0.3 seconds after a change of size.
FINDINGS = """async () => {
  await new Promise(done => setTimeout(done, 500));
  const found = await axe.run({preload: false, resultTypes: ["violations"]});
  return found.violations.filter(({impact}) => ["minor", "serious", "critical"].includes(impact))
    .map(({id, nodes}) => [id, nodes.map(node => node.html)]);
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=BROWSER, chromium_sandbox=False, args=FLAGS
        )
        yield chromium
        chromium.close()


@pytest.fixture(params=AUDITS)
def opened(request, browser):
    """A tab: `errors` holds what went wrong in it, `audited` the width at which axe looks."""
    context = browser.new_context(color_scheme=request.param)
    context.set_default_timeout(300_000)  # A busy machine is slow, not wrong.
    context.route("http*://**", lambda route: route.abort())
    page = context.new_page()
    page.errors, page.audited = [], AUDITS[request.param]
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("requestfailed", lambda request: page.errors.append(request.url))
    page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
    yield page
    context.close()


def name_of(path):
    return path.relative_to(SITE).as_posix()


@in_browser
@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_reads_well(opened, path):
    opened.goto(path.as_uri())
    assert opened.evaluate(RAW_FORMULAS) == []
    assert opened.evaluate(BROKEN_IMAGES) == []
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    opened.evaluate(axe)
    for width in WIDTHS:
        opened.set_viewport_size({"width": width, "height": 900})
        assert opened.evaluate(WIDER) <= 0, width
        assert opened.evaluate(SCROLLING_CODE) == [], width
        assert width != opened.audited or opened.evaluate(FINDINGS) == []
    assert opened.errors == []


@in_browser
def test_search_finds_the_chapter_of_a_term(opened):
    opened.goto(f"{(SITE / 'search.html').as_uri()}?q=null+space")
    opened.locator("#search-results li a[href*='13_null_space']").first.wait_for()


@cache
def soup_of(path):
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@cache
def anchors_of(path):
    if path.suffix != ".html":
        return {""}
    return {tag["id"] for tag in soup_of(path).find_all(id=True)} | {"", "top"}


def broken_links(path):
    """The addresses on a page that lead to no file of the site, or to no place in it."""
    for tag in soup_of(path).find_all(["a", "img", "link", "script"]):
        address = tag.get("href") or tag.get("src") or ""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        place = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not target.is_file() or place not in anchors_of(target):
            yield address


@built
@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_link_within_the_site_is_broken(path):
    assert sorted(set(broken_links(path))) == []


def weight(path):
    """The bytes of a page with its pictures."""
    sources = {image["src"] for image in soup_of(path).find_all("img")}
    files = [path, *(path.parent / src for src in sources if not urlsplit(src).scheme)]
    return sum(file.stat().st_size for file in files)


@built
def test_the_site_is_light():
    assert {name_of(path): weight(path) for path in PAGES if weight(path) > 1.5 * MEGABYTE} == {}
    explorer = SITE / "explorer"  # which test_explorer.py weighs
    files = [p for p in SITE.rglob("*") if p.is_file() and explorer not in p.parents]
    assert sum(path.stat().st_size for path in files) < 25 * MEGABYTE
