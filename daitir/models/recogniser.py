"""The recogniser: reads a scene's facts off a picture, rendered or drawn.

It is the measuring instrument for hallucination: what it reads is a `Scene`, so `Scene.facts` and
`holds` say which stated fact a drawn view breaks. A *spec* is `mini`, the one that comes with the
package, or the folder that `daitir pretrain recogniser` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from daitir.common.errors import DataError, reading_trained
from daitir.common.files import read_json, weights_digest
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
    """A small residual network with one reader for the scene and one, shared, for the six cells.

    Each cell looks at the map through four learned windows, which start in the quarters of the
    place where the cell's object stands.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width),
            nn.ReLU(), _Block(width),
        )  # fmt: skip
        self.middle = nn.Sequential(_down(width, 2 * width), _Block(2 * width))
        self.top = nn.Sequential(_down(2 * width, 4 * width), _Block(4 * width), _Block(4 * width))
        self.windows = nn.Parameter(starting_windows())
        self.cell = nn.Sequential(nn.Linear(16 * width, 8 * width), nn.ReLU())
        sizes = {name: len(values) for name, values in VALUES.items()}
        self.scene_heads = nn.ModuleDict(
            {name: nn.Linear(12 * width, sizes[name]) for name in SCENE_ATTRIBUTES}
        )
        self.cell_heads = nn.ModuleDict(
            {name: nn.Linear(8 * width, sizes[name]) for name in CELL_ATTRIBUTES}
        )

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


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _down(narrow: int, wide: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
    )


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
    """Reads pictures into scenes.

    Attributes:
        spec: the spec it was loaded from.
        model: the network, in eval mode.
        digest: the identity of what it was loaded from; of its weights where there are no files.
    """

    def __init__(
        self,
        spec: str,
        model: RecogniserNet,
        device: str | torch.device = "cpu",
        *,
        digest: str | None = None,
    ):
        self.spec = spec
        self.model = model.to(device).eval()
        self.digest = digest or identity(values=VALUES, weights=weights_digest(model))
        self.device = torch.device(device)

    @torch.no_grad()
    def read(
        self, images: Pictures, *, batch_size: int = 256, progress: bool = False
    ) -> list[Scene]:
        """What each picture shows: the likeliest value of everything, a category twice included.

        Pictures of any size, paths and arrays are read as by `Encoder.encode_images`.
        """
        images = listed(images)
        total = len(images) if isinstance(images, Sequence | np.ndarray) else None
        numbered, scenes = enumerate(images), []
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
    columns = {name: values[name].tolist() for name in VALUES}
    scenes = []
    for index in range(len(values["place"])):
        whole = {name: VALUES[name][columns[name][index]] for name in SCENE_ATTRIBUTES}
        objects = []
        for number, cell in enumerate(world.CELLS):
            category = VALUES["category"][columns["category"][index][number]]
            if category is None:
                continue
            coloured = world.CATEGORIES[category].has_colour
            colour = VALUES["colour"][columns["colour"][index][number]] if coloured else None
            size = VALUES["size"][columns["size"][index][number]]
            objects.append(SceneObject(category, colour, size, *cell))
        scenes.append(Scene(objects=tuple(objects), **whole))
    return scenes


def to_values(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """The numbers in `VALUES` of what scenes show: (num_scenes,), or (num_scenes, 6) of the cells.

    What an empty cell or an object without colour cannot have is `NO_VALUE`.
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
    return Recogniser(spec, model, device, digest=digest)
