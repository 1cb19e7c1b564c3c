"""Names to sentences: "dog" to "a dog", and with what the artist adds, "barking twice", to "a dog barking twice"."""

from __future__ import annotations

import re

from .names import Named

# First words of a text that is a noun phrase by itself, so that it does not continue a name.
DETERMINERS = {
    "a", "an", "the", "this", "that", "these", "those", "some", "any", "many", "several", "few", "no", "one", "two",
    "three", "four", "five", "six", "seven", "eight", "nine", "ten", "my", "your", "his", "her", "its", "our",
    "their", "someone", "somebody", "people",
}  # fmt: skip
# Nouns without an article: what cannot be counted, and plurals that do not end in "s".
UNCOUNTED = {
    "water", "rain", "rainfall", "snow", "hail", "ice", "wind", "thunder", "lightning", "fire", "steam", "smoke",
    "surf", "traffic", "music", "speech", "laughter", "applause", "chatter", "silence", "noise", "static",
    "clothing", "hair", "grass", "wood", "sand", "mud", "gravel", "food", "rice", "pasta", "bread", "cheese",
    "butter", "poultry", "cattle", "livestock", "people", "men", "women", "children", "mice", "geese", "oxen",
    "machinery", "equipment", "furniture", "luggage", "jazz", "reggae", "opera",
    "percussion", "weather", "cutlery", "silverware", "crockery", "foliage", "paper", "glassware", "tableware",
    "popcorn", "underwear", "honey", "swimwear", "jewelry", "money", "fruit",
}  # fmt: skip
SINGULAR = re.compile(r"(ss|us|iris|mantis|chassis|gas|lens|atlas|canvas)$")  # in spite of the last letter
COUNTED_ING = re.compile(r"^(ring|king|wing|string|spring|swing|sling|thing|building|ceiling|being|railing|earring)$")
ONLY_ONE = {"sea", "ocean", "sky", "sun", "moon", "beach"}
# By sound instead of by letter; whole words or beginnings of them.
SOUNDS_LIKE_CONSONANT = re.compile(r"^(uni(?!n|m)|u[ks]|eu|ewe|one|once|ute|ura)")
SOUNDS_LIKE_VOWEL = re.compile(r"^([aeiou]|hour|honest|honou?r|heir|x-|mri\b|suv\b|fm\b|mp3\b)")


def with_article(name: str) -> str:
    """A name as a sentence names it: "a dog", "an owl", "the sea", "rain", "scissors".

    The article follows the last word's number as far as its ending shows it; names that begin with a determiner, and
    activities ("typing"), stay as they are.
    """
    words = name.strip().split()
    if not words:
        raise ValueError("name is empty, but the name of an object is expected, such as 'dog'.")
    first, last = words[0].casefold(), words[-1].casefold()
    plural = last.endswith("s") and not SINGULAR.search(last)
    activity = last.endswith("ing") and not COUNTED_ING.search(last)
    if first in DETERMINERS or last in UNCOUNTED or plural or activity:
        return " ".join(words)
    if last in ONLY_ONE and len(words) == 1:
        return f"the {words[0]}"
    vowel = SOUNDS_LIKE_VOWEL.match(first) and not SOUNDS_LIKE_CONSONANT.match(first)
    return f"{'an' if vowel else 'a'} {' '.join(words)}"


def names(text: str, name: str) -> bool:
    """Whether a text has the noun of a name, its last word, among its own words, in the singular or in the plural."""
    nouns = re.findall(r"\w+", name.casefold())[-1:]
    return bool(nouns) and any(_same_noun(word, nouns[0]) for word in re.findall(r"\w+", text.casefold()))


def joined(name: str, text: str | None = None) -> str:
    """The sentence for a named object and what is said about its sound.

    `joined("dog")` is "a dog" and `joined("dog", "barking twice")` "a dog barking twice". A text that names the object
    is the sentence by itself: `joined("dog", "two dogs howl")` is "two dogs howl". So is one that names something else,
    as it begins as a noun phrase: `joined("dog", "a cat meowing")` is "a cat meowing".
    """
    text = " ".join((text or "").split())
    if not text:
        return with_article(name)
    return text if names(text, name) or names_something(text) else f"{with_article(name)} {text}"


def names_something(text: str) -> bool:
    """Whether a text begins as a noun phrase of its own, "a cat meowing", instead of going on from a name."""
    return text.split(maxsplit=1)[0].casefold().strip(",.;:!?") in DETERMINERS


def sentences(named: Named, text: str | None = None, likely: int = 1) -> list[tuple[str, float]]:
    """The sentences that stand for what a mask shows, with their shares, which sum to 1.

    Args:
        named: what the mask shows.
        text: what is said about its sound; alone where no name is sure.
        likely: where no specific name is sure, so many of the likeliest ones stand for it, by their probabilities; 1
            takes the more general name ("bird") if that is sure, else the likeliest.

    Raises:
        ValueError: `likely` is below 1.
    """
    if likely < 1:
        raise ValueError(f"likely_names is {likely}, but 1 or more is expected; 1 takes a single name.")
    text = " ".join((text or "").split()) or None
    chosen = named.candidates[:likely]
    if text is not None and (
        not named.known or names_something(text) or any(names(text, name) for name in (named.name, *dict(chosen)))
    ):
        return [(text, 1.0)]
    if named.known and (likely == 1 or named.name == named.top[0][0]):
        return [(joined(named.name, text), 1.0)]
    total = sum(share for _, share in chosen) or 1.0
    return [(joined(name, text), share / total) for name, share in chosen]


def _same_noun(word: str, noun: str) -> bool:
    return word in (noun, f"{noun}s", f"{noun}es") or noun in (f"{word}s", f"{word}es")
