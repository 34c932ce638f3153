"""The recogniser: reads a scene's facts off a picture, rendered or drawn.

It is the measuring instrument for hallucination: what it reads is a `Scene`, so `Scene.facts` and
`holds` say which stated fact a drawn view breaks. A *spec* is `mini`, the one that comes with the
package, or the folder that `daitir pretrain recogniser` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import length_hint
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from daitir.common.errors import DataError, reading_trained
from daitir.common.files import read_json
from daitir.models import ASSETS
from daitir.models.encoder import Pictures, as_image, listed
from daitir.models.identity import CONFIG_NAME, identity
from daitir.scenes import Scene, SceneObject, world

RECOGNISER_FOLDER = ASSETS / "recogniser"
RECOGNISER_WEIGHTS = "recogniser.safetensors"
IMAGE_SIZE = 64

VALUES = {
    "place": world.PLACES,
    "time": world.TIMES,
    "weather": world.WEATHERS,
    "category": (None, *world.CATEGORIES),  # None where a cell is empty
    "colour": world.COLOURS,
    "size": world.SIZES,
}
SCENE_ATTRIBUTES, CELL_ATTRIBUTES = ("place", "time", "weather"), ("category", "colour", "size")
NO_VALUE = 255  # no number of a value, and it fits a byte


class RecogniserNet(nn.Module):
    """A small residual network with one reader for the scene and one, shared, for the six cells."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(*_layers(3, width, 5, stride=2), nn.ReLU(), _Block(width))
        self.middle = nn.Sequential(_down(width, 2 * width), _Block(2 * width))
        self.top = nn.Sequential(_down(2 * width, 4 * width), _Block(4 * width), _Block(4 * width))
        self.windows = nn.Parameter(starting_windows())
        self.cell = nn.Sequential(nn.Linear(16 * width, 8 * width), nn.ReLU())
        self.scene_heads = value_heads(SCENE_ATTRIBUTES, 12 * width)
        self.cell_heads = value_heads(CELL_ATTRIBUTES, 8 * width)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Maps of three depths, (batch, width·2^k, 32 / 2^k, 32 / 2^k); pixels are in [-1, 1]."""
        low = self.stem(pixels)
        middle = self.middle(low)
        return [low, middle, self.top(middle)]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits of (batch, 3, 64, 64) pixels: (batch, values), or (batch, 6, values) of cells."""
        return self.read_maps(self.features(pixels))

    def read_maps(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """The logits of `features`' maps."""
        top = maps[-1]
        halves = F.adaptive_avg_pool2d(top, (2, 1)).flatten(1)
        whole = torch.cat([halves, top.amax(dim=(2, 3))], dim=1)
        seen = torch.einsum("bcp,kwp->bkwc", top.flatten(2), self.windows.softmax(dim=-1))
        cells = self.cell(seen.flatten(2))
        logits = {name: head(whole) for name, head in self.scene_heads.items()}
        return logits | {name: head(cells) for name, head in self.cell_heads.items()}


def _layers(narrow: int, wide: int, size: int = 3, *, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(narrow, wide, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(wide)


def _down(narrow: int, wide: int) -> nn.Sequential:
    return nn.Sequential(*_layers(narrow, wide, stride=2), nn.ReLU())


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(*_layers(width, width), nn.ReLU(), *_layers(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def value_heads(names: Iterable[str], width: int) -> nn.ModuleDict:
    """Linear maps of `width` numbers to the logits of the values of each attribute."""
    return nn.ModuleDict({name: nn.Linear(width, len(VALUES[name])) for name in names})


def starting_windows() -> Tensor:
    """Logits (6 cells, 4 windows, 8·8 places): bells around the quarters of each cell's object."""
    places = torch.arange(8) * 8 + 4.0
    windows = []
    for column, row in world.CELLS:
        x0 = {"left": 12, "middle": 32, "right": 52}[column]
        y0 = {"back": 30, "front": 54}[row]
        for dx, dy in ((-4, -4), (4, -4), (-4, 4), (4, 4)):
            distance = (places[:, None] - y0 - dy) ** 2 + (places[None, :] - x0 - dx) ** 2
            windows.append(-distance.flatten() / (2 * 6.0**2))
    return torch.stack(windows).view(len(world.CELLS), 4, 64)


class Recogniser:
    """Reads pictures into scenes; `digest` is the identity of what it was loaded from."""

    def __init__(
        self, spec: str, model: RecogniserNet, digest: str, device: str | torch.device = "cpu"
    ):
        self.spec, self.model, self.digest = spec, model.to(device).eval(), digest
        self.device = torch.device(device)

    @torch.no_grad()
    def read(
        self, images: Pictures, *, batch_size: int = 256, progress: bool = False
    ) -> list[Scene]:
        """What each picture shows: the likeliest value of everything, a category twice included.

        Pictures of any size, paths and arrays are read as by `Encoder.encode_images`.
        """
        images = listed(images)
        numbered, scenes, total = enumerate(images), [], length_hint(images) or None
        with tqdm(total=total, desc="reading", unit="image", disable=not progress) as bar:
            while batch := list(islice(numbered, batch_size)):
                arrays = np.stack([_as_array(as_image(*picture)) for picture in batch])
                logits = self.model(to_pixels(torch.from_numpy(arrays).to(self.device)))
                scenes += to_scenes({name: rows.argmax(dim=-1) for name, rows in logits.items()})
                bar.update(len(batch))
        return scenes


def _as_array(image: Image.Image) -> np.ndarray:
    """A picture as the network reads it, (IMAGE_SIZE, IMAGE_SIZE, 3) uint8."""
    image = image.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return np.asarray(image)


def to_pixels(images: Tensor) -> Tensor:
    """Images (batch, size, size, 3) uint8 to pixels (batch, 3, size, size) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_scenes(values: Mapping[str, Tensor]) -> list[Scene]:
    """Scenes from the numbers of their values in `VALUES`; the inverse of `to_values`.

    The colour of a category without colours, and colour and size of an empty cell, are left out.
    """
    names = {
        name: np.array([*known, *[None] * NO_VALUE], object)[values[name].cpu().numpy()]
        for name, known in VALUES.items()
    }
    scenes = []
    for index in range(len(values["place"])):
        objects = []
        cells = zip(*(names[name][index] for name in CELL_ATTRIBUTES), world.CELLS, strict=True)
        for category, colour, size, cell in cells:
            if category is not None:
                coloured = world.CATEGORIES[category].has_colour
                objects.append(SceneObject(category, colour if coloured else None, size, *cell))
        whole = {name: names[name][index] for name in SCENE_ATTRIBUTES}
        scenes.append(Scene(objects=tuple(objects), **whole))
    return scenes


def to_values(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """The numbers in `VALUES` of what scenes show: (num_scenes,), or (num_scenes, 6) of the cells.

    `NO_VALUE` is what an empty cell or an object without colour cannot have.
    """
    numbers = {
        name: torch.tensor([VALUES[name].index(getattr(scene, name)) for scene in scenes])
        for name in SCENE_ATTRIBUTES
    }
    numbers |= {name: torch.full((len(scenes), 6), NO_VALUE) for name in CELL_ATTRIBUTES}
    numbers["category"].fill_(VALUES["category"].index(None))
    for index, scene in enumerate(scenes):
        for item in scene.objects:
            cell = world.CELLS.index((item.column, item.row))
            for name in CELL_ATTRIBUTES:
                if getattr(item, name) is not None:
                    numbers[name][index, cell] = VALUES[name].index(getattr(item, name))
    return numbers


def load_recogniser(spec: str = "mini", *, device: str | torch.device = "cpu") -> Recogniser:
    """The recogniser of a spec: `mini` or a folder.

    Raises DataError, naming the file, where one is missing or damaged or of another world.
    """
    folder = RECOGNISER_FOLDER if spec == "mini" else Path(spec)
    config, weights = folder / CONFIG_NAME, folder / RECOGNISER_WEIGHTS
    command = f"daitir pretrain recogniser --out {folder}"
    with reading_trained("recogniser", config, weights, command=command):
        settings = read_json(config)
        if settings["values"] != json.loads(json.dumps(VALUES)):
            raise DataError(f"{config}: made for another world; train it again")
        model = RecogniserNet(settings["width"])
        model.load_state_dict({name: t.float() for name, t in load_file(weights).items()})
    digest = identity(library="recogniser", settings=config, weights=weights)
    return Recogniser(spec, model, digest, device)
