"""Snakemake's messages with one line for each job: time, jobs done, stage, and the job's log.

Snakemake finds the package by its name, and `logger: mmfuse` in a profile selects it. Dry runs and `--verbose` show
Snakemake's own messages, which are in `.snakemake/log` in any case.
"""

from __future__ import annotations

import sys
import time
from logging import INFO, Formatter, LogRecord
from typing import Any

from snakemake.logging import ColorizingTextHandler, get_event
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

_LONG = 300  # seconds; the end of a longer job is shown, too
# messages without an event that tell a user nothing
_LEFT_OUT = ("Assuming unrestricted", "Building DAG", "Using shell", "Conda environments: ignored", "Select jobs")


class LogHandler(LogHandlerBase):
    """Writes a line for each job that starts; warnings, errors and other messages as Snakemake writes them."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        settings = self.common_settings
        self._usual = ColorizingTextHandler(settings.nocolor, sys.stdout if settings.stdout else sys.stderr)
        self._count = ""
        self._started: dict[int, tuple[float, str]] = {}  # when, and the end of the line, of each running job
        self._long: list[str] = []  # those that ended since the last count

    def setFormatter(self, fmt: Formatter | None) -> None:  # noqa: N802 - the name is that of logging
        """Set the format of the messages that are written as usual."""
        self._usual.setFormatter(fmt)

    def emit(self, record: LogRecord) -> None:
        """Write a message."""
        if self.common_settings.dryrun or self.common_settings.verbose:
            self._usual.emit(record)
            return
        values, event = record.__dict__, get_event(record)
        match event:
            case LogEvent.RUN_INFO:
                self._head(values["stats"])
            case LogEvent.JOB_INFO:
                self._start(values)
            case LogEvent.JOB_FINISHED:
                began, job = self._started.pop(values["job_id"], (time.monotonic(), ""))
                if time.monotonic() - began > _LONG:
                    self._long.append(f"{job} (finished after {(time.monotonic() - began) / 60:.0f} min)")
            case LogEvent.PROGRESS:
                self._progress(values["done"], values["total"])
            case LogEvent.JOB_ERROR | LogEvent.GROUP_ERROR:
                self._error(record)
            case _ if record.levelno > INFO or event in {None, LogEvent.ERROR}:
                if not str(record.msg).startswith(_LEFT_OUT):
                    self._usual.emit(record)

    def _head(self, stats: dict[str, int]) -> None:
        """Write how many jobs there are, and what the lines after it mean."""
        counts = {name: count for name, count in stats.items() if name not in {"all", "total"}}
        self._write(f"jobs: {', '.join(f'{name} {count}' for name, count in counts.items()) or 'none'}")
        self._write("a line for each job that starts, with its log; to follow a job: tail -f LOG")
        self._count = _count(0, stats.get("total", 0))

    def _start(self, job: dict[str, Any]) -> None:
        if job["rule_name"] == "all":
            return
        text = f"{job['rule_name']:<13}  {' '.join(job['log'])}"
        self._started[job["jobid"]] = time.monotonic(), text
        self._line(text)

    def _progress(self, done: int, total: int) -> None:
        self._count = _count(done, total)
        for text in self._long:
            self._line(text)
        self._long.clear()
        if done == total:
            self._line("")

    def _error(self, record: LogRecord) -> None:
        """Write which job failed, its command and its log, without the lists of files, which can be thousands."""
        record.__dict__ |= {"input": [], "output": []}
        for info in getattr(record, "job_error_info", []):
            info |= {"input": [], "output": []}
        self._usual.emit(record)

    def _line(self, text: str) -> None:
        self._write(f"{time.strftime('%a %H:%M:%S')}  {self._count}  {text}".rstrip())

    def _write(self, text: str) -> None:
        self._usual.stream.write(f"{text}\n")
        self._usual.flush()


def _count(done: int, total: int) -> str:
    return f"{done:>{len(str(total))}} of {total} done"
