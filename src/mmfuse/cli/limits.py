"""Errors that are due to a limit of the machine: a full disk, the largest file, too little memory."""

from __future__ import annotations

from mmfuse.errors import UserError, causes
from mmfuse.files.writing import no_space

_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",  # a library that is being loaded
    "can't start new thread",
)


def outer_limit(error: Exception) -> UserError | None:
    """Return the message for an error that is due to a limit of the machine, not to the user or to us; else None."""
    full = no_space(error)
    if full:
        return UserError(
            "Cannot write.",
            found=full,
            fix="free some space, or raise the limit on the size of files (ulimit -f), then run the same command again",
        )
    for one in causes(error):
        lines = [line for line in str(one).splitlines() if any(word in line.lower() for word in _NO_MEMORY)]
        if lines or isinstance(one, MemoryError):
            return UserError(
                "There is not enough memory.",
                found=f"{type(one).__name__}: {lines[0].strip() if lines else one}".rstrip(": "),
                fix="give the job more memory (also of address space, ulimit -v), or reduce the part's batch or crop, "
                "evaluate.workers, or the images' size",
            )
    return None
