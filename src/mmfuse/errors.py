"""Errors that state what was expected, what was found and what to do.

Exit codes of the command line: 2 for the user's mistakes (`UserError`), 1 for ours (anything else).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

_SHOWN = 4000  # characters of a value in a message
_LISTED = 10  # problems in one message


class MmfuseError(Exception):
    """Something went wrong inside mmfuse."""

    exit_code = 1


class UserError(MmfuseError):
    """Bad input: one message that states what was expected, what was found and what to do.

    Args:
        problem: One sentence, with the path or key concerned.
        expected: What would have been right.
        found: What was found instead.
        fix: What the user can do now.
    """

    exit_code = 2

    def __init__(self, problem: str, *, expected: object = None, found: object = None, fix: str | None = None) -> None:
        self.problem, self.expected, self.found, self.fix = problem, expected, found, fix
        lines = [problem]
        lines += [f"  expected: {_shortened(expected)}"] if expected is not None else []
        lines += [f"  found:    {_shortened(found)}"] if found is not None else []
        lines += [f"  to do:    {fix}"] if fix is not None else []
        super().__init__("\n".join(lines))


class UserValueError(UserError, ValueError):
    """A `UserError` for Python programs: an argument has a wrong value."""


class UserTypeError(UserError, TypeError):
    """A `UserError` for Python programs: an argument has a wrong type."""


Function = TypeVar("Function", bound=Callable[..., Any])


def python_errors(function: Function) -> Function:
    """Let a function of the Python interface raise each `UserError` as one that is also a ValueError or a TypeError."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            if isinstance(error, ValueError | TypeError):
                raise
            raise UserValueError(error.problem, expected=error.expected, found=error.found, fix=error.fix) from error

    return cast(Function, call)


def together(what: str, errors: Sequence[UserError]) -> UserError:
    """Return one error for several mistakes in `what`; a single error is returned as it is."""
    if len(errors) == 1:
        return errors[0]
    every = "\n".join(str(error) for error in errors)
    return UserError(f"{what}: {len(errors)} mistakes.\n{every}", fix="correct each of them")


def short(error: UserError) -> str:
    """Return an error in one line, for a list of problems."""
    return error.problem + (f" ({error.found})" if error.found is not None else "")


def first_of(problems: Sequence[str], shown: int = _LISTED) -> str:
    """Return the first problems of a long list, one per line, for `found` in a message."""
    more = [f"and {len(problems) - shown} more"] if len(problems) > shown else []
    return "\n            ".join([*problems[:shown], *more])


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from: some libraries raise their own errors after the system's."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__


def _shortened(value: object) -> str:
    """Return a value as text for a message, shortened: a file from elsewhere may contain a very long one."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def closest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return advice for an unknown name: the closest known name, or `otherwise` if none is close."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f"did you mean {by_lower_case[close[0]]!r}?" if close else otherwise


def unknown_name(problem: str, name: str, known: Iterable[str], otherwise: str) -> UserError:
    """Return the error for an unknown name; `otherwise` is the advice if no known name is close."""
    known = list(known)
    return UserError(problem, expected=", ".join(known), found=name, fix=closest(name, known, otherwise))


def check_choices(what: str, choices: Mapping[str, Collection[str]], **chosen: str) -> None:
    """Check that each option has one of its allowed values.

    Args:
        what: What has the options, such as a network's name.
        choices: The allowed values of each option.
        **chosen: The options.

    Raises:
        UserError: an option has another value.
    """
    for option, value in chosen.items():
        if value not in choices[option]:
            problem = f"{what} does not support this {option}."
            raise unknown_name(problem, str(value), choices[option], "take one of these")
