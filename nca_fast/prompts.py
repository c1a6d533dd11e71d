"""Prompts of a CLIP-guided training, read before torch is loaded: weights, and words that the small model knows."""

import html
import re
from collections.abc import Sequence

from nca_fast.choices import small_words
from nca_fast.suggestions import closest_ones


def parse_prompt(prompt: str) -> tuple[str, float]:
    """Splits "text:weight" into text and weight; without a weight it is 1.

    Only a number after the last colon is a weight: "blurry:-0.5". A text that ends in one otherwise needs another,
    "aspect 16:9:1".

    Raises:
        ValueError: Nothing before the weight, or one that is infinite.
    """
    match = re.fullmatch(r"(.*):\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", prompt, re.DOTALL)
    text, weight = (match[1], float(match[2])) if match else (prompt, 1.0)
    if not text.strip() or not abs(weight) < float("inf"):
        raise ValueError(f"a prompt must be text, or text:weight with a finite weight, but got {prompt!r}.")
    return text.strip(), weight


def weights_of(prompts: Sequence[str]) -> tuple[list[str], list[float]]:
    """Texts (or file names) and weights of several prompts."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], [weight for _, weight in parsed]


def words(text: str) -> list[str]:
    """Cuts a text into words, endings such as 's, digits and runs of signs, as CLIP's tokenizer does."""
    import ftfy
    import regex

    clean = html.unescape(html.unescape(ftfy.fix_text(text))).lower()
    return regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", clean)


def check_words(text: str) -> None:
    """Raises ValueError for a text with words that the small CLIP model was not trained with."""
    known = frozenset(small_words())
    unknown = [word for word in dict.fromkeys(words(text)) if word not in known]
    if unknown:
        near = {near for word in unknown for near in closest_ones(word, known, 2)}
        hint = f" (did you mean {', '.join(sorted(near))}?)" if near else ""
        raise ValueError(
            f"the small CLIP model must know every word of a prompt, but not {', '.join(map(repr, unknown))} in "
            f"{text!r}{hint}. It knows: {' '.join(sorted(known))}. For all other words take a real CLIP model, for "
            "example --model ViT-B-32-quickgelu --pretrained openai."
        )
