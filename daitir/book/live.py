"""Live search: one dialogue over a gallery, as a class and as a widget, as in `daitir search`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from daitir.common.errors import DataError
from daitir.fusion import dar_fusion
from daitir.models.encoders import Encoder
from daitir.models.views import ViewGenerator, view_seed
from daitir.retrieval import first_equal

if TYPE_CHECKING:
    from ipywidgets import VBox

    from daitir.models.reformulation import Reformulator

_WIDGET_PIXELS = 96


class LiveRound(NamedTuple):
    """What one round of a live search did."""

    said: str  # the words of the round
    caption: str  # all words so far, refined into one caption, or joined
    view: Image.Image | None  # the picture drawn from the caption, where pictures are drawn
    ranking: Tensor  # (num_images,) indices of the gallery, best first, pictures that tie by index
    scores: Tensor  # (num_images,) the score of each picture of the gallery


class LiveSearch:
    """A search that goes on: each `say` refines, draws, fuses as DAR does, and ranks."""

    def __init__(
        self,
        image_features: Tensor,
        encoder: Encoder,
        reformulator: Reformulator | None = None,
        generator: ViewGenerator | None = None,
        *,
        seed: int = 0,
    ):
        """Search a gallery by its features, (num_images, dim).

        Without a reformulator words are joined by `", "`, without a generator they search alone.
        """
        self.image_features, self.encoder = image_features, encoder
        self._firsts = first_equal(image_features)  # equal pictures get one score
        self.reformulator, self.generator, self.seed = reformulator, generator, seed
        self.rounds: list[LiveRound] = []

    def say(self, words: str) -> LiveRound:
        """One more round: a description at first, then a question with its answer.

        Raises DataError where nothing is said.
        """
        if not words.strip():
            raise DataError("nothing was said; describe the picture, or answer the question")
        t = len(self.rounds)
        dialogue = [*(r.said for r in self.rounds), words]
        caption, view = ", ".join(dialogue), None
        if self.reformulator:
            caption = self.reformulator.refine([dialogue]).captions[0][-1]
        query = self.encoder.encode_texts([caption], batch_size=1)
        if self.generator:
            view = self.generator.draw([caption], [view_seed(self.seed, 0, t)])[0]
            query = dar_fusion(query, self.encoder.encode_images([view], batch_size=1), round=t)
        scores = (self.image_features @ query[0])[self._firsts]
        ranking = scores.argsort(descending=True, stable=True)
        self.rounds.append(LiveRound(words, caption, view, ranking, scores))
        return self.rounds[-1]

    def undo(self) -> None:
        """Take the last round back, where there is one."""
        del self.rounds[-1:]


def live_widget(
    search: LiveSearch,
    images: Sequence[np.ndarray],
    *,
    ask: Callable[[LiveSearch], str] | None = None,
    num_shown: int = 10,
) -> VBox:
    """A live search in a notebook: a line to type in, the view, and the best pictures.

    `images` are the gallery's pictures, uint8 (height, width, 3), in the order of its features.
    `ask` gives the next question after each round; it is shown, and said with the answer.
    """
    import ipywidgets  # late: only notebooks need it

    field = ipywidgets.Text(placeholder="describe the picture", continuous_update=False)
    question, caption = ipywidgets.Label(), ipywidgets.Label()
    view, best = ipywidgets.HBox([]), ipywidgets.HBox(layout={"flex_flow": "row wrap"})

    def picture(image: Image.Image) -> ipywidgets.Image:
        buffer = io.BytesIO()
        ImageOps.pad(image, (_WIDGET_PIXELS,) * 2, color="white").save(buffer, "png")
        return ipywidgets.Image(value=buffer.getvalue(), format="png")

    def answered(change: dict) -> None:
        if not change["new"].strip():
            return
        latest = search.say(f"{question.value} {change['new']}".strip())
        caption.value = f"round {len(search.rounds) - 1}: {latest.caption}"
        view.children = [picture(latest.view)] if latest.view else []
        shown = latest.ranking[:num_shown].tolist()
        best.children = [picture(Image.fromarray(images[index])) for index in shown]
        question.value = ask(search) if ask else ""
        field.value, field.placeholder = "", "answer"

    field.observe(answered, names="value")
    return ipywidgets.VBox([question, field, caption, view, best])
