"""Views: images that a text-to-image pipeline draws from texts, kept in a cache."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import ExifTags, Image
from torch import nn
from tqdm import tqdm

from daitir.common.errors import DataError
from daitir.common.files import atomic_write, weights_digest
from daitir.models import ASSETS
from daitir.models.hub import NO_CODE, check_source, find_source, reading
from daitir.models.identity import PIPELINE_INDEX, identity, pipeline_files

if TYPE_CHECKING:
    from accelerate import PartialState
    from diffusers import DiffusionPipeline

logger = logging.getLogger(__name__)

PIPELINE_FOLDER = ASSETS / "diffusion"
MAX_STEPS, MAX_GUIDANCE = 1000, 100.0


class _View(NamedTuple):
    prompt: str
    seed: int
    negative: str


class ViewGenerator:
    """A text-to-image pipeline whose images depend on prompt and seed, kept in a cache.

    The cache is a folder with one WebP file for each image. A file's name is a hash of all that
    decides the image (weights, scheduler, steps, guidance, prompt and seed), so a folder can
    serve several models and several runs at once, and a run that was killed continues.
    """

    def __init__(
        self,
        spec: str,
        pipeline: DiffusionPipeline,
        *,
        steps: int = 8,
        guidance: float = 2.0,
        digest: str | None = None,
    ):
        """`digest` is the identity of the pipeline, None for one that was put together in memory.

        Raises DataError for steps outside 1 to 1,000 and guidance outside 0 to 100.
        """
        if not 1 <= steps <= MAX_STEPS:
            raise DataError(f"the number of denoising steps is 1 to {MAX_STEPS}, not {steps}")
        if not 0 <= guidance <= MAX_GUIDANCE:  # NaN is outside too
            raise DataError(f"the guidance scale is 0 to {MAX_GUIDANCE:g}, not {guidance}")
        self.spec, self.pipeline, self.steps, self.guidance = spec, pipeline, steps, guidance
        self.digest = digest or _values_digest(pipeline)
        self._call = inspect.signature(type(pipeline).__call__).parameters
        pipeline.set_progress_bar_config(disable=True)
        # For every batch they would print the words they cut off; `generate` counts the prompts.
        for speaker in (type(pipeline).__module__, "transformers.tokenization_utils_base"):
            logging.getLogger(speaker).addFilter(_is_of_use)

    @property
    def settings(self) -> dict:
        """All that decides what is drawn, beside prompts and seeds, in the types of JSON."""
        return {
            "spec": self.spec,
            "model": self.digest,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "dtype": str(self.pipeline.dtype).removeprefix("torch."),
            "steps": self.steps,
            "guidance": self.guidance,
        }

    @property
    def takes_negatives(self) -> bool:
        """Whether a negative prompt changes what is drawn."""
        # Pipelines distilled for guidance (FLUX) ask for another scale, which is off.
        is_asked = "negative_prompt" in self._call and "true_cfg_scale" not in self._call
        return is_asked and self.guidance > 1

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        cache: Path,
        *,
        negatives: Sequence[str] | None = None,
        batch_size: int = 32,
        group: PartialState | None = None,
        progress: bool = False,
    ) -> list[Path]:
        """The files of the images of prompts, one seed each, in their order.

        What the folder `cache` holds is not drawn again, unless it is damaged or another's, and
        changes nothing of what is drawn. Warnings count files that were drawn anew, and prompts
        that are cut off.

        `negatives` say for each prompt what must not be drawn, empty where there is nothing; a
        pipeline that takes no negative prompt draws without, and a warning tells. `batch_size`
        images are drawn together, which may change their last bits. The processes of `group` call
        this alike; each draws its share, and waits for the others. Raises DataError for an empty
        prompt, where the disk is full, and as `draw` does.
        """
        views = self._views(prompts, seeds, negatives)
        files = {view: cache / f"{self._key(view)}.webp" for view in views}
        batches = []
        # Some pipelines treat a missing negative prompt unlike an empty one (SDXL does).
        for with_negative in (False, True):
            kind = [view for view in files if bool(view.negative) == with_negative]
            for start in range(0, len(kind), batch_size):
                # The last wraps around: batches of one shape and the same neighbours round alike.
                batch = [kind[i % len(kind)] for i in range(start, start + batch_size)]
                batches.append((batch, min(batch_size, len(kind) - start)))
        index, number = (group.process_index, group.num_processes) if group else (0, 1)
        truncated = 0 if index else self.count_truncated([view.prompt for view in files])
        if truncated:
            logger.warning("%d of %d prompts are too long and cut off", truncated, len(files))
        batches = batches[index::number]
        total, num_damaged = sum(size for _, size in batches), 0
        with tqdm(total=total, desc="drawing", unit="view", disable=not progress or index) as bar:
            for batch, size in batches:
                num_damaged += self._complete(batch, files)
                bar.update(size)
        if num_damaged:
            told = "%s: %d files were damaged or other views, drawn anew"
            logger.warning(told, cache, num_damaged)
        if group:
            group.wait_for_everyone()
        return [files[view] for view in views]

    def _views(
        self, prompts: Sequence[str], seeds: Sequence[int], negatives: Sequence[str] | None
    ) -> list[_View]:
        if any(negatives or ()) and not self.takes_negatives:
            told = "takes no negative prompt, or guidance %g is too small for one; drawn without"
            logger.warning(f"%s: {told}", self.spec, self.guidance)
            negatives = None
        negatives = negatives or [""] * len(prompts)
        if not len(prompts) == len(seeds) == len(negatives):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        if empty := [index for index, prompt in enumerate(prompts) if not prompt.strip()]:
            share = f"{len(empty):,} of {len(prompts):,} prompts are empty"
            raise DataError(f"{share}, the first is number {empty[0]}; leave those rounds out")
        return list(map(_View, prompts, seeds, negatives))

    def _complete(self, batch: list[_View], files: Mapping[_View, Path]) -> int:
        """Draw a batch unless all its files are whole; returns how many were damaged."""
        absent = [view for view in dict.fromkeys(batch) if not self._is_whole(files[view], view)]
        num_damaged = sum(files[view].exists() for view in absent)
        images = self.draw(*zip(*batch, strict=True)) if absent else []
        for view in absent:
            image = images[batch.index(view)]
            # A file that a power cut spoils is seen, and drawn anew.
            with atomic_write(files[view], sync=False) as temporary:
                image.save(temporary, quality=90, method=4, exif=self._metadata(view, image.size))
        return num_damaged

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], negatives: Sequence[str] = ()
    ) -> list[Image.Image]:
        """The images of prompts, one seed each, drawn in one batch and kept nowhere.

        With `negatives`, what must not be drawn, there is one for each prompt. Raises DataError for
        an image that is black all over: it would be taken for a view.
        """
        images = self.pipeline(
            list(prompts),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            # Noise is drawn on the CPU, image by image, so that it is the same on every device.
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **({"negative_prompt": list(negatives)} if any(negatives) else {}),
        ).images
        black = [p for p, image in zip(prompts, images, strict=True) if image.getbbox() is None]
        if black:
            fault = f"{len(black)} of {len(images)} views are black, that of {black[0]!r} for one"
            why = "the pipeline's safety checker hid it, or numbers overflowed"
            raise DataError(f"{self.spec}: {fault}: {why}; change the prompt or the precision")
        return images

    def count_truncated(self, prompts: Sequence[str]) -> int:
        """How many prompts are cut off by each of the pipeline's text encoders.

        Pipelines with several (SDXL, SD 3, FLUX) lose no words that one encoder reads.
        """
        readers = []
        for suffix in ("", "_2", "_3"):
            names = (f"tokenizer{suffix}", f"text_encoder{suffix}")
            tokenizer, encoder = (getattr(self.pipeline, name, None) for name in names)
            if tokenizer is None or encoder is None:  # SD 3 goes without its T5 encoder too
                continue
            limit = tokenizer.model_max_length
            if encoder.config.model_type == "t5" and "max_sequence_length" in self._call:
                limit = self._call["max_sequence_length"].default
            readers.append((tokenizer, limit))
        return sum(
            all(len(read(prompt, verbose=False)["input_ids"]) > limit for read, limit in readers)
            for prompt in prompts
        )

    def _is_whole(self, path: Path, view: _View) -> bool:
        """Whether a file of the cache can be read, and says that it is this view."""
        if not path.is_file():  # a pipe would be waited for
            return False
        try:
            with Image.open(path, formats=["WEBP"]) as image:
                image.load()
                return dict(image.getexif()) == dict(self._metadata(view, image.size))
        except Exception:  # on damaged files Pillow raises nearly anything
            return False

    def _metadata(self, view: _View, size: tuple[int, int]) -> Image.Exif:
        facts = {
            "prompt": view.prompt, "seed": view.seed, "steps": self.steps,
            "guidance": self.guidance, "pipeline": self.spec, "digest": self.digest, "size": size,
        }  # fmt: skip
        facts |= {"negative_prompt": view.negative} if view.negative else {}
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = json.dumps(facts)
        return exif

    def _key(self, view: _View) -> str:
        """The name of a view's file: a hash of all that decides what is drawn."""
        facts = [self.digest, self.steps, self.guidance, view.prompt, view.seed]
        facts += [view.negative] if view.negative else []
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _values_digest(pipeline: DiffusionPipeline) -> str:
    """The identity of a pipeline in memory: of its values and settings."""
    parts = {}
    for name, part in pipeline.components.items():
        weights = [weights_digest(part)] if isinstance(part, nn.Module) else []
        parts[name] = [*weights, type(part).__name__, str(getattr(part, "config", ""))]
    return identity(kind=type(pipeline).__name__, parts=parts)


def _is_of_use(record: logging.LogRecord) -> bool:
    known = ("part of your input was truncated", "Token indices sequence length")
    return not any(words in record.getMessage() for words in known)


def load_view_generator(
    spec: str = "mini",
    *,
    steps: int = 8,
    guidance: float = 2.0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    offload: bool = False,
) -> ViewGenerator:
    """The view generator of a spec.

    Args:
        spec: `mini`, the one that comes with the package, a folder of a diffusers pipeline, or a
            hub's name.
        steps: denoising steps; other pipelines than `mini` may need more, and more guidance.
        guidance: scale of classifier-free guidance; 1 is none.
        device: where it computes.
        dtype: the precision of its weights; None is single on a CPU and half elsewhere.
        offload: keep the pipeline's parts in main memory, and each on the CUDA device only while it
            computes: slower, in a fraction of the device's memory.

    Returns:
        The generator, its weights read from safetensors only.

    Raises:
        DataError: a part of the folder is missing, damaged or asks for code to be run, the hub
            cannot be reached, or as `ViewGenerator`.

    Example:
        >>> load_view_generator(steps=2).draw(["a dog"], seeds=[0])[0].size
        (64, 64)
    """
    device = torch.device(device)
    if offload and device.type != "cuda":
        fault = f"offloading moves parts between main memory and a CUDA device, not {device}"
        raise DataError(f"{fault}; add --device cuda, or leave --offload out")
    from diffusers import AutoPipelineForText2Image  # late: it takes seconds to load

    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
    needs, kind = {PIPELINE_INDEX: [PIPELINE_INDEX]}, "a diffusers pipeline"
    source, local = find_source(spec, PIPELINE_FOLDER, needs, kind=kind, recipe="diffusion")
    with reading(spec, "text-to-image pipeline", local=local):
        options = {"dtype": dtype, "use_safetensors": True, **NO_CODE}
        pipeline = AutoPipelineForText2Image.from_pretrained(source, **options)
        files = pipeline_files(check_source(source))
    digest = identity(kind=type(pipeline).__name__, files=files, dtype=str(dtype))
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return ViewGenerator(spec, pipeline, steps=steps, guidance=guidance, digest=digest)


def view_seed(seed: int, dialogue: int, round: int | None = None) -> int:
    """The seed of a view's noise: anew for each round, or, without a round, one for a dialogue.

    >>> view_seed(0, 7, 1) == view_seed(0, 7, 2), view_seed(0, 7) == view_seed(0, 8)
    (False, False)
    """
    digest = hashlib.sha256(f"view/{seed}/{dialogue}/{round}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
