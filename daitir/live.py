"""Live search: one dialogue over a gallery, round after round, as a function and as a widget."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from daitir.encoders import Encoder
from daitir.errors import DataError
from daitir.fusion import dar_fusion
from daitir.reformulation import Reformulator
from daitir.views import ViewGenerator, view_seed

if TYPE_CHECKING:
    from ipywidgets import VBox

_WIDGET_PIXELS = 96


@dataclass(frozen=True)
class LiveRound:
    """What one round of a live search did.

    Attributes:
        said: the words of the round.
        caption: all words so far, refined into one caption.
        view: the picture drawn from the caption.
        ranking: (num_images,) indices of the gallery, best first.
    """

    said: str
    caption: str
    view: Image.Image
    ranking: Tensor


class LiveSearch:
    """A search that goes on: each `say` refines, draws, fuses as DAR does, and ranks.

    Attributes:
        rounds: what was done so far.
    """

    def __init__(
        self,
        image_features: Tensor,
        encoder: Encoder,
        reformulator: Reformulator,
        generator: ViewGenerator,
        *,
        seed: int = 0,
    ):
        """`image_features` (num_images, dim) are the gallery's; `seed` is that of the drawings."""
        self.image_features, self.encoder = image_features, encoder
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
        caption = self.reformulator.refine([dialogue]).captions[0][-1]
        view = self.generator.draw([caption], [view_seed(self.seed, 0, t)])[0]
        query = dar_fusion(
            self.encoder.encode_texts([caption]), self.encoder.encode_images([view]), round=t
        )
        scores = self.image_features @ query[0]
        ranking = scores.argsort(descending=True, stable=True)
        self.rounds.append(LiveRound(words, caption, view, ranking))
        return self.rounds[-1]


def live_widget(
    search: LiveSearch,
    images: Sequence[np.ndarray],
    *,
    ask: Callable[[LiveSearch], str] | None = None,
    num_shown: int = 10,
) -> VBox:
    """A live search in a notebook: a line to type in, the view, and the best pictures.

    Args:
        search: the search; what is typed is said to it.
        images: the gallery's pictures, uint8 (height, width, 3), in the order of its features.
        ask: gives the next question after each round; it is shown, and said with the answer.
        num_shown: how many pictures are shown, best first.
    """
    import ipywidgets  # late: only notebooks need it

    field = ipywidgets.Text(placeholder="describe the picture", continuous_update=False)
    question, caption = ipywidgets.Label(""), ipywidgets.Label("")
    view, best = ipywidgets.HBox([]), ipywidgets.HBox(layout={"flex_flow": "row wrap"})

    def picture(image: Image.Image) -> ipywidgets.Image:
        buffer = io.BytesIO()
        image.resize((_WIDGET_PIXELS, _WIDGET_PIXELS)).save(buffer, "png")
        return ipywidgets.Image(value=buffer.getvalue(), format="png")

    def answered(change: dict) -> None:
        if not change["new"].strip():
            return
        found = search.say(f"{question.value} {change['new']}".strip())
        caption.value = f"round {len(search.rounds) - 1}: {found.caption}"
        view.children = [picture(found.view)]
        shown = found.ranking[:num_shown].tolist()
        best.children = [picture(Image.fromarray(images[index])) for index in shown]
        question.value = ask(search) if ask else ""
        field.value, field.placeholder = "", "answer"

    field.observe(answered, names="value")
    return ipywidgets.VBox([question, field, caption, view, best])
