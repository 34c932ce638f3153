"""Everything that is wrong with a folder of one's own data, counted."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import SafeFolder
from daitir.data.datafolder import DataFolder, find_data
from daitir.data.derived import refined_from, view_faults, with_sources
from daitir.data.dialogues import (
    Dialogue,
    NearMisses,
    image_name,
    lint_dialogues,
    read_json,
    recognise_convention,
)
from daitir.data.gallery import IMAGE_SUFFIXES, NUM_EXAMPLES, is_animated, read_image, scan_images
from daitir.data.lint_texts import cut_rounds, odd_rounds
from daitir.data.manifests import MANIFEST
from daitir.data.viewfiles import list_views

if TYPE_CHECKING:
    from daitir.models.encoders import Encoder

# COCO calls one picture COCO_val2014_000000000042.jpg and, from 2017 on, 000000000042.jpg.
_NUMBERED = re.compile(r"(?:.*/)?(?:COCO_[a-z]+\d{4}_)?(\d{12})\.jpe?g", re.I)
_OF_COCO = re.compile(r"(?:.*/)?(?:COCO_|(?:train|val|test|unlabeled)20\d\d/)[^/]*", re.I)


@dataclass
class Finding:
    """One kind of thing that is wrong, or, as a warning, likely not meant.

    Attributes:
        where: the file or folder.
        kind: a name that programs can go by, such as `missing_image`.
        is_error: whether the other commands refuse the data because of it.
        messages: one for each time that it was found.
    """

    where: str
    kind: str
    is_error: bool
    messages: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How often it was found."""
        return len(self.messages)

    @property
    def examples(self) -> list[str]:
        """The first few messages."""
        return self.messages[:NUM_EXAMPLES]

    def as_dict(self) -> dict:
        """The finding in the types of JSON."""
        return {
            "where": self.where, "kind": self.kind, "is_error": self.is_error,
            "count": self.count, "messages": self.messages,
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What `lint_data` found: sizes by name, pictures by suffix, and what is wrong."""

    folder: str
    sizes: dict[str, float]
    suffixes: dict[str, int]
    findings: list[Finding]

    @property
    def num_errors(self) -> int:
        """How many things the other commands would refuse."""
        return sum(finding.count for finding in self.findings if finding.is_error)

    def as_dict(self) -> dict:
        """The report in the types of JSON."""
        return {
            "num_errors": self.num_errors, "folder": self.folder, "sizes": self.sizes,
            "suffixes": self.suffixes, "findings": [f.as_dict() for f in self.findings],
        }  # fmt: skip


class _Findings(dict):
    def add(self, where: object, kind: str, message: object, *, is_error: bool = True) -> None:
        where = str(where)
        finding = self.setdefault((where, kind), Finding(where, kind, is_error))
        finding.messages.append(str(message))


def lint_data(
    folder: str | Path,
    *,
    decode: bool = True,
    encoder: Encoder | None = None,
    progress: bool = False,
) -> Report:
    """Look at every file of a folder of own data (format: `daitir.data.datafolder`).

    Errors are what the other commands refuse: dialogues, rewrites or a gallery that cannot be
    read, names of pictures that are not there, pictures and views that cannot be decoded or are
    links that leave their folder, rewrites that do not fit their dialogues or were refined from
    other words, files that are one view, views of another text than their round's
    (`daitir.data.derived`). Warnings: files beside the pictures that are not read, animated
    pictures, equal pictures under two names, dialogues about one picture, in a split or in two,
    rounds that lack a view, files that are no view, and what is odd about the words
    (`daitir.data.lint_texts`).

    With `decode` every picture is decoded, which finds the truncated and the equal ones; without
    it pictures are only looked for. With `encoder` the rounds are counted that it does not read to
    the end. Raises DataError where the folder does not have the format at all.
    """
    data = find_data(folder)
    findings = _Findings()
    sizes: dict[str, float] = {}
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
        if dialogues and encoder:
            cut = _lint_lengths(data, split, dialogues, encoder, findings)
            sizes[f"{split} percent cut"] = round(100 * cut / sum(lengths), 2)
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
    _lint_names(data, gallery, targets, findings)
    _lint_pictures(data, [*names, *_beside(names, gallery)], targets, findings, decode, progress)
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)
    order = sorted(findings.values(), key=lambda finding: not finding.is_error)
    return Report(str(folder), sizes, dict(suffixes.most_common()), order)


def _names(data: DataFolder, findings: _Findings) -> tuple[list[str], list[str]]:
    """The names of all pictures that any command may read, and those of the gallery."""
    names: list[str] = []
    try:
        names, left_out = scan_images(data.images_dir)
        for kind, others in left_out.items():
            for name in others:
                kind = kind.replace(" ", "_")
                findings.add(data.images_dir, kind, f"{name}: left out", is_error=False)
        if not names:
            message = f"holds no image ({', '.join(IMAGE_SUFFIXES)})"
            findings.add(data.images_dir, "no_pictures", message)
    except DataError as error:
        findings.add(data.images_dir, "no_pictures", error)
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
    near_misses = NearMisses(names)
    safe = SafeFolder(data.images_dir)
    for name in _beside(names, gallery):
        # A link that leaves the folder is there, and found among the pictures.
        if not os.path.lexists(safe.folder / name):
            message = f"{name}: no such file in images/{near_misses.hint(name)}"
            findings.add(data.gallery_file, "missing_image", message)
    return names, list(gallery)


def _beside(names: Sequence[str], gallery: Sequence[str]) -> list[str]:
    """Those of a gallery that were not found among the pictures."""
    known = set(names)
    return [name for name in gallery if name not in known]


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
    for oddity in odd_rounds(dialogues, are_captions=False):
        findings.add(path, oddity.kind, oddity, is_error=False)
    if not rewrites.exists():
        try:
            recognise_convention(dialogues)
        except DataError as error:
            findings.add(path, "unknown_text_convention", error, is_error=False)
    else:
        for problem in lint_dialogues(rewrites, allow_duplicate_targets=True):
            findings.add(rewrites, problem.kind, problem)
        refined = _readable(rewrites)
        for oddity in odd_rounds(refined, are_captions=True):
            findings.add(rewrites, oddity.kind, oddity, is_error=False)
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


def _lint_lengths(
    data: DataFolder,
    split: str,
    dialogues: Sequence[Dialogue],
    encoder: Encoder,
    findings: _Findings,
) -> int:
    """How many rounds of a split are cut, of its rewrites where it has some."""
    path, convention = data.rewrites_file(split), "current_rewrite"
    if path.exists():
        dialogues = _readable(path)
    else:
        path = data.dialogue_file(split)
        try:
            convention, _ = recognise_convention(dialogues)
        except DataError:  # told already
            convention = "raw_dialogue"
    cut = list(cut_rounds(dialogues, encoder, convention=convention))
    for oddity in cut:
        findings.add(path, oddity.kind, oddity, is_error=False)
    return len(cut)


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
    safe = SafeFolder(folder)
    for path in files:
        if _lint_file(safe, path.name, findings) and decode:
            _decode(path, folder, findings)
    return len(files)


def _lint_names(
    data: DataFolder, gallery: Sequence[str], targets: dict[str, str], findings: _Findings
) -> None:
    """Names that are likely one picture: a twin ties with its picture, to the ranks' harm."""
    coco: dict[str, list[str]] = {}
    forms: dict[str, list[str]] = {}
    for name in gallery:
        if match := _NUMBERED.fullmatch(name):
            coco.setdefault(match[1], []).append(name)
        if not name.isascii():
            forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    for first, *others in coco.values():
        if others and any(_OF_COCO.fullmatch(name) for name in (first, *others)):
            for name in others:
                _add_twins(data, "equal_numbers", "one picture of COCO", first, name, targets,
                           findings)  # fmt: skip
    for first, *others in forms.values():
        for name in others:
            message = f"{ascii(first)} and {ascii(name)} differ in their Unicode form only"
            findings.add(data.images_dir, "equal_but_for_unicode", message, is_error=False)


def _add_twins(
    data: DataFolder, kind: str, what: str, first: str, second: str, targets: dict[str, str],
    findings: _Findings,
) -> None:  # fmt: skip
    wanted = [name for name in (first, second) if name in targets]
    told = f"; {wanted[0]} is the target of a dialogue" if wanted else ""
    message = f"{first} and {second} are {what}{told}"
    findings.add(data.images_dir, kind, message, is_error=False)


def _lint_pictures(
    data: DataFolder,
    names: Sequence[str],
    targets: dict[str, str],
    findings: _Findings,
    decode: bool,
    progress: bool,
) -> None:
    safe = SafeFolder(data.images_dir)
    first_with: dict[bytes, str] = {}
    bar = tqdm(names, desc="decoding", unit="picture", disable=not progress or not decode)
    for name in bar:
        if not _lint_file(safe, name, findings) or not decode:
            continue
        if digest := _decode(safe.folder / name, safe.folder, findings):
            earlier = first_with.setdefault(digest, name)
            if earlier != name:
                _add_twins(data, "equal_pictures", "the same picture", earlier, name, targets,
                           findings)  # fmt: skip


def _lint_file(safe: SafeFolder, name: str, findings: _Findings) -> bool:
    """Whether a picture is a file in its folder, which is found without reading it."""
    try:
        path = safe.join(name)
    except DataError as error:
        findings.add(safe.folder, "link_outside", error)
        return False
    if not path.is_file():
        if os.path.lexists(path):  # else it is missing, and told where it was named
            message = f"{name}: a folder, a pipe, a device or a link to nothing, and no picture"
            findings.add(safe.folder, "no_file", message)
        return False
    return True


def _decode(path: Path, folder: Path, findings: _Findings) -> bytes | None:
    """A hash of the pixels, None where they cannot be read."""
    try:
        image = read_image(path)
        animated = is_animated(path)
    except DataError as error:
        findings.add(folder, "unreadable_image", error)
        return None
    if animated:
        message = f"{path}: animated or of several pages, of which the first is taken"
        findings.add(folder, "animated", message, is_error=False)
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()
