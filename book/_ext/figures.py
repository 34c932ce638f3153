"""The directive `figures`: every picture of the chapters with its number, section and alt text.

Pictures are those that MyST-NB writes for the chapters; the page shows small copies of them.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import nbformat
from docutils import nodes
from mdit_py_plugins.anchors.index import slugify, unique_slug
from PIL import Image
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from daitir.book.provenance import all_notebooks

NOTEBOOKS = all_notebooks()
KINDS = {"image/svg+xml": ".svg", "image/png": ".png"}  # the first one that an output has is shown


class Figure(NamedTuple):
    number: str  # such as 4.2: the second picture of chapter 4; A4.2 of its appendix
    section: str
    slug: str
    image: str  # file name, as MyST-NB gives it
    alt: str


def image_name(kind: str, data: str) -> str:
    """The name that MyST-NB gives a picture, a hash of its content."""
    lines = "\n".join(data.splitlines())
    content = lines.encode() if kind == "image/svg+xml" else base64.b64decode(data)
    return hashlib.sha256(content).hexdigest() + KINDS[kind]


def small(image: str) -> str:
    """The name of a picture's small copy; a drawing is light as it is."""
    return image if image.endswith(".svg") else f"small-{Path(image).stem}.webp"


def title_of(path: Path) -> str:
    return re.match(r"# (.*)", nbformat.read(path, as_version=4).cells[0].source)[1]


def number_of(path: Path) -> str:
    """Of a chapter, or of its appendix."""
    return ("A" if path.parent.name == "appendix" else "") + str(int(path.name[:2]))


def figures_of(path: Path) -> list[Figure]:
    """The pictures of a chapter in their order."""
    found, slugs, section, slug = [], set(), "", ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            plain = re.sub(r"^(```+).*?^\1", "", cell.source, flags=re.M | re.S)
            for section in re.findall(r"^#{1,3} +(.*?) *$", plain, re.M):
                slug = unique_slug(slugify(section), slugs)
            continue
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for kind in [kind for kind in KINDS if kind in data][:1]:
                number = f"{number_of(path)}.{len(found) + 1}"
                found.append(Figure(number, section, slug, image_name(kind, data[kind]), alt))
    return found


def as_markdown() -> str:
    parts = []
    for path in NOTEBOOKS:
        parts.append(f"## {number_of(path)}. {title_of(path)}")
        for figure in figures_of(path):
            anchor = "figure-" + figure.number.replace(".", "-")
            link = f"../{path.parent.name}/{path.name}#{figure.slug}"
            alt = f"Figure {figure.number}, described below"
            parts += [
                f'<img id="{anchor}" class="figure-of-list" loading="lazy" '
                f'src="../_images/{small(figure.image)}" alt="{alt}">',
                f"**Figure {figure.number}**, in [{figure.section}]({link}). {figure.alt}",
            ]
    return "\n\n".join(parts) + "\n"


class Figures(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        for path in NOTEBOOKS:
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(as_markdown(), allow_section_headings=True)


def copy_pictures(app, exception):
    """Makes the small copies; fails the build if a picture is named that no chapter carries."""
    if exception or app.builder.format != "html":
        return
    named = {figure.image for path in NOTEBOOKS for figure in figures_of(path)}
    missing = [name for name in named if not (Path(app.outdir) / "_images" / name).is_file()]
    if missing:
        raise ExtensionError(f"book/figures.md names {len(missing)} pictures of no chapter")
    folder = Path(app.outdir) / "_images"
    for name in named:
        if small(name) != name:
            with Image.open(folder / name) as picture:
                picture.thumbnail((640, 480))
                picture.convert("RGB").save(folder / small(name), quality=75)


def setup(app):
    app.add_directive("figures", Figures)
    app.connect("build-finished", copy_pictures)
    return {"version": "1", "parallel_read_safe": True}
