"""Whether an answer of a language model is a caption: it may be anything, so what is not clearly one is refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MOST_CHARACTERS = 600
LEAST_WORDS = 3
PREFACE = re.compile(r"^(?:caption|answer|sentence|output|final caption)\s*:\s*", re.IGNORECASE)
QUOTES = "\"'“”‘’«»"
MARKUP = re.compile(r"[<>{}\[\]|\\`#*_=~^$@]|://|www\.")
SENTENCES = re.compile(r"[.!?]+(?=\s+\S)")
# A model that talks about its task, refuses, or repeats the descriptions' names.
ABOUT_ITSELF = re.compile(
    r"^(?:sure|certainly|of course|okay|here\b|here's|as an\b.*\bai\b|note\b|please)|"
    r"\b(?:i|i'm|i'll|i've|my|me|you|your)\b|"
    r"\b(?:language model|assistant|prompt|instructions?|sorry|cannot|unable|captions?|descriptions?|sentence|json)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
COMMON = {
    "a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "is", "are", "was", "were", "be", "being", "been",
    "with", "by", "from", "for", "as", "while", "then", "after", "before", "followed", "it", "its", "there", "this",
    "that", "these", "those", "up", "down", "over", "into", "some", "something", "someone", "sound", "noise", "audio",
    "video", "image", "background", "foreground", "other", "two", "three", "several", "many",
}  # fmt: skip


class BadAnswer(ValueError):
    """An answer that is no caption; says why."""


def check(answer: str, given: Iterable[str], most_words: int) -> str:
    """The caption in an answer.

    Args:
        answer: what came.
        given: the texts that the model was given; a caption has at least one of their words.
        most_words: of the caption.

    Raises:
        BadAnswer: it is none.
    """
    text = " ".join(answer[: 4 * MOST_CHARACTERS].split())
    text = PREFACE.sub("", text).strip(QUOTES + " ")
    if not text:
        raise BadAnswer("it is empty")
    if len(answer) > 4 * MOST_CHARACTERS or len(text) > MOST_CHARACTERS:
        raise BadAnswer(f"it has more than {MOST_CHARACTERS} characters")
    if not text.isprintable() or any(unicodedata.category(letter) in ("Co", "Cn") for letter in text):
        raise BadAnswer("it has characters that cannot be shown")
    if MARKUP.search(text):
        raise BadAnswer("it has markup or an address")
    words = WORD.findall(text)
    if not LEAST_WORDS <= len(words) <= most_words:
        raise BadAnswer(f"it has {len(words)} words, but {LEAST_WORDS} to {most_words} are expected")
    if SENTENCES.search(text):
        raise BadAnswer("it has several sentences")
    if ABOUT_ITSELF.search(text):
        raise BadAnswer("it talks to the reader or about its task")
    letters = sum(letter.isalpha() or letter.isspace() for letter in text)
    if letters < 0.85 * len(text) or sum(letter.isascii() for letter in text) < 0.9 * len(text):
        raise BadAnswer("it is mostly no English text")
    if longest_run(words) > 3:
        raise BadAnswer("it repeats a word")
    known = {stem(word) for text_given in given for word in WORD.findall(text_given)} - {stem(word) for word in COMMON}
    if not known & {stem(word) for word in words}:
        raise BadAnswer("it has no word of what it was given")
    return text[0].upper() + text[1:].rstrip(".!? ") + "."


def stem(word: str) -> str:
    """A word without the endings of number and tense, roughly: "barking", "barks" and "bark" are one."""
    word = word.casefold()
    for ending in ("ing", "ers", "ies", "es", "ed", "er", "s", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def longest_run(words: list[str]) -> int:
    """How often in a row a word comes at most."""
    most = run = 0
    before = ""
    for word in (word.casefold() for word in words):
        run = run + 1 if word == before else 1
        most, before = max(most, run), word
    return most
