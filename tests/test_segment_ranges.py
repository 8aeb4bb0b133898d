"""What is known of a segment beside its file: where the points of its runs lie."""

from pathlib import Path

from tests.lake_cases import SMALL, LakeCase
from workers.sealer import Sealer


def test_where_points_lie_is_known_with_the_segment(tmp_path: Path) -> None:
    """From the transaction on that adds a file, sealed or merged, the least and greatest step and
    time of each run are there, and none of files that are gone: a query must not look for them."""
    case = LakeCase(tmp_path)
    for run_id in ("a", "b"):
        case.create_run(run_id)
    for start in (10, 40):
        case.log_points(
            "a", [("loss", start + step, 10 * (start + step), 0.5) for step in range(5)]
        )
        case.log_points("b", [("z", start + step, 10 * (start + step), 0.5) for step in range(2)])
        Sealer(case.views, case.lake, SMALL).seal_all()
    with case.views.read() as connection:
        known = connection.exec_driver_sql(
            "SELECT run_id, min(step_min), max(step_max), min(time_min), max(time_max), count(*)"
            " FROM segment_ranges WHERE segment_id IN (SELECT segment_id FROM segments)"
            " GROUP BY run_id ORDER BY run_id"
        ).all()
        count = connection.exec_driver_sql("SELECT count(*) FROM segments").scalar()
        stale = connection.exec_driver_sql(
            "SELECT count(*) FROM segment_ranges WHERE segment_id NOT IN"
            " (SELECT segment_id FROM segments)"
        ).scalar()
    assert [tuple(row) for row in known] == [
        ("a", 10, 44, 100, 440, 1),
        ("b", 10, 41, 100, 410, 1),
    ]
    assert stale == 0
    assert count == 1
    case.close()
