"""workflow/scripts/loss_optimum.py: pixels optimised under a loss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from mmfuse.data.images import write_image

SCRIPT = Path(__file__).parents[1] / "workflow/scripts/loss_optimum.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    for number, place in enumerate((100, 200)):
        window = (slice(place, place + 64), slice(place, place + 64))
        write_image(root / f"a/{number}.png", data.camera()[window])
        write_image(root / f"b/{number}.png", data.coins()[window])
    return root / "a", root / "b"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_optimum_of_a_loss_is_what_the_loss_asks_for(folders):
    done = run(*folders, "--loss", "mean_intensity=1", "--loss", "greater_intensity=1", "--steps", "80")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    names = head.replace("rank of 4", "rank").replace("best baseline", "best").split()
    rows = {line.split()[0]: dict(zip(names, line.split()[1:], strict=False)) for line in lines}
    for term, baseline in (("mean_intensity=1", "average"), ("greater_intensity=1", "maximum")):
        for metric in ("EN", "SD", "CC", "PSNR"):
            assert np.isclose(float(rows[term][metric]), float(rows[baseline][metric]), rtol=0.03), (term, metric)
        assert 1 <= float(rows[term]["rank"]) <= 4


@pytest.mark.parametrize(
    ("loss", "says"), [("sim=1", "no loss term 'sim'"), ("ssim", "no weight"), ("ssim=high", "no weight")]
)
def test_a_wrong_loss_is_named(folders, loss, says):
    done = run(*folders, "--loss", loss)
    assert done.returncode == 2
    assert says in done.stderr
