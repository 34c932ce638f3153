"""Write `book/references.md` from `book/references.bib`: a heading for each entry, to link to.

    python book/make_references.py
"""

from collections import Counter
from pathlib import Path
from string import ascii_lowercase

from pybtex.database import Entry, Person, parse_file

BOOK = Path(__file__).resolve().parent
OPENING = """# References

Fields that we could not verify are left out of the entries. What we know of each paper, and from
where, stands in [Published numbers](published.md). The same list for a reference manager is
[references.bib](references.bib).
"""


def name_of(person: Person) -> str:
    return " ".join(_plain(part) for part in person.prelast_names + person.last_names)


def labels_of(entries: dict[str, Entry]) -> dict[str, str]:
    """By key what prose calls an entry: `Long et al. 2025`, with a letter where two are alike."""
    labels = {}
    for key, entry in entries.items():
        names = [name_of(person) for person in entry.persons.get("author", [])]
        who = names[0] if names else entry.fields["key"]
        if len(names) == 2 and names[1] != "others":
            who += f" and {names[1]}"
        elif len(names) > 1:
            who += " et al."
        labels[key] = f"{who} {entry.fields['year']}"
    alike, letters = Counter(labels.values()), Counter()
    for key, label in labels.items():
        if alike[label] > 1:
            labels[key] += ascii_lowercase[letters[label]]
            letters[label] += 1
    return labels


def described(entry: Entry) -> str:
    """Authors, title, place and links of an entry, in a paragraph."""
    fields = {name: _plain(value) for name, value in entry.fields.items()}
    people = [str(person) for person in entry.persons.get("author", [])]
    names = [" ".join(reversed(_plain(person).split(", "))) for person in people]
    if names[-1:] == ["others"]:
        names[-1] = "et al"
    parts = [", ".join(names), f"*{fields['title']}*"]
    place = [fields.get(name) for name in ("booktitle", "journal", "publisher")]
    if "volume" in fields:
        place.append(fields["volume"] + (f"({fields['number']})" if "number" in fields else ""))
    parts.append(", ".join([*filter(None, [*place, fields.get("pages")]), fields["year"]]))
    if "eprint" in fields:
        paper = fields["eprint"]
        parts.append(f"[arXiv:{paper}](https://arxiv.org/abs/{paper})")
    if "note" in fields:
        code = fields["note"].removeprefix("Code: ")
        parts.append(f"Code: [{code}](https://{code})")
    return ". ".join(filter(None, parts)) + "."


def references(path: Path) -> str:
    """The page of a file of entries, sorted by label."""
    entries = parse_file(path).entries
    labels = labels_of(entries)
    order = sorted(entries, key=lambda key: labels[key].lower())
    blocks = [f"### {labels[key]}\n\n{described(entries[key])}\n" for key in order]
    return "\n".join([OPENING, "## By author\n", *blocks])


def _plain(text: str) -> str:
    """Without the marks of TeX."""
    return text.replace("{\\'e}", "é").replace("{", "").replace("}", "").replace("--", "–")


if __name__ == "__main__":
    text = references(BOOK / "references.bib")
    (BOOK / "references.md").write_text(text, "utf-8")
