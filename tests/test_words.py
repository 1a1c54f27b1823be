"""Words in messages: the noun of a number is singular for 1, in every message of the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmfuse.words import number_of

ROOT = Path(__file__).parents[1]
# a number of things, such as {len(pairs)} pairs
COUNT = re.compile(
    r"\{(?:len\([^{}]*\)|[\w.]*(?:count|counts|images|pairs|scenes|seeds))\} "
    r"(?:[a-z]+ )?(?:boards|cells|files|frames|images|jobs|labels|metrics|packages|pairs|patches|results|rows|scenes"
    r"|seeds|stages|states|steps|systems|tensors)\b"
)
# at least two of them
MANY = ("if many", "seeds > 1", "count > 1", "the mean of {len(seeds)} seeds")


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [(0, ("image",), "0 images"), (1, ("test image",), "1 test image"), (2, ("patch", "patches"), "2 patches")],
)
def test_the_noun_follows_its_number(number, words, text):
    assert number_of(number, *words) == text


@pytest.mark.parametrize("text", ["{len(pairs)} pairs", "{len(a | b)} fused images in", "{count} files and"])
def test_the_check_finds_a_plural_that_is_always_one(text):
    assert COUNT.search(text)


@pytest.mark.parametrize("folder", ["src", "workflow"])
def test_messages_count_with_the_helper(folder):
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        for match in COUNT.finditer(line)
        if not any(words in line for words in MANY)
    }
    assert found == set()
