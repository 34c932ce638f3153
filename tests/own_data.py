"""A data set that looks nothing like the scenes, for tests of what people bring."""

import json
import random

import numpy as np
from PIL import Image, ImageDraw

SAYINGS = (
    "a foto of smth reddish", "is it big? nah", "Ist da ein Hund? nein, glaub nicht",
    "有人吗？没有", "どんな色？ 青いです", "¿hay gente? sí, dos", "кто там? никого",
    "anythign else?? a tre in teh back", "mood? 🌧️😭", "هل هناك سيارة؟ لا", "sharp or blurry? idk",
)  # fmt: skip
SIZES = ((64, 48), (320, 200), (33, 150), (500, 40), (96, 96))


def picture(index):
    """Drawn shapes on a gradient with noise, of mixed sizes and modes."""
    rng = np.random.default_rng(index)
    width, height = SIZES[index % len(SIZES)]
    ramp = np.linspace(0, 1, width)[None, :, None] * rng.integers(0, 256, 3)
    values = ramp + rng.normal(0, 12, (height, width, 3)) + rng.integers(0, 90)
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = rng.integers(0, width), rng.integers(0, height)
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        pen.ellipse((x, y, x + width // 3, y + height // 3), fill=colour)
    return image.convert(("RGB", "L", "RGBA", "RGB", "P")[index % 5])


def talk(index):
    """Between 3 and 20 rounds of what people might say."""
    rng = random.Random(index)
    return [f"{rng.choice(SAYINGS)} {rng.random():.2f}" for _ in range(3 + index % 18)]


def make_own_data(folder, *, num_pictures=30, num_dialogues=12, splits=None, views=False):
    """Write such a data set; `splits` has the number of dialogues of each, or one file is made."""
    names = []
    for index in range(num_pictures):
        image = picture(index)
        suffix = "png" if image.mode in ("RGBA", "P") else ("jpg", "webp")[index % 2]
        names.append(f"album {index % 3}/bild-{index:03}.{suffix}")
        path = folder / "images" / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    first = 0
    for split, number in (splits or {"test": num_dialogues}).items():
        path = folder / (f"dialogues/{split}.json" if splits else "dialogues.json")
        path.parent.mkdir(exist_ok=True)
        entries = [
            {"img": names[first + i], "dialog": talk(first + i), "by": "someone"}
            for i in range(number)
        ]
        path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
        if views:
            (folder / "views" / split).mkdir(parents=True, exist_ok=True)
            for i, entry in enumerate(entries):
                for t in range(len(entry["dialog"])):
                    image = picture(1000 + 20 * i + t).convert("RGB")
                    image.save(folder / "views" / split / f"{i}_{t}.jpg")
        first += number
    return names
