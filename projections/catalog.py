"""Every view, in the order in which they fold an event: what can reject it comes first."""

from __future__ import annotations

from events.catalog import EVENT_TYPES
from projections import (
    datasets,
    experiments,
    lake_changes,
    logged_models,
    metrics,
    runs,
    segments,
)
from projections.view import EntityView

VIEWS: tuple[EntityView, ...] = (
    lake_changes.BEFORE,
    experiments.VIEW,
    runs.VIEW,
    datasets.VIEW,
    logged_models.VIEW,
    metrics.VIEW,
    segments.VIEW,
    lake_changes.VIEW,
)

__all__ = ["EVENT_TYPES", "VIEWS"]
