"""The directive `chapters`, numbers in the sidebar, and what a page tells to other sites.

Where the book is published, `BOOK_REPOSITORY` is the address of its repository, `BOOK_HUB` that of
a Binder hub, and `BOOK_ADDRESS` its own. With the first, pages get a link to the repository and
buttons that open a chapter elsewhere; without it there are none, since they would lead nowhere.
"""

import base64
import io
import json
import os
import re
from html import escape, unescape
from pathlib import Path

import matplotlib
import resvg_py
from docutils import nodes
from PIL import Image, ImageOps
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = re.compile(r"notebooks/(\d\d)_\w+")
WORDS_A_MINUTE = 150  # slower than a novel: there is code between the words
CARD, CARD_SIZE, PICTURE_SIZE = "_static/card.png", (1200, 630), (320, 140)
ABOUT = (
    "Diffusion-augmented interactive text-to-image retrieval, as a book that runs: "
    "DAR, ADaFuSE and DMCL rebuilt, and measured with intervals."
)


class Chapter:
    """What a card says of a notebook."""

    def __init__(self, name: str) -> None:
        cells = json.loads((ROOT / f"{name}.ipynb").read_text("utf-8"))["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        shown = [out.get("data", {}) for cell in cells for out in cell.get("outputs", [])]
        said = ["".join(data["text/markdown"]) for data in shown if "text/markdown" in data]
        self.number = int(CHAPTER.fullmatch(name)[1])
        self.title = re.match(r"# (.+)", prose[0])[1]
        self.reading = round(len(" ".join(prose + said).split()) / WORDS_A_MINUTE)
        self.running = re.search(r"\*\*Run time\*\* classroom ([^·.;]+?) *[·.;]", prose[1])[1]
        self.figure = next(("".join(d["image/png"]) for d in shown if "image/png" in d), None)

    def picture(self) -> Image.Image | None:
        """The first figure, cut to the size of a card."""
        if self.figure is None:
            return None
        figure = Image.open(io.BytesIO(base64.b64decode(self.figure))).convert("RGB")
        return ImageOps.fit(figure, PICTURE_SIZE, centering=(0.0, 0.0))


class Chapters(SphinxDirective):
    """Cards of chapters; a line is `notebooks/NN_name: what happens there`."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        cards = []
        for line in self.content:
            name, _, sentence = line.partition(": ")
            self.env.note_dependency(str(ROOT / f"{name}.ipynb"))
            chapter = Chapter(name)
            picture = (
                f'<img src="../_images/chapter_{chapter.number:02}.webp" alt="" loading="lazy" '
                f'width="{PICTURE_SIZE[0]}" height="{PICTURE_SIZE[1]}">'
            )
            cards.append(
                f'<li><a href="../{name}.html">{picture if chapter.figure else ""}'
                f"<strong>{chapter.number} · {escape(chapter.title)}</strong></a>"
                f"<span>{escape(sentence)}</span>"
                f"<small>{chapter.reading} min to read · runs in {chapter.running}</small></li>"
            )
        return [nodes.raw("", f'<ul class="chapters">{"".join(cards)}</ul>', format="html")]


def number_chapters(app, doctree) -> None:
    """Chapters carry in the sidebar the numbers of their files, which the text calls them by."""
    for toctree in doctree.findall(addnodes.toctree):
        toctree["entries"] = [
            (f"{chapter.number} · {chapter.title}", name)
            if CHAPTER.fullmatch(name) and (chapter := Chapter(name))
            else (title, name)
            for title, name in toctree["entries"]
        ]


def set_addresses(app, config) -> None:
    options = config.html_theme_options
    options["navbar_persistent"] = []  # else a second search box stands above the page
    if repository := os.environ.get("BOOK_REPOSITORY"):
        options |= {"repository_url": repository, "repository_branch": "main",
                    "use_repository_button": True}  # fmt: skip
        options["launch_buttons"] = {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": os.environ.get("BOOK_HUB", ""),
            "notebook_interface": "jupyterlab",
        }
    config.html_baseurl = os.environ.get("BOOK_ADDRESS", config.html_baseurl)


def add_tags(app, pagename, templatename, context, doctree) -> None:
    """What other sites show of a link. Most of them want the picture with its full address."""
    base = app.config.html_baseurl
    card = f"{base.rstrip('/')}/{CARD}" if base else context["pathto"](CARD, 1)
    tags = {
        "og:type": "website", "og:site_name": app.config.html_title,
        "og:title": unescape(re.sub("<.*?>", "", context.get("title", app.config.html_title))),
        "og:description": ABOUT, "og:image": card, "og:image:alt": "Gains with their intervals",
        "og:image:width": CARD_SIZE[0], "og:image:height": CARD_SIZE[1],
    }  # fmt: skip
    if base:
        tags["og:url"] = f"{base.rstrip('/')}/{context['pathto'](pagename).rpartition('../')[2]}"
    lines = [f'<meta property="{k}" content="{escape(str(v))}"/>' for k, v in tags.items()]
    lines += [f'<meta name="description" content="{escape(ABOUT)}"/>',
              '<meta name="twitter:card" content="summary_large_image"/>']  # fmt: skip
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def draw_card() -> bytes:
    """The social card: the front page's figure beside the name."""
    hero = (ROOT / "book" / "images" / "hero.svg").read_text("utf-8")
    place = 'x="690" y="15" width="500" height="600"'
    hero = re.sub(r'width="\d+" height="\d+"', place, hero, count=1)
    lines = (
        "Diffusion-augmented",
        "interactive text-to-image",
        "retrieval, as a book",
        "that runs",
    )
    text = "".join(f'<text x="60" y="{270 + 56 * i}">{line}</text>' for i, line in enumerate(lines))
    width, height = CARD_SIZE
    return bytes(resvg_py.svg_to_bytes(
        svg_string=f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<rect width="100%" height="100%" fill="#fff"/><g font-family="sans-serif" font-size="42">'
        f'<text x="56" y="180" font-size="96" font-weight="bold">daitir</text>{text}</g>'
        f"{hero}</svg>",
        skip_system_fonts=True, sans_serif_family="DejaVu Sans", font_family="DejaVu Sans",
        font_dirs=[f"{matplotlib.get_data_path()}/fonts/ttf"],
    ))  # fmt: skip


def write_pictures(app, exception) -> None:
    """The card, and the pictures of the chapters: the build makes them, so none is committed."""
    if exception or app.builder.format != "html":
        return
    (Path(app.outdir) / CARD).write_bytes(draw_card())
    (folder := Path(app.outdir) / "_images").mkdir(exist_ok=True)
    for name in filter(CHAPTER.fullmatch, app.env.found_docs):
        chapter = Chapter(name)
        if picture := chapter.picture():
            picture.save(folder / f"chapter_{chapter.number:02}.webp", quality=70, method=6)


def setup(app):
    app.add_directive("chapters", Chapters)
    app.connect("config-inited", set_addresses, priority=900)
    app.connect("doctree-read", number_chapters, priority=900)  # after the toctrees are put in
    app.connect("html-page-context", add_tags)
    app.connect("build-finished", write_pictures)
    return {"version": "1", "parallel_read_safe": True}
