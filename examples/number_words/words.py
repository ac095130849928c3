"""Numbers in German and English words."""

from __future__ import annotations

LARGEST = 9999

_GERMAN = (
    "null",
    "eins",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
)
_GERMAN_TENS = ("zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")
_ENGLISH = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_ENGLISH_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

GERMAN = (*_GERMAN, "ein", *_GERMAN_TENS, "und", "hundert", "tausend")
"""Every German word of a number, in a fixed order."""
ENGLISH = (*_ENGLISH, *_ENGLISH_TENS, "hundred", "thousand")
"""Every English one."""


def german(number: int) -> list[str]:
    """Say a number from 0 to 9999 in German, its parts written apart: 42 is zwei und vierzig, ones before tens."""
    if number == 0:
        return ["null"]
    words = []
    for size, word in ((1000, "tausend"), (100, "hundert")):
        count, number = divmod(number, size)
        if count:
            words += [_bound(count), word]
    if number >= 20:
        tens, ones = divmod(number, 10)
        return [*words, *([_bound(ones), "und"] if ones else []), _GERMAN_TENS[tens - 2]]
    return [*words, _GERMAN[number]] if number else words


def english(number: int) -> list[str]:
    """Say a number from 0 to 9999 in English, its parts written apart: 42 is forty two."""
    if number == 0:
        return ["zero"]
    words = []
    for size, word in ((1000, "thousand"), (100, "hundred")):
        count, number = divmod(number, size)
        if count:
            words += [_ENGLISH[count], word]
    if number >= 20:
        tens, number = divmod(number, 10)
        words.append(_ENGLISH_TENS[tens - 2])
    return [*words, _ENGLISH[number]] if number else words


def _bound(ones: int) -> str:
    """Say a number from 1 to 9 before another word, where one loses its s."""
    return "ein" if ones == 1 else _GERMAN[ones]
