"""Every fixed sequence."""

from tests.differential import (
    artifacts,
    experiments,
    http_shapes,
    limits_lifecycle,
    limits_metrics,
    limits_names,
    limits_search,
    logged_models,
    metrics,
    runs,
    searches,
)

CASES = (
    *experiments.CASES,
    *runs.CASES,
    *metrics.CASES,
    *logged_models.CASES,
    *artifacts.CASES,
    *searches.CASES,
    *http_shapes.CASES,
    *limits_names.CASES,
    *limits_metrics.CASES,
    *limits_lifecycle.CASES,
    *limits_search.CASES,
)
