"""Published fused images with the values that their authors' own evaluators give them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(os.environ.get("MMFUSE_GOLDEN") or Path(__file__).resolve().parents[2] / "shared" / "golden")


def golden_triples() -> list[dict[str, Any]]:
    """Return all triples: name, files (a, b, fused; relative to GOLDEN) and values; skip the test without them."""
    if not (GOLDEN / "golden.json").is_file():
        pytest.skip(f"no golden values in {GOLDEN}: set MMFUSE_GOLDEN to their folder")
    return json.loads((GOLDEN / "golden.json").read_text())["triples"]
