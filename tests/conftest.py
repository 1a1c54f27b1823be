"""Shared fixtures: made-up images, packs and parameters, a project folder, and a place of its own for tracked runs."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mmfuse.data.images import Bytes, write_image
from mmfuse.data.packs import Sample, write_pack

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with whole studies first: at the end one of two workers would wait for the other."""
    long = {item.path for item in items if item.get_closest_marker("engines")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def _own_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test tracks goes to its own folder, never to the project's database or somebody's server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No width of a terminal, which pytest's workers have."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, a copy takes none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    """The address that this test's runs go to, with the tables made already."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def draw_image(seed: int, height: int = 40, width: int = 56, *, colour: bool = False) -> Bytes:
    """A smooth random image with an edge, unlike in rows, columns and channels."""
    random = np.random.default_rng(seed)
    grid = random.uniform(0, 255, (4, 5, 3 if colour else 1))
    rows, columns = np.linspace(0, 3, height), np.linspace(0, 4, width)
    near = grid[rows.astype(int)][:, columns.astype(int)]
    ramp = (rows[:, None] * 20 + columns[None] * 9)[..., None]
    image = np.clip(near * 0.7 + ramp + random.normal(0, 4, near.shape), 0, 255).astype(np.uint8)
    return image if colour else image[..., 0]


@pytest.fixture
def image() -> Callable[..., Bytes]:
    """Make an image: `image(seed, height, width, colour=...)`."""
    return draw_image


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of matching images: odd sizes, grey and colour, PNG, JPEG and BMP."""
    a, b = tmp_path / "infrared", tmp_path / "visible"
    write_image(a / "one.png", draw_image(1, 33, 47))
    write_image(b / "one.jpg", draw_image(2, 33, 47, colour=True))
    write_image(a / "two words.bmp", draw_image(3, 40, 40))
    write_image(b / "two words.png", draw_image(4, 40, 40))
    write_image(a / "3.JPG", draw_image(5, 61, 40, colour=True))
    write_image(b / "3.png", draw_image(6, 61, 40, colour=True))
    return a, b


@pytest.fixture
def make_pack(tmp_path: Path) -> Callable[..., Path]:
    """Write a pack of luminance pairs: `make_pack(count, height, width, name)`."""

    def make(count: int = 4, height: int = 40, width: int = 48, name: str = "train") -> Path:
        samples: list[Sample] = [
            {"name": f"p{n}", "a": draw_image(2 * n, height, width), "b": draw_image(2 * n + 1, height, width)}
            for n in range(count)
        ]
        path = tmp_path / "packs" / f"{name}.safetensors"
        write_pack(path, samples)
        return path

    return make


def demo_parameters() -> dict[str, Any]:
    """The demo's parameters, and those of methods that only params.yaml has, such as one's own."""
    values, own = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        for name in ("workflow/configs/demo.yaml", "params.yaml")
    )
    values["methods"] = own["methods"] | values["methods"]
    return values


@pytest.fixture
def parameters() -> dict[str, Any]:
    """The demo's parameters, made small: width 4, small crops, six steps on a processor; no shipped weights."""
    values = demo_parameters()
    values["study"]["systems"] = [entry for entry in values["study"]["systems"] if entry["variant"] != "shipped"]
    del values["methods"]["lkc_funet"]["variants"]["shipped"]
    for block in values["methods"].values():
        if "width" in block.get("network", {}):
            block["network"]["width"] = 4
        for part in block.get("parts", {}).values():
            part.update(steps=6, batch=2, patches="whole")
            part["crop"].update(height=32, width=32)
    values["train"].update(accelerator="cpu", log_every=1, save_every=3, validate_every=2, validation_images=2)
    values["train"]["validation_side"] = 32
    return values


@pytest.fixture
def project(tmp_path: Path, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder to work in: small parameters, schemas, catalog and manifests; it is the current folder."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "workflow/schemas", root / "workflow/schemas")
    shutil.copytree(ROOT / "data/manifests", root / "data/manifests")
    shutil.copy(ROOT / "data/catalog.yaml", root / "data/catalog.yaml")
    (root / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def mmfuse(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Any]]:
    """Run a command in this process: `mmfuse("fuse", a, b, out)` returns exit code, output and errors."""
    from mmfuse.cli import app as cli

    before = signal.getsignal(signal.SIGTERM)  # the command has one of its own
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*words: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmfuse", *map(str, words)])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    yield run
    signal.signal(signal.SIGTERM, before)
