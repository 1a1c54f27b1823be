"""Trained networks in MLflow's registry."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmfuse.errors import UserError
from mmfuse.tracking import Tracker
from mmfuse.tracking.servers import answers_needed, keep_quiet, shown_uri

if TYPE_CHECKING:
    from torch import nn

ALIAS = "best"
_NEEDS = ("torch", "numpy", "safetensors", "mlflow")


def register(
    tracker: Tracker,
    model: nn.Module,
    *,
    name: str,
    example: NDArray[np.float32],
    weights: Path,
    tags: Mapping[str, str],
) -> str:
    """Log a model with its signature, an example and its weights, register it, and give it the alias `best`.

    MLflow stores the model as a pickle, which runs code when it is loaded, with the weights as safetensors beside it.
    Its format without code requires tracing, which takes too long for some of our networks.

    Shape: the model takes (B, 2, H, W) and returns (B, 1, H, W); example is one such input.

    Returns:
        The version.

    Raises:
        UserError: nothing is tracked, or MLflow does not accept the model.
    """
    shown = shown_uri(tracker.uri, tracker.root)
    if tracker.run_id is None:
        raise UserError(f"MLflow at {shown} cannot be reached.", fix="start it, or set MLFLOW_TRACKING_URI")
    keep_quiet()
    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)  # it warns of pickles, but the command does so, too
    import mlflow
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    single = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(single, (-1, 2, -1, -1))]), outputs=Schema([TensorSpec(single, (-1, 1, -1, -1))])
    )
    mlflow.set_tracking_uri(tracker.uri)
    with answers_needed(f"MLflow at {shown} does not accept the model.", tracker.uri):
        # MLflow writes into the progress bar that a model is registered, which the command says itself
        with mlflow.start_run(run_id=tracker.run_id), contextlib.redirect_stderr(io.StringIO()):
            logged = mlflow.pytorch.log_model(
                model,
                name="model",
                signature=signature,
                input_example=example,
                serialization_format="pickle",
                extra_files=[str(weights)],
                pip_requirements=[f"{library}=={importlib.metadata.version(library)}" for library in _NEEDS],
                registered_model_name=name,
            )
        client, version = mlflow.MlflowClient(), str(logged.registered_model_version)
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)
        client.set_registered_model_alias(name, ALIAS, version)
    return version
