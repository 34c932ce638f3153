"""The explorer beside Python on one machine: what it finds, what it draws, and how long it takes.

`make book` builds the page; a browser opens it from its file. Times are the best of several.
"""

import time
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright

from daitir.models.views import load_view_generator
from daitir.studies.engine.bench import Bench
from daitir.studies.engine.conditions import Condition
from daitir.studies.profiles import get_profile

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "_build" / "html" / "explorer" / "index.html"
NUM_TEXTS, NUM_VIEWS, TOP, STEPS = 200, 8, 10, 8
WORDS = ["wasm", "facts", "text", "gallery"]
DRAWING = ["words", "denoise", "decode", "image"]
SEARCH = """async ([texts, target, count]) => {
  const all = [];
  for (const text of texts) {
    const begun = performance.now();
    const {found} = await EXPLORER.ask("search", {text, round: 0, target, count});
    all.push([found.text.best, performance.now() - begun]);
  }
  return all;
}"""
DRAW = """async (options) => {
  const begun = performance.now();
  const {pixels} = await EXPLORER.ask("draw", options, () => {});
  return [Array.from(pixels), performance.now() - begun];
}"""


def timed(call):
    begun = time.perf_counter()
    return call(), 1000 * (time.perf_counter() - begun)


def main() -> None:
    torch.set_num_threads(1)  # as the page
    bench = Bench(get_profile("classroom"), None, Path("unused"), Path("unused"))
    asked = Condition("human", "text", queries="human", number=NUM_TEXTS)
    texts = [row[-1] for row in bench.words(asked)]
    gallery, generator = bench.gallery_features(asked), load_view_generator(steps=STEPS)
    number = np.arange(len(gallery))

    def search(text):
        scores = (bench.base.encode_texts([text]) @ gallery.T)[0].numpy()
        return np.lexsort((number, -scores))[:TOP].tolist()

    expected, python_ms = zip(*(timed(lambda t=t: search(t)) for t in texts), strict=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", chromium_sandbox=False, args=["--disable-gpu"]
        )
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(PAGE.as_uri())
        page.locator("body[data-ready]").wait_for()
        load = "async (names) => { await EXPLORER.need(...names); }"
        _, first_ms = timed(lambda: page.evaluate(load, WORDS))
        found, page_ms = zip(*page.evaluate(SEARCH, [texts, 0, TOP]), strict=True)
        same = np.mean([a == b for a, b in zip(expected, found, strict=True)])
        as_sets = np.mean([set(a) == set(b) for a, b in zip(expected, found, strict=True)])
        print(f"first ten equal, in order {same:.1%}, as sets {as_sets:.1%}, of {NUM_TEXTS} texts")
        print(f"words load in {first_ms:.0f} ms; a search takes {min(page_ms):.0f} ms there and "
              f"{min(python_ms):.0f} in Python")  # fmt: skip
        page.evaluate(load, DRAWING)
        mean, most, times, python_times = [], [], [], []
        for seed, text in enumerate(texts[:NUM_VIEWS]):
            options = {"text": text, "seed": seed, "steps": STEPS, "guidance": 2.0}
            pixels, ms = page.evaluate(DRAW, options)
            view, python = timed(lambda t=text, s=seed: generator.draw([t], [s])[0])
            gap = np.abs(
                np.array(pixels).reshape(64, 64, 4)[..., :3] - np.asarray(view).astype(int)
            )
            mean, most = [*mean, gap.mean()], [*most, gap.max()]
            times, python_times = [*times, ms], [*python_times, python]
        print(f"views differ by {np.mean(mean):.2f} of 255 in the mean, at most {max(most)}; one "
              f"takes {min(times):.0f} ms there and {min(python_times):.0f} in Python")  # fmt: skip
        browser.close()


if __name__ == "__main__":
    main()
