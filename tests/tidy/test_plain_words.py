"""Prose in plain words: phrases that no file may have, and what to write in place of them.

CONTRIBUTING.md has the rules; this is the part of them that a test can hold. A phrase is found
across line ends, comment markers and quotes, and as whole words.
"""

import re
from pathlib import Path

from tests.tidy.test_house_rules import ROOT, WRITTEN, complain, place

PLAIN_WORDS = {
    "ahead of need": "proactively",
    "anew": "again",
    "as ever": "still",
    "at the most": "at most",
    "be had": "be available",
    "be old": "be stale",
    "bequeath": "reparent",
    "bequeathed": "reparented",
    "bequeaths": "reparents",
    "bind nobody": "be advisory",
    "came to pass": "happened",
    "come to pass": "happen",
    "comes to pass": "happens",
    "for ever": "without end",
    "for lack of": "without",
    "heed": "follow",
    "heeds": "follows",
    "heir": "parent",
    "hence": "so",
    "henceforth": "from then on",
    "herein": "here",
    "in vain": "without success",
    "let go": "free",
    "mend": "fix",
    "mends": "fixes",
    "obey": "apply",
    "obeys": "applies",
    "of old": "earlier",
    "set going": "start",
    "sets going": "starts",
    "thereby": "so",
    "thereof": "of it",
    "to last": "to keep",
    "told": "reported",
    "who wanted": "reads of",
    "whoever": "the caller",
    "why not more": "limitation",
}
BETWEEN_WORDS = r"""[\s/#*"'`]+"""
PHRASE = re.compile(
    r"\b(" + "|".join(PLAIN_WORDS).replace(" ", BETWEEN_WORDS) + r")\b", re.IGNORECASE
)


def found(text: str) -> list[tuple[int, str]]:
    """The line and the phrase of each place where `text` has one."""
    return [
        (text.count("\n", 0, match.start()) + 1, re.sub(BETWEEN_WORDS, " ", match[0]).lower())
        for match in PHRASE.finditer(text)
    ]


def test_a_phrase_is_found_across_the_lines_of_a_comment() -> None:
    assert found("  // One\n  // that came to\n  //   Pass, passed.\n") == [(2, "came to pass")]


def test_prose_is_in_plain_words() -> None:
    complain(
        f"{place(path, line)}: not {phrase!r} but {PLAIN_WORDS[phrase]!r}, or another plain word"
        for path in WRITTEN
        if path not in (Path(__file__), ROOT / "LICENSE")
        for line, phrase in found(path.read_text())
    )
