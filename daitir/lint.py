"""Everything that is wrong with a folder of one's own data, counted, with the first examples."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from daitir.datafolder import DataFolder, find_data
from daitir.derived import refined_from, view_faults, with_sources
from daitir.dialogues import Dialogue, image_name, lint_dialogues, read_json
from daitir.errors import DataError
from daitir.files import safe_join
from daitir.gallery import list_images, read_image
from daitir.manifests import MANIFEST
from daitir.viewfiles import list_views

NUM_EXAMPLES = 3
MOJIBAKE = "\N{REPLACEMENT CHARACTER}"  # what text read in the wrong encoding is left with


@dataclass
class Finding:
    """One kind of thing that is wrong, or, as a warning, likely not meant.

    Attributes:
        where: the file or folder.
        kind: a name that programs can go by, such as `missing_image`.
        is_error: whether the other commands refuse the data because of it.
        count: how often it was found.
        examples: messages about the first of them.
    """

    where: str
    kind: str
    is_error: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What `lint_data` found: sizes by name, and what is wrong."""

    folder: str
    sizes: dict[str, int]
    findings: list[Finding]

    @property
    def num_errors(self) -> int:
        """How many things the other commands would refuse."""
        return sum(finding.count for finding in self.findings if finding.is_error)

    def as_dict(self) -> dict:
        """The report in the types of JSON."""
        return {"num_errors": self.num_errors, **asdict(self)}


class _Findings(dict):
    def add(self, where: object, kind: str, message: object, *, is_error: bool = True) -> None:
        where = str(where)
        finding = self.setdefault((where, kind), Finding(where, kind, is_error))
        finding.count += 1
        if len(finding.examples) < NUM_EXAMPLES:
            finding.examples.append(str(message))


def lint_data(folder: str | Path, *, decode: bool = True, progress: bool = False) -> Report:
    """Look at every file of a folder of own data (format: `daitir.datafolder`).

    Errors are what the other commands refuse: dialogues, rewrites or a gallery that cannot be
    read, names of pictures that are not there, pictures and views that cannot be decoded, rewrites
    that do not fit their dialogues or were refined from other words, files that are one view, views
    of another text than their round's (`daitir.derived`). Warnings: dialogues about one picture, in
    a split or in two, equal pictures under two names, rounds that lack a view, files that are no
    view, text that was read in a wrong encoding.

    With `decode` every picture is decoded, which finds the truncated ones; without it pictures
    are only looked for. Raises DataError where the folder does not have the format at all.
    """
    data = find_data(folder)
    findings = _Findings()
    sizes: dict[str, int] = {}
    names, gallery = _names(data, findings)
    sizes["pictures"], sizes["gallery"] = len(names), len(gallery)
    targets: dict[str, str] = {}
    for split in data.dialogues:
        dialogues, refined = _lint_split(data, split, gallery, findings)
        sizes[f"{split} dialogues"] = len(dialogues)
        if dialogues:
            lengths = [len(dialogue.rounds) for dialogue in dialogues]
            sizes[f"{split} rounds"] = sum(lengths)
            sizes[f"{split} shortest dialogue"] = min(lengths)
            sizes[f"{split} longest dialogue"] = max(lengths)
        for number, dialogue in enumerate(dialogues):
            earlier = targets.setdefault(dialogue.image, split)
            if earlier != split:
                message = f"dialogue {number}: {dialogue.image} is a target of {earlier} too"
                findings.add(data.dialogues[split], "target_in_two_splits", message, is_error=False)
        folder = data.views_dir(split)
        if folder.is_dir():
            sizes[f"{split} views"] = _lint_views(folder, dialogues, refined, findings, decode)
            if sizes[f"{split} views"] and not (folder / MANIFEST).is_file():
                sizes[f"{split} views without a manifest"] = sizes[f"{split} views"]
    _lint_pictures(data, names, findings, decode, progress)
    order = sorted(findings.values(), key=lambda finding: not finding.is_error)
    return Report(str(folder), sizes, order)


def _names(data: DataFolder, findings: _Findings) -> tuple[list[str], list[str]]:
    """The names of all pictures that any command may read, and those of the gallery."""
    try:
        names = list_images(data.images_dir)
    except DataError as error:
        findings.add(data.images_dir, "no_pictures", error)
        names = []
    if not data.gallery_file:
        return names, names
    try:
        content = read_json(data.gallery_file)
    except DataError as error:
        findings.add(data.gallery_file, "unreadable", error)
        return names, names
    if not isinstance(content, list) or not content:
        findings.add(data.gallery_file, "not_a_list", "must be a non-empty JSON list of paths")
        return names, names
    gallery: dict[str, int] = {}
    for index, entry in enumerate(content):
        try:
            name = image_name(entry)
        except DataError as error:
            findings.add(data.gallery_file, "image_path", f"entry {index}: {error}")
            continue
        if gallery.setdefault(name, index) != index:
            message = f"entries {gallery[name]} and {index} are the same image {name!r}"
            findings.add(data.gallery_file, "named_twice", message)
    known = set(names)
    for name in gallery:
        if name not in known and not _is_file(data, name):
            findings.add(data.gallery_file, "missing_image", f"{name}: no such file in images/")
    return names, list(gallery)


def _is_file(data: DataFolder, name: str) -> bool:
    try:
        return safe_join(data.images_dir, name).is_file()
    except DataError:
        return False


def _lint_split(
    data: DataFolder, split: str, gallery: Sequence[str], findings: _Findings
) -> tuple[list[Dialogue], list[Dialogue]]:
    """The dialogues as far as they can be read, and sound rewrites of them.

    A dialogue that cannot be read has no place in it.
    """
    path, rewrites = data.dialogue_file(split), data.rewrites_file(split)
    for problem in lint_dialogues(path, gallery=gallery):
        is_error = problem.kind != "duplicate_target"
        findings.add(path, problem.kind, problem, is_error=is_error)
    dialogues, fitting = _readable(path), []
    for number, dialogue in enumerate(dialogues):
        for t, text in enumerate(dialogue.rounds):
            if MOJIBAKE in text:
                message = f"dialogue {number}: round {t} holds {MOJIBAKE!r}, lost in an encoding"
                findings.add(path, "lost_character", message, is_error=False)
    if rewrites.exists():
        for problem in lint_dialogues(rewrites, allow_duplicate_targets=True):
            findings.add(rewrites, problem.kind, problem)
        refined = _readable(rewrites)
        if len(refined) != len(dialogues):
            message = f"{len(refined):,} dialogues, but {path.name} has {len(dialogues):,}"
            findings.add(rewrites, "other_dialogues", message)
        for number, (ours, theirs) in enumerate(zip(dialogues, refined, strict=False)):
            if (ours.image, len(ours.rounds)) != (theirs.image, len(theirs.rounds)):
                message = (
                    f"dialogue {number}: {len(theirs.rounds)} rounds about {theirs.image}, but "
                    f"{path.name} has {len(ours.rounds)} about {ours.image}"
                )
                findings.add(rewrites, "other_dialogues", message)
        try:
            refined = with_sources(rewrites, refined)
            if not findings.keys() & {(str(rewrites), "other_dialogues")}:
                fitting = refined_from(rewrites, refined, path, dialogues)
        except DataError as error:
            findings.add(rewrites, "refined_from_other_words", error)
    return dialogues, fitting


def _readable(path: Path) -> list[Dialogue]:
    """Every dialogue with rounds of text, wherever its picture is."""
    try:
        content = read_json(path)
    except DataError:
        return []
    dialogues = []
    for entry in content if isinstance(content, list) else []:
        rounds = entry.get("dialog") if isinstance(entry, dict) else None
        if isinstance(rounds, list) and rounds and all(isinstance(r, str) for r in rounds):
            image = entry.get("img")
            try:
                dialogues.append(Dialogue(image_name(image), tuple(rounds)))
            except DataError:
                dialogues.append(Dialogue(str(image), tuple(rounds)))
    return dialogues


def _lint_views(
    folder: Path,
    dialogues: Sequence[Dialogue],
    refined: Sequence[Dialogue],
    findings: _Findings,
    decode: bool,
) -> int:
    found = list_views(folder, [len(dialogue.rounds) for dialogue in dialogues])
    for dialogue, t in found.missing():
        findings.add(folder, "missing_view", f"{dialogue}_{t}: no view", is_error=False)
    for path in found.strays:
        message = f"{path.name}: no view of these dialogues"
        findings.add(folder, "stray_file", message, is_error=False)
    for first, second in found.doubles:
        findings.add(folder, "one_view_twice", f"{first.name} and {second.name} are one view")
    try:
        for fault in view_faults(folder, dialogues, found.views, also=refined, decode=decode):
            findings.add(folder, "view_of_another_text", fault)
    except DataError as error:
        findings.add(folder, "unreadable", error)
    files = [path for rounds in found.views for views in rounds for path in views]
    for path in files if decode else ():
        _decode(path, folder, findings)
    return len(files)


def _lint_pictures(
    data: DataFolder, names: Sequence[str], findings: _Findings, decode: bool, progress: bool
) -> None:
    if not decode:
        return
    by_size = defaultdict(list)
    for name in tqdm(names, desc="decoding", unit="picture", disable=not progress):
        path = data.images_dir / name
        if _decode(path, data.images_dir, findings):
            by_size[path.stat().st_size].append(name)
    first_with: dict[str, str] = {}
    for same_size in by_size.values():
        for name in same_size if len(same_size) > 1 else ():
            digest = hashlib.sha256((data.images_dir / name).read_bytes()).hexdigest()
            earlier = first_with.setdefault(digest, name)
            if earlier != name:
                message = f"{earlier} and {name} are the same picture"
                findings.add(data.images_dir, "equal_pictures", message, is_error=False)


def _decode(path: Path, folder: Path, findings: _Findings) -> bool:
    try:
        read_image(path)
    except DataError as error:
        findings.add(folder, "unreadable_image", error)
        return False
    return True
