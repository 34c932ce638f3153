"""The page of references is what its script makes of the entries."""

import importlib.util
from pathlib import Path

BOOK = Path(__file__).resolve().parents[2] / "book"
spec = importlib.util.spec_from_file_location("make_references", BOOK / "make_references.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def test_the_page_is_up_to_date():
    made = script.references(BOOK / "references.bib")
    assert (BOOK / "references.md").read_text("utf-8") == made, "python book/make_references.py"


def test_entries_with_one_label_get_letters(tmp_path):
    entry = "@misc{{{key}, title={{T}}, author={{{names}}}, year={{2026}}}}\n"
    authors = {
        "a": "Li, Ann and Wu, Bo and Xu, Cy",
        "b": "Li, Dee and others",
        "c": "Li, A and Wu, B",
    }
    path = tmp_path / "x.bib"
    path.write_text("".join(entry.format(key=k, names=n) for k, n in authors.items()), "utf-8")
    labels = script.labels_of(script.parse_file(path).entries)
    assert labels == {"a": "Li et al. 2026a", "b": "Li et al. 2026b", "c": "Li and Wu 2026"}
    assert "Dee Li, et al. *T*. 2026." in script.references(path)
