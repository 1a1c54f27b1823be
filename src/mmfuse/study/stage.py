"""The base class of the stages' declarations; `mmfuse.study.stages` has all of them.

A stage has one job for each value of its key, such as one dataset, or one system on one dataset. The declaration
determines the command of a job, its record, the rule's inputs and outputs in the Snakefile, the jobs of `dvc.yaml`, and
what the report reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from mmfuse.errors import UserError
from mmfuse.files.remembered import remembered_checksum
from mmfuse.study.code_lists import code_of
from mmfuse.study.plan import System, task_of
from mmfuse.study.types import Parameters

Key = Mapping[str, str]  # names and values that identify a job of a stage

_NAME = "[a-z0-9_]+"
# what the values of keys look like, and what they mean
KEYS: Mapping[str, tuple[str, str]] = {
    "dataset": (_NAME, "Dataset of data/catalog.yaml."),
    "patches": (_NAME, "Patch set under `prepare.patches`."),
    "trained_on": (_NAME, "Training set: ivif or mif for that of the task, or the name of another."),
    "method": (_NAME, "Method; see `mmfuse list methods`."),
    "variant": (_NAME, "Variant of the method."),
    "seed": ("[0-9]+", "Seed of the training."),
    "part": (_NAME, "Training part of the method."),
    "analysis": (_NAME, "Analysis; see `mmfuse list analyses`."),
    "protocol": (_NAME, "Protocol under `downstream`."),
    "set": (rf"a|b|{_NAME}\.{_NAME}\.s[0-9]+", "Image set to train on: a, b, or METHOD.VARIANT.sSEED."),
}


class Stage:
    """One stage of the study. A subclass sets the attributes and defines what its jobs read and depend on.

    Attributes:
        name: The stage's name.
        module: The module of `mmfuse.stages` whose `work` does the job; by default, the stage's name.
        key: The names of its key, in the order of the command's options.
        outputs: The path of each output by name, with {KEY} for the values; a folder ends in a slash.
        record: Path of the job's run.json.
        unread: Names of outputs that the report does not read.
        resume: Path of the state of an unfinished job, for stages that resume. It is not an output, because the engines
            delete outputs before they restart a job.
    """

    name: ClassVar[str]
    module: ClassVar[str] = ""
    key: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[Mapping[str, str]]
    record: ClassVar[str]
    unread: ClassVar[tuple[str, ...]] = ()
    resume: ClassVar[str] = ""

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        """Return the key of every job of the study, in the order of the parameters."""
        raise NotImplementedError

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        """Return the files and folders that a job reads, by name, without its code."""
        raise NotImplementedError

    def by_hand(self, parameters: Parameters, key: Key) -> list[str]:  # noqa: ARG002 - for subclasses
        """Return the files and folders that a job reads and that a person may change, where they exist."""
        return []

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        """Return the dotted keys of the parameters that a job's result depends on.

        A change of one of them reruns the job, in both engines. A key of another file than params.yaml is written
        FILE:KEY.
        """
        raise NotImplementedError

    def entries(self, key: Key) -> list[str]:  # noqa: ARG002 - for subclasses
        """Return the modules that a job loads by name, see `mmfuse.study.code_lists.code_of`."""
        return []

    def system(self, parameters: Parameters, key: Key) -> System | None:
        """Return the system of a job, if it has a single one."""
        if "method" not in key or "dataset" not in key:
            return None
        return System(key["method"], key["variant"], task_of(parameters, key["dataset"]), int(key["seed"]))

    def task(self, parameters: Parameters, key: Key) -> str | None:
        """Return the task of a job, `ivif` or `mif`."""
        return task_of(parameters, key["dataset"]) if "dataset" in key else None

    def tags(self, parameters: Parameters, key: Key) -> dict[str, Any]:
        """Return the tags by which a job can be found in MLflow."""
        task = self.task(parameters, key)
        numbers = {"seed": int(key["seed"])} if "seed" in key else {}
        return {**({"task": task} if task else {}), **key, **numbers}

    def checksums(self, parameters: Parameters, key: Key) -> dict[str, str]:
        """Return the checksum of each path of `by_hand`.

        The engines compare them, because a changed file may have an old time, such as one from an archive.
        """
        return {path: remembered_checksum(Path(path)) for path in self.by_hand(parameters, key)}

    # ------------------------------------------------------------------------------- derived from the declaration

    @property
    def summary(self) -> str:
        """What the stage does, in one sentence: the first line of its docstring."""
        return (self.__doc__ or "").partition("\n")[0]

    @property
    def folder(self) -> str:
        """The folder that contains the outputs of all jobs."""
        return next(iter(self.outputs.values())).partition("/{")[0]

    def path(self, output: str, key: Key) -> str:
        """Return the path of one output of a job, or of its `record`; folders without the slash.

        Raises:
            UserError: as `check`; so a path never leads out of the project.
        """
        self.check(key)
        return self.patterns()[output][0].format(**key)

    def check(self, key: Key) -> None:
        """Check that each value of a key has its form.

        Raises:
            UserError: a value has another form, such as a path.
        """
        for name in self.key:
            form, meaning = KEYS[name]
            if not re.fullmatch(form, str(key[name])):
                raise UserError(f"--{name.replace('_', '-')} has no such value.", expected=meaning, found=key[name])

    def files(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        """Return the files and folders that a job reads by name, all of which both engines can handle.

        Raises:
            UserError: a name has braces, in which Snakemake and DVC would fill in values.
        """
        found = self.inputs(parameters, key)
        for path in (path for paths in found.values() for path in paths):
            if re.search(r"\{.*\}", path):
                raise UserError(
                    "A file of the study has a name that the engines would change.",
                    expected="a name without braces, which stand for values in Snakemake and DVC",
                    found=path,
                    fix="rename it",
                )
        return found

    def patterns(self) -> dict[str, tuple[str, bool]]:
        """Return the path of each output and of the record, with {KEY} for the values, and whether it is a folder."""
        found = {**self.outputs, "record": self.record}
        return {name: (path.rstrip("/"), path.endswith("/")) for name, path in found.items()}

    def written(self, key: Key) -> dict[str, str]:
        """Return the path of each output of a job by name, without its record."""
        return {name: self.path(name, key) for name in self.outputs}

    def reported(self, key: Key) -> list[str]:
        """Return what the report reads of a job: its outputs except the `unread` ones, and its record."""
        return [*(self.path(name, key) for name in self.outputs if name not in self.unread), self.path("record", key)]

    def code(self, key: Key) -> list[str]:
        """Return the source files that a job's result depends on."""
        return code_of(self.module or self.name, *self.entries(key))

    def parts(self, key: Key) -> tuple[str, ...]:
        """Return the words that identify a job for a reader: method, variant and seed as one."""
        label = f"{key['method']}.{key['variant']}.s{key['seed']}" if "method" in key else ""
        words = {name: label if name == "method" else key[name] for name in self.key}
        return tuple(word for name, word in words.items() if not (label and name in {"variant", "seed"}))

    def command(self, key: Key) -> str:
        """Return the command of a job."""
        return " ".join(["mmfuse", "--log", self.log(key), "stage", self.name.replace("_", "-"), *self.options(key)])

    def options(self, key: Key) -> list[str]:
        """Return the options that identify a job on the command line."""
        return [word for name in self.key for word in (f"--{name.replace('_', '-')}", key[name])]

    def log(self, key: Key) -> str:
        """Return the path of a job's log."""
        return f"logs/{self.name}/{'.'.join(self.parts(key))}.log" if self.key else f"logs/{self.name}.log"
