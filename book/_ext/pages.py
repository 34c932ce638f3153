"""Pages that read well on a phone and to a screen reader, and carry no file that none loads."""

import re
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Tag
from docutils import nodes

# Of MathJax: what pages load, and what a formula's own menu adds for who reads by ear.
MATHJAX = {
    "tex-chtml.js", "input/tex/extensions/**", "output/chtml/**",
    "a11y/**", "ui/**", "input/mml.js", "sre/mathmaps/base.json", "sre/mathmaps/en.json",
}  # fmt: skip
MENDED = {
    '<summary aria-label="Toggle hidden content">': "<summary>",  # hid what the element says
    '<th class="head"><p></p></th>': "<td></td>",
}
NARROW = 36  # columns of code that every screen shows without a break
SHORT = 26  # characters that a cell of a table keeps on one line, an interval's among them


def is_blank(cell: Tag) -> bool:
    return not cell.get_text(strip=True) and cell.find("img") is None


def join_heads(head: Tag) -> None:
    """Set the names of the index, a row of their own in pandas' tables, before the columns' names.

    A head whose two rows both name a column stays as it is.
    """
    rows = head.find_all("tr")
    cells = [row.find_all(["th", "td"]) for row in rows]
    if len(rows) != 2 or len(cells[0]) != len(cells[1]) or head.find(colspan=True):
        return
    pairs = list(zip(*cells, strict=True))
    if all(is_blank(above) or is_blank(below) for above, below in pairs):
        for above, below in pairs:
            if is_blank(above):
                above.replace_with(below)
        rows[1].decompose()


def mend_tables(html: str) -> str:
    """Give a cell's tables heads that name something, and mark what stays on one line."""
    soup = BeautifulSoup(html, "html.parser")
    for table in soup.find_all("table", class_="dataframe"):
        if table.thead is not None:
            join_heads(table.thead)
        for cell in table.find_all("th"):
            if is_blank(cell):
                cell.name = "td"
            else:
                cell["scope"] = "col" if cell.find_parent("thead") else "row"
        for cell in table.find_all(["th", "td"]):
            if len(cell.get_text(strip=True)) <= SHORT:
                cell["class"] = "short"
    return str(soup)


def mend_outputs(app, doctree: nodes.document, docname: str) -> None:
    for node in doctree.findall(nodes.raw):
        if "dataframe" in node.astext():
            node.children = [nodes.Text(mend_tables(node.astext()))]
            node.rawsource = node.astext()


def mark_line(line: str) -> str:
    """Tell the style sheet how far a long line of code is indented, to wrap it below itself."""
    text = re.sub(r"<[^>]*>", "", line)
    if len(text) <= NARROW:
        return line
    indent = len(text) - len(text.lstrip(" "))
    return f'<span class="line" style="--indent:{indent}">{line}</span>'


def mark_lines(code: re.Match) -> str:
    return code[1] + "\n".join(map(mark_line, code[2].split("\n"))) + code[3]


def mend_page(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    body = context.get("body", "")
    for before, after in MENDED.items():
        body = body.replace(before, after)
    context["body"] = re.sub(r"(?s)(<pre><span></span>)(.*?)(</pre>)", mark_lines, body)


def name_toggles(app, error: Exception | None) -> None:
    """Name what opens an appendix in the sidebar, which the theme writes without a name."""
    if error is None and app.builder.format == "html":
        toggle = '<span class="toctree-toggle"'
        for page in Path(app.outdir).rglob("*.html"):
            html = page.read_text("utf-8")
            named = html.replace(f"<summary>{toggle}", f'<summary aria-label="Appendix">{toggle}')
            if named != html:
                page.write_text(named, "utf-8")


def drop_unused(app, error: Exception | None) -> None:
    """Delete what no page loads: most of MathJax, and maps to the sources of scripts and styles."""
    if error is not None:
        return
    static = Path(app.outdir) / "_static"
    mathjax = static / "mathjax"
    kept = {file for pattern in MATHJAX for file in mathjax.glob(pattern)}
    kept |= {file for folder in kept if folder.is_dir() for file in folder.iterdir()}
    for file in [*mathjax.rglob("*"), *static.rglob("*.map")]:
        if file.is_file() and file not in kept:
            file.unlink()


def setup(app):
    app.connect("doctree-resolved", mend_outputs)
    app.connect("html-page-context", mend_page)
    app.connect("build-finished", name_toggles)
    app.connect("build-finished", drop_unused, priority=900)  # after MathJax was copied
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
