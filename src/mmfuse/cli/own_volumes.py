"""`mmfuse fuse` for volumes: NIfTI files and DICOM series."""

from __future__ import annotations

import sys
from pathlib import Path

from mmfuse.errors import UserError
from mmfuse.volumes.kinds import has_nifti_name, is_volume
from mmfuse.weights import shipped


def are_volumes(a: Path, b: Path, out: Path) -> bool:
    """Return whether the user means volumes: one of the sources is one, or a NIfTI file is to be written."""
    return has_nifti_name(out) or any(path.exists() and is_volume(path) for path in (a, b))


def check_unused(**options: object) -> None:
    """Check that no option is given that has no effect here.

    Raises:
        UserError: one is given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        raise UserError(f"{given[0]} has no effect here.", fix="leave it out")


def fuse(
    a: Path,
    b: Path,
    out: Path,
    *,
    weights: str | None = None,
    method: str | None = None,
    task: str | None = None,
    axis: str | None = None,
    value_range: str | None = None,
    resize_to: str | None = None,
    backend: str = "torch",
    precision: str = "fp32",
) -> None:
    """Fuse two volumes into a NIfTI file.

    Args:
        a: The first volume: a NIfTI file, or the folder of a DICOM series.
        b: The second volume.
        out: File to write, .nii or .nii.gz.
        weights: A weights file, or the name of shipped weights.
        method: A training-free method instead of weights. Without both, the default weights for medical images are
            used.
        task: Task of the shipped weights, by default `mif`.
        axis: Plane of the slices, by default axial.
        value_range: See `volumes.ranges.parsed`, by default auto.
        resize_to: `a` or `b`: whose grid the result has, by default that of `a`.
        backend: One of `inference.backends.BACKENDS`.
        precision: fp32, bf16 or auto; see `inference.backends.prepared`.

    Raises:
        UserError: a volume, an option or the weights cannot be used, or the two volumes do not fit together.
    """
    from mmfuse.api.choosing import check_choice, chosen, network, shipped_weights
    from mmfuse.fastconv.workspace import keep_freed_memory
    from mmfuse.inference.backends import prepared
    from mmfuse.inference.fusing import best_device
    from mmfuse.volumes import fusing

    check_choice(weights, method, task)
    fusing.check_volumes(a, b, out)
    pair = fusing.Pair(a, b, axis=axis or "axial", value_range=value_range or "auto", grid=resize_to or "a")
    used = [] if weights is None else [Path(weights).name]

    def find_shipped() -> shipped.Shipped:
        one = shipped_weights(weights, task or (None if weights else "mif"), lambda: "mif")
        used[:] = [one.name]
        print(f"weights: {one.name} (method {one.method})", file=sys.stderr)
        return one

    net = network(chosen(weights, method, task, find_shipped))
    device = best_device()
    keep_freed_memory()
    apply, record = prepared(net.to(device), device, backend=backend, precision=precision)
    fusing.print_told(pair)
    how = {"method": type(net).__module__.rpartition(".")[2], "weights": next(iter(used), None)}
    fusing.fuse_volumes(pair, out, apply, device, how | record)
    print(f"fused volume: {out}")
