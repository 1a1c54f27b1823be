"""Words in messages."""

from __future__ import annotations


def number_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as `1 image` or `2 images`.

    Args:
        number: How many.
        noun: One of them, such as `image` or `test image`.
        plural: Several of them; by default, the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
