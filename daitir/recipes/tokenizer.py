"""The recipe of the byte-level tokeniser that the package's own models share.

The shipped one lies in `daitir/models/assets/tokenizer`. Models are trained with that file, not
with a fresh one, so that a new phrase in the grammar does not renumber the words of trained models.
"""

from __future__ import annotations

import random

from tokenizers import ByteLevelBPETokenizer, processors
from transformers import PreTrainedTokenizerFast

from daitir.recipes.settings import TRAINING_SOURCES
from daitir.scenes import dialogue, sample_scenes, short_caption


def train_tokenizer(vocab_size: int = 1024, *, num_scenes: int = 3000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokeniser, learned from captions and dialogues of training scenes.

    Every text encodes, since unknown words fall back to their bytes. Padding is 0, the end token
    has the highest number: open_clip's text towers read their feature where it stands.
    """
    texts = []
    for index, scene in enumerate(sample_scenes(0, "train", num_scenes)):
        texts.append(short_caption(scene, random.Random(f"tokenizer/{index}")))
        source = TRAINING_SOURCES[index % len(TRAINING_SOURCES)]
        texts += [turn.text for turn in dialogue(source, scene)]
    tokenizer = ByteLevelBPETokenizer(lowercase=True, unicode_normalizer="nfc")
    begin = {"min_frequency": 0, "special_tokens": ["<pad>", "<start>"]}
    tokenizer.train_from_iterator(texts, vocab_size - 1, **begin, show_progress=False)
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[("<start>", 1), ("<end>", tokenizer.token_to_id("<end>"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<pad>",
        padding_side="right",
    )
