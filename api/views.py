"""Rows of the database as the shapes of the REST API, and as the optimizer's trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from suffice.optimizer import Measurement, Source, Trial, TrialState

from .records import MeasuredRecord, TrialRecord
from .tables import MeasurementRow, StudyRow, TrialRow
from .wire import BudgetSpec, Lease, MeasurementSpec, SourceOut, StudyOut, TrialOut

Measured = MeasurementRow | MeasurementSpec | MeasuredRecord


def study_out(row: StudyRow) -> StudyOut:
    return StudyOut(
        **row.definition,
        name=row.name,
        seed=row.seed,
        state=row.state,  # type: ignore[arg-type]
        budget=BudgetSpec(trials=row.budget, cost=row.budget_cost),
        lease_seconds=row.lease_seconds,
        max_retries=row.max_retries,
        metadata=row.info,
        created_at=row.created_at,
        updated_at=row.updated_at,
        trials={state: count for state, count in sorted(row.counts.items()) if count},
        data_version=row.data_version,
    )


def trial_out(row: TrialRow | TrialRecord, measured: Sequence[Measured] = (), *, with_lease: bool = False) -> TrialOut:
    lease = None
    if with_lease and row.lease_token is not None and row.lease_expires_at is not None:
        lease = Lease(token=row.lease_token, expires_at=row.lease_expires_at)
    return TrialOut(
        number=row.number,
        state=row.state,  # type: ignore[arg-type]
        parameters=row.parameters,
        measurements=[measurement_out(m) for m in measured],
        source=SourceOut(**row.source),
        reason=row.reason,
        worker=row.worker,
        attempts=row.attempts,
        lease=lease,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def measurement_out(row: Measured) -> MeasurementSpec:
    if isinstance(row, MeasurementSpec):
        return row
    return MeasurementSpec(metric=row.metric, value=row.value, stderr=row.stderr, step=row.step, gradient=row.gradient)


def measurement_fields(measured: MeasurementSpec) -> dict[str, Any]:
    """What of a measurement is stored."""
    return {
        "metric": measured.metric,
        "value": measured.value,
        "stderr": measured.stderr,
        "step": measured.step,
        "gradient": measured.gradient,
    }


def trial_known(row: TrialRow, measured: Sequence[MeasurementRow]) -> Trial:
    """A trial as the optimizer knows it."""
    return Trial(
        number=row.number,
        params=dict(row.parameters),
        state=TrialState(row.state),
        measurements=tuple(Measurement(m.metric, m.value, m.stderr, m.step, m.gradient) for m in measured),
        source=Source.from_json({k: v for k, v in row.source.items() if k != "data_version"}),
        reason=row.reason,
    )
