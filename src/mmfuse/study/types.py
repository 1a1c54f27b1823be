"""The types of `params.yaml`, written by workflow/scripts/schema_types.py from its schema."""

# ruff: noqa: E501 - the schema's sentences

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class Parameters(TypedDict):
    """Parameters of a study."""

    study: Study
    download: Download
    generate: dict[str, Generator]
    prepare: Prepare
    train: Train
    fuse: Fuse
    evaluate: Evaluate
    analyse: NotRequired[dict[str, Analyse]]
    downstream: NotRequired[dict[str, Protocol]]
    report: Report
    methods: dict[str, Method]


class Study(TypedDict):
    """The systems, and the datasets for training and testing."""

    name: str
    seeds: list[int]
    tasks: dict[str, StudyTasks]
    training_sets: NotRequired[dict[str, StudyTrainingSets]]
    systems: list[StudySystems]
    external: NotRequired[dict[str, list[str]]]


class StudyTasks(TypedDict):
    """The datasets of the task's own training set, and those whose test pairs are scored."""

    train: list[str]
    test: list[str]


class StudyTrainingSets(TypedDict):
    """The datasets that a training reads; its weights are under data/checkpoints/NAME."""

    task: Literal["ivif", "mif", "both"]
    train: list[str]
    val: list[str]
    pairs: NotRequired[dict[str, int]]


class StudySystems(TypedDict):
    """One method with one variant."""

    method: str
    variant: str
    tasks: list[Literal["ivif", "mif"]]


class Download(TypedDict):
    """The source of the datasets."""

    mirror: str | None


class Generator(TypedDict):
    """Number and size of the generated images."""

    seed: int
    height: int
    width: int
    train: int
    val: int
    test: int


class Prepare(TypedDict):
    """How pairs become training and test data."""

    val_fraction: float
    val_pairs: NotRequired[dict[str, int]]
    skip_broken: bool
    subset: NotRequired[dict[str, PrepareSubset]]
    patches: dict[str, PreparePatches]


class PrepareSubset(TypedDict):
    """How many pairs of each split are used, spread evenly over its names, after those that the catalog lists as exceptions to a rule; by default all."""

    train: NotRequired[int]
    val: NotRequired[int]
    test: NotRequired[int]


class PreparePatches(TypedDict):
    """How training images are cut into patches."""

    height: int
    width: int
    stride: int
    random: int | None
    seed: int
    low_contrast: PreparePatchesLowContrast | None
    box_visible: float


class PreparePatchesLowContrast(TypedDict):
    """PreparePatchesLowContrast."""

    lower: float
    upper: float
    threshold: float


class Train(TypedDict):
    """The training loop, the same for all methods."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    devices: int | Literal["auto"]
    nodes: NotRequired[int]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    tf32: NotRequired[bool]
    threads: int
    log_every: int
    save_every: int
    validate_every: int
    validation_images: int
    validation_side: int
    pictures: NotRequired[int]


class Fuse(TypedDict):
    """Applying the trained systems."""

    threads: int
    precision: NotRequired[Literal["fp32", "bf16", "auto"]]
    pictures: int


class Evaluate(TypedDict):
    """Measuring the fused images."""

    convention: str
    beside: list[str]
    metrics: list[str]
    workers: int


class Analyse(TypedDict):
    """One analysis, run for every named system on every named dataset, with each seed of the study."""

    datasets: list[str]
    systems: list[AnalyseSystems]
    options: dict[str, Any]


class AnalyseSystems(TypedDict):
    """One method with one variant."""

    method: str
    variant: str


class Protocol(TypedDict):
    """One downstream protocol, the same for every image set."""

    goal: Literal["detect", "segment"]
    dataset: str
    splits: list[Literal["train", "val", "test"]]
    unlabelled: NotRequired[Literal["class", "ignore"]]
    division: ProtocolDivision
    sets: list[str]
    seeds: list[int]
    transfer: bool
    pictures: int
    model: ProtocolModel
    training: ProtocolTraining


class ProtocolDivision(TypedDict):
    """ProtocolDivision."""

    by: Literal["catalog"]
    scene: NotRequired[Scene | None]


class Scene(TypedDict):
    """Scene."""

    pattern: str
    frames: int | None


class ProtocolModel(TypedDict):
    """The model to train."""

    name: str
    pretrained: bool
    options: dict[str, Any]


class ProtocolTraining(TypedDict):
    """How the model is trained; the last weights are used."""

    height: int
    width: int
    steps: NotRequired[int]
    epochs: NotRequired[float]
    batch: int
    optimiser: Literal["sgd", "adamw", "adam"]
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "constant"]
    warmup: int
    clip: float | None
    flip: bool
    zoom: list[float]
    loss: dict[str, float]
    threads: int
    log_every: int
    save_every: int


class Report(TypedDict):
    """The page that sums up the study."""

    images: int | dict[str, list[str]]
    places: NotRequired[dict[str, dict[str, list[int]]]]
    patch: int
    zoom: int
    width: int
    viewer: ReportViewer
    published: NotRequired[list[ReportPublished]]
    sweeps: NotRequired[list[ReportSweeps]]


class ReportViewer(TypedDict):
    """Contents of the comparison viewer; reports/viewer grows with pairs times systems times seeds."""

    pairs: int | None
    seeds: Literal["all", "first"]


class ReportPublished(TypedDict):
    """One table for one dataset."""

    paper: str
    table: str
    of: str
    datasets: NotRequired[list[str]]
    protocol: NotRequired[str]
    rows: dict[str, str]
    claims: NotRequired[dict[str, str]]
    classes: NotRequired[dict[str, str]]
    means: NotRequired[Literal["all", "printed"]]
    note: str


class ReportSweeps(TypedDict):
    """One figure."""

    title: str
    method: str
    x: str
    lines: dict[str, list[str]]
    metrics: list[str]


class Method(TypedDict):
    """A method's options, its training parts in order, and its variants."""

    network: NotRequired[dict[str, Any]]
    parts: NotRequired[dict[str, Part]]
    trained_on: NotRequired[str | MethodTrainedOn]
    weights: NotRequired[str | MethodWeights]
    variants: NotRequired[dict[str, dict[str, Any]]]


class Part(TypedDict):
    """How one part of a method is trained."""

    patches: str
    steps: NotRequired[int]
    epochs: NotRequired[float]
    batch: int
    crop: PartCrop
    repeat: NotRequired[dict[str, int]]
    drop_last: NotRequired[bool]
    flip: bool
    vertical_flip: NotRequired[bool]
    quarter_turns: NotRequired[bool]
    jitter: NotRequired[PartJitter]
    optimiser: Literal["adamw", "adam"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["cosine", "constant"] | PartSchedule
    warmup: int
    clip: float | None
    loss: dict[str, float]
    weights: NotRequired[Literal["best", "last"]]
    keep_moments: NotRequired[bool]
    moments: NotRequired[Literal["fresh", "continued"]]
    averaging: NotRequired[float]
    survey: NotRequired[int]
    network: NotRequired[dict[str, Any]]


class PartCrop(TypedDict):
    """The random crop of a training pair."""

    height: int
    width: int
    scale: list[float] | None
    ratio: list[float]


class PartJitter(TypedDict):
    """Random brightness changes, drawn separately for each image of a pair; none by default."""

    share: float
    gamma: list[float]
    gain: list[float]


class PartSchedule(TypedDict):
    """PartSchedule."""

    step_epochs: float
    factor: float
    floor: float
    ahead: float


class MethodTrainedOn(TypedDict):
    """MethodTrainedOn."""

    ivif: NotRequired[str]
    mif: NotRequired[str]


class MethodWeights(TypedDict):
    """MethodWeights."""

    ivif: NotRequired[str]
    mif: NotRequired[str]
