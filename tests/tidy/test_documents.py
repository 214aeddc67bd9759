"""The documents name what exists: files, and functions in the walks of ARCHITECTURE.md."""

import re
from collections.abc import Iterator

from tests.tidy.test_house_rules import ROOT, complain, place, tracked

LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)\)")
FUNCTION = re.compile(r"`(\w+(?:::\w+)?)`")


def links() -> Iterator[tuple[str, str, str]]:
    """Where each link to a file is, its text and its target."""
    for document in tracked(".md"):
        for number, line in enumerate(document.read_text().splitlines(), 1):
            for text, target in LINK.findall(line):
                target_path = (document.parent / target).resolve()
                yield place(document, number), text, str(target_path.relative_to(ROOT))


def test_links_lead_to_files() -> None:
    complain(
        f"{where}: there is no {target}"
        for where, _, target in links()
        if not (ROOT / target).exists()
    )


def test_functions_are_defined_where_a_walk_says() -> None:
    def missing() -> Iterator[str]:
        for where, text, target in links():
            function = FUNCTION.fullmatch(text)
            if function and f"{function[1]}(" not in (ROOT / target).read_text():
                yield f"{where}: no {function[1]} in {target}"

    complain(missing())
