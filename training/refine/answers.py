"""Whether an answer of a language model is a caption: it may be anything, so what is not clearly one is refused.

A caption that was put into the prompt may have been written to steer the model (a sign in a video that says "ignore the
above"), so an answer is no more trusted than what it was made of. What passes is one short plain sentence in English
letters that has a word of what the model was given; it cannot hold an address, markup, quotes, or talk to a reader.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .prompt import SYSTEM

MOST_CHARACTERS = 600
LEAST_WORDS = 3
ECHO = 6  # words in a row of the prompt's own
PREFACE = re.compile(r"^(?:caption|answer|sentence|output|final caption)\s*:\s*", re.IGNORECASE)
QUOTES = "\"'“”‘’«»"
PARAGRAPHS = re.compile(r"\S[^\S\n]*\n\s*\n\s*\S")
MARKUP = re.compile(r"[<>{}\[\]|\\`#*_=~^$@]|://|www\.|[^\W_]\.[^\W_]|&#?\w+;")
SENTENCES = re.compile(r"[.!?]+(?=\s*[^\s.!?])")
# A model that talks about its task, refuses, obeys what a caption told it, or repeats the descriptions' names.
ABOUT_ITSELF = re.compile(
    r"^(?:sure|certainly|of course|okay|here\b|here's|as an\b.*\bai\b|note\b|please)|"
    r"\b(?:i|i'm|i'll|i've|my|me|you|your|you're)\b|"
    r"\b(?:language model|assistant|prompt|instructions?|ignor(?:e|ing)|disregard(?:ing)?|sorry|cannot|unable|"
    r"captions?|descriptions?|sentence|json)\b",
    re.IGNORECASE,
)
# What is not there is no caption of what is.
DENIAL = re.compile(
    r"^(?:no|none|nothing|neither|not)\b|\bthere (?:is|are|was|were) (?:no|not|none|nothing|neither)\b|"
    r"\b(?:no|not|neither|nothing) (?:\w+ ){0,3}(?:overlap|common|match|agree|heard|seen|visible|audible)",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
PUNCTUATION = "‘’–—…"  # that English text has beside ASCII
COMMON = {
    "a", "an", "the", "and", "or", "of", "in", "on", "at", "to", "is", "are", "was", "were", "be", "being", "been",
    "with", "by", "from", "for", "as", "while", "then", "after", "before", "followed", "it", "its", "there", "this",
    "that", "these", "those", "up", "down", "over", "into", "some", "something", "someone", "sound", "noise", "audio",
    "video", "image", "background", "foreground", "other", "two", "three", "several", "many",
}  # fmt: skip
# Words that tell other languages in Latin letters from English: articles, conjunctions, prepositions and "is".
FOREIGN = {
    "un", "une", "uno", "una", "le", "la", "les", "des", "du", "et", "est", "dans", "avec", "pendant", "que", "qui",
    "el", "los", "las", "del", "y", "en", "con", "mientras", "il", "lo", "gli", "di", "della", "che", "mentre", "è",
    "der", "das", "ein", "eine", "einer", "und", "ist", "im", "mit", "auf", "von", "während", "os", "da", "um",
    "uma", "em", "enquanto", "de", "het", "een", "terwijl", "och", "ett", "ja", "na",
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
        BadAnswer: it is none. The reason has nothing of the answer in it.
    """
    start = answer[: 4 * MOST_CHARACTERS]
    text = unicodedata.normalize("NFC", " ".join(start.split()))
    text = PREFACE.sub("", text).strip(QUOTES + " ").rstrip(QUOTES + ".!?… ")
    if not text:
        raise BadAnswer("it is empty")
    if len(answer) > 4 * MOST_CHARACTERS or len(text) > MOST_CHARACTERS:
        raise BadAnswer(f"it has more than {MOST_CHARACTERS} characters")
    if not text.isprintable() or any(unicodedata.category(letter) in ("Co", "Cn") for letter in text):
        raise BadAnswer("it has characters that cannot be shown")
    if PARAGRAPHS.search(start.strip()):
        raise BadAnswer("it has several paragraphs")
    if MARKUP.search(text):
        raise BadAnswer("it has markup or an address")
    words = WORD.findall(text)
    if not LEAST_WORDS <= len(words) <= most_words:
        raise BadAnswer(f"it has {len(words)} words, but {LEAST_WORDS} to {most_words} are expected")
    if SENTENCES.search(text):
        raise BadAnswer("it has several sentences")
    if ABOUT_ITSELF.search(text):
        raise BadAnswer("it talks to the reader or about its task")
    if DENIAL.search(text):
        raise BadAnswer("it says what is not there")
    if runs(words) & ECHOED:
        raise BadAnswer("it repeats the prompt")
    if not text[0].isalnum() or ":" in text or any(quote in text for quote in QUOTES if quote not in "'‘’"):
        raise BadAnswer("it has a preface, a list or quotes")
    if not is_english(text, words):
        raise BadAnswer("it is mostly no English text")
    if longest_run(words) > 3:
        raise BadAnswer("it repeats a word")
    known = {stem(word) for text_given in given for word in WORD.findall(text_given)} - {stem(word) for word in COMMON}
    if not known & {stem(word) for word in words}:
        raise BadAnswer("it has no word of what it was given")
    return text[0].upper() + text[1:] + "."


def is_english(text: str, words: list[str]) -> bool:
    """Whether letters and small words are those of English; letters that only look like them are not."""
    strange = (letter for letter in text if not letter.isascii() and letter not in PUNCTUATION)
    if not all(unicodedata.name(letter, "").startswith("LATIN ") for letter in strange):
        return False
    letters = sum(letter.isalpha() or letter.isspace() for letter in text)
    if letters < 0.85 * len(text) or sum(letter.isascii() for letter in text) < 0.9 * len(text):
        return False
    folded = [word.casefold() for word in words]
    return sum(word in FOREIGN for word in folded) <= sum(word in COMMON for word in folded)


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """All `ECHO` words in a row."""
    folded = [word.casefold() for word in words]
    return {tuple(folded[start : start + ECHO]) for start in range(len(folded) - ECHO + 1)}


ECHOED = runs(WORD.findall(SYSTEM))


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
