"""The explorer in a browser, from a file and without a network: what it shows is what Python has.

Its own arithmetic has tests in explorer/test, which run where there is Node.
"""

import json
import shutil
import subprocess
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from test_site import BROWSER, FINDINGS, FLAGS, LACKS, MEGABYTE, SITE, WIDER, WIDTHS

ROOT = SITE.parents[1]
FOLDER = SITE / "explorer"
PAGE = FOLDER / "index.html"
LIVE = (FOLDER / "wasm.js").is_file()
WITHOUT = [*LACKS, *([] if PAGE.is_file() else ["a built explorer"])]
in_browser = pytest.mark.skipif(bool(WITHOUT), reason=f"without {', '.join(WITHOUT)}")
live = pytest.mark.skipif(not LIVE, reason="without the live parts")
pytestmark = [pytest.mark.slow, pytest.mark.site]

ODD = [
    "a red dog", "", "狗在海滩上", "🐕🏖️ a dog", "a\x00b\x07c\x1b[31m red", "a\r\nb\u2028c",
    "ﬁsh “quoted” it’s ＡＢＣ", "&lt;b&gt; &amp; more", "<script>alert(1)</script>",
    "dog " * 500, "x" * 700, "e\u0301te\u0301 ÀÇ", "𝔘nicode ? tail", "12,345.67%!?",
]  # fmt: skip
TOKENS = "async (texts) => { const all = []; for (const text of texts) " + (
    "all.push(await self.EXPLORER.ask('tokens', {text})); return all; }"
)
SEARCH = """async ([texts, target]) => {
  const all = [];
  for (const text of texts) {
    const {found} = await self.EXPLORER.ask("search", {text, round: 0, target, count: 10});
    all.push(found);
  }
  return all;
}"""
DRAW = """async (options) => {
  const {pixels, feature} = await self.EXPLORER.ask("draw", options, () => {});
  return {pixels: Array.from(pixels), feature: Array.from(feature)};
}"""
NEED = "async (names) => { await self.EXPLORER.need(...names); }"
WORDS = ["wasm", "facts", "text", "gallery", "adafuse", "dmcl", "gallery_dmcl"]
DRAWING = ["words", "denoise", "decode", "image"]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=BROWSER, chromium_sandbox=False, args=FLAGS
        )
        yield chromium
        chromium.close()


def opened_in(browser, **options):
    context = browser.new_context(**options)
    context.set_default_timeout(300_000)  # A busy machine is slow, not wrong.
    context.route("http*://**", lambda route: route.abort())
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.errors.append(said.text))
    page.goto(PAGE.as_uri())
    page.locator("body[data-ready]").wait_for()
    return page


@pytest.fixture
def page(browser):
    page = opened_in(browser)
    yield page
    assert page.errors == []
    page.context.close()


@pytest.fixture(scope="module")
def engine(browser):
    """A page whose encoder is ready."""
    page = opened_in(browser)
    page.evaluate(NEED, WORDS)
    yield page
    page.context.close()


@cache
def bench():
    from daitir.studies.engine.bench import Bench
    from daitir.studies.profiles import get_profile

    return Bench(get_profile("classroom"), None, Path("unused"), Path("unused"))


@pytest.mark.skipif(shutil.which("node") is None, reason="without Node")
def test_its_arithmetic():
    command = ["node", "--test", "test/parts.test.js"]
    done = subprocess.run(command, cwd=ROOT / "explorer", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@in_browser
def test_it_is_light():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    first = {"index.html", "style.css", "page.js", "dialogues.js"}
    first |= {name for name in sizes if name.endswith(".webp")}
    assert sum(sizes[name] for name in first) <= 3 * MEGABYTE
    assert sum(size for name, size in sizes.items() if name not in first) <= 20 * MEGABYTE


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well(browser, scheme):
    page = opened_in(browser, color_scheme=scheme, reduced_motion="reduce")
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    page.locator("#round").fill("10")  # whose lists are the longest
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(WIDER) <= 0, width
        assert page.evaluate(FINDINGS) == [], width
    assert page.errors == []
    page.context.close()


def shown_ranks(page, table):
    cells = page.locator(f"#{table} tbody td:nth-child(2)").all_inner_texts()
    return [int(text.replace(",", "")) for text in cells]


@in_browser
def test_its_searches_have_the_ranks_that_python_has(page):
    """Of the text, whose ranks need nothing but the query set; others are computed with these."""
    from daitir.studies.engine.conditions import Condition

    page.select_option("#source", "terse")
    page.select_option("#number", "3")
    asked = Condition("terse", "text", queries="terse", number=10)
    expected = bench().ranks(asked)[3] + 1
    captions = bench().query_set("terse").captions[3]
    seen = [shown_ranks(page, "past-ranks")[0]]
    page.locator("#round").focus()
    for number in range(1, 11):
        page.keyboard.press("ArrowRight")
        seen.append(shown_ranks(page, "past-ranks")[0])
        assert page.locator("#caption").inner_text() == captions[number]
        assert page.locator("#said li:visible").count() == number + 1
        assert f"Round {number}." in page.locator("#past-status").inner_text()
    assert seen == expected.tolist()
    assert page.locator("#later").is_disabled()


@in_browser
def test_the_target_is_marked_among_the_first_ten(page):
    data = json.loads((FOLDER / "dialogues.js").read_text("utf-8").partition(" = ")[2][:-2])
    row = data["dialogues"][0]
    page.locator("#round").fill("10")
    for method, best in row["best"].items():
        page.locator(f"#past-methods input[value={method}]").check()
        marked = page.locator("#past-best li.is-target")
        assert marked.count() == (row["target"] in best[10])
        assert page.locator("#past-best li").count() == 10


@in_browser
@live
def test_words_are_read_as_in_python(engine):
    encoder = bench().base
    expected = [[int(i) for i in row[: int(row.argmax()) + 1]] for row in encoder.tokenizer(ODD)]
    assert engine.evaluate(TOKENS, ODD) == expected


@in_browser
@live
def test_words_find_what_they_find_in_python(engine):
    from daitir.studies.engine.conditions import Condition

    asked = Condition("human", "text", queries="human", number=20)
    texts = [row[-1] for row in bench().words(asked)]
    scores = bench().base.encode_texts(texts) @ bench().gallery_features(asked).T
    number = np.arange(scores.shape[1])
    expected = [np.lexsort((number, -row))[:10].tolist() for row in scores.numpy()]
    found = engine.evaluate(SEARCH, [texts, 0])
    assert [row["text"]["best"] for row in found] == expected


@in_browser
@live
def test_a_view_is_the_one_that_python_draws(engine):
    from daitir.models.views import load_view_generator

    engine.evaluate(NEED, DRAWING)
    words = "a large red car on the left and a small dog at the beach, at sunset"
    drawn = engine.evaluate(DRAW, {"text": words, "seed": 3, "steps": 8, "guidance": 2.0})
    seen = np.array(drawn["pixels"]).reshape(64, 64, 4)[..., :3]
    expected = np.asarray(load_view_generator().draw([words], [3])[0]).astype(int)
    assert np.abs(seen - expected).mean() < 2  # of 255; its weights have eight bits
    feature = bench().base.encode_images([seen.astype(np.uint8)])[0].numpy()
    assert feature @ np.array(drawn["feature"]) > 0.999


@in_browser
@live
def test_live_words_move_the_ranks(page):
    page.locator("#words").fill("a dog")
    page.locator("#live-best li").first.wait_for()
    assert "The target has rank" in page.locator("#live-status").inner_text()
    page.locator("#words").fill("")
    page.get_by_text("Say something first").wait_for()


@in_browser
@live
@pytest.mark.parametrize(
    ("typed", "said"),
    [("x" * 100_000, "Only the first"), ("<img src=x onerror=alert(1)>", "plain words")],
)
def test_bad_input_gets_a_sentence(page, typed, said):
    page.locator("#words").fill(typed)
    page.locator("#live-best li").first.wait_for()
    assert said in page.locator("#live-note").inner_text()


@in_browser
@live
def test_a_drawing_shows_its_steps_and_joins_the_search(page):
    page.locator("#words").fill("a red car at the beach")
    page.locator("#steps").fill("3")
    page.locator("#draw").click()
    page.get_by_text("Drawn in").wait_for()
    assert page.locator("#drawings .strip canvas").count() == 3
    page.locator("#live-methods input[value=dar]:enabled").wait_for()
    assert "by ADaFuSE" in page.locator("#live-status").inner_text()


@in_browser
@live
def test_drawing_stops(page):
    page.locator("#words").fill("a red car at the beach")
    page.locator("#steps").fill("16")
    page.locator("#draw-four").click()
    page.locator("#drawings .strip canvas").first.wait_for()
    page.locator("#stop").click()
    page.locator("#draw:enabled").wait_for()
    assert page.locator("#draw-note").inner_text() == "Stopped."
