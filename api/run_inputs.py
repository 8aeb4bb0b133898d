"""The inputs and outputs of a run as MLflow's clients read them."""

from __future__ import annotations

from typing import Any

from api.answers import key_values, without_empty
from projections.datasets import InputDataset, RunInputs


def inputs_json(inputs: RunInputs) -> dict[str, Any]:
    """The `inputs` of a run; empty where it has none."""
    return without_empty(
        {
            "dataset_inputs": [_dataset_input_json(dataset) for dataset in inputs.datasets],
            "model_inputs": [{"model_id": model_id} for model_id in inputs.models],
        }
    )


def outputs_json(outputs: list[tuple[str, int]]) -> dict[str, Any]:
    """The `outputs` of a run, from (model id, step); empty where it has none."""
    return without_empty(
        {"model_outputs": [{"model_id": model_id, "step": step} for model_id, step in outputs]}
    )


def _dataset_input_json(dataset: InputDataset) -> dict[str, Any]:
    told = {
        "name": dataset.name,
        "digest": dataset.digest,
        "source_type": dataset.source_type,
        "source": dataset.source,
        "schema": dataset.schema or None,
        "profile": dataset.profile or None,
    }
    return without_empty({"tags": key_values(dataset.tags), "dataset": without_empty(told)})
