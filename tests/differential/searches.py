"""Search of runs: the filter language in every form, order, view types and pages."""

from tests.differential.calls import (
    AJAX,
    NEW_EXPERIMENT,
    Call,
    Case,
    Json,
    Ours,
    new_run,
    post,
    refused,
)
from tests.differential.metrics import dataset, log_inputs
from tests.differential.runs import batch, delete, log_metric, point, update


def search(text: str | None = None, **body: Json) -> Call:
    given = {} if text is None else {"filter": text}
    return post("runs/search", {"experiment_ids": ["${exp}"], **given, **body})


def fill(run: str, number: int) -> tuple[Call, ...]:
    """A run with its number in every kind of value."""
    return (
        new_run(
            run,
            1000 * number,
            user_id=f"user{number}",
            tags=[{"key": "kind", "value": f"Kind {number}"}, {"key": "odd key", "value": "it's"}],
        ),
        batch(
            metrics=[point("acc", number / 10, 10, 0), point("odd metric/x", number * 1.5)],
            params=[{"key": "lr", "value": f"0.{number}"}, {"key": "Model", "value": "Tree"}],
            run=run,
        ),
    )


# Four runs that differ in every kind of value, a fifth with NaN, infinity and no params.
FILLED: tuple[Call, ...] = (
    NEW_EXPERIMENT,
    *(call for number in range(1, 5) for call in fill(f"r{number}", number)),
    new_run("r5", 5000),
    batch(metrics=[point("acc", "NaN"), point("only5", "Infinity")], run="r5"),
    post("runs/set-tag", {"run_id": "${r2}", "key": "only2", "value": "50%_off"}),
    post("runs/log-parameter", {"run_id": "${r3}", "key": "only3", "value": ""}),
    post("runs/update", {"run_id": "${r1}", "status": "FINISHED", "end_time": 9000}),
    post("runs/update", {"run_id": "${r4}", "status": "FAILED", "end_time": 8000}),
    log_inputs(dataset("iris", "abc", "train"), run="r1"),
    log_inputs(dataset("iris", "def", "eval"), dataset("wine", "123", "train"), run="r2"),
)

METRIC_FILTERS = (
    "metrics.acc > 0.2",
    "metrics.acc >= 0.2",
    "metrics.acc < 0.2",
    "metrics.acc <= 0.2",
    "metrics.acc = 0.2",
    "metrics.acc != 0.2",
    "metric.acc > 0.2",
    "metrics.`acc` > 0.2",
    'metrics."acc" > 0.2',
    "metrics.`odd metric/x` > 2",
    "metrics.acc > .2",
    "metrics.acc > 2e-1",
    "metrics.acc > -1",
    "metrics.acc > +0.1",
    "metrics.none > 0",
    "metrics.none != 0",
    "metrics.only5 > 1e300",
    "metrics.acc = 0",
    "metrics.acc > '0.2'",
    "metrics.acc LIKE '0'",
    "metrics.acc IS NULL",
    "metrics.acc IS NOT NULL",
    "metrics.acc IN (0.1, 0.2)",
    "metrics.acc > NaN",
    "metrics.acc > 1e400",
    "metrics.acc == 0.2",
    "metrics.acc <> 0.2",
    "metrics > 0.2",
)

PARAM_FILTERS = (
    "params.lr = '0.2'",
    'params.lr = "0.2"',
    "params.lr != '0.2'",
    "param.lr = '0.2'",
    "parameters.lr = '0.2'",
    "params.`lr` = '0.2'",
    "params.Model = 'tree'",
    "params.model = 'Tree'",
    "params.Model LIKE 't%'",
    "params.Model LIKE 'T%'",
    "params.Model ILIKE 't%'",
    "params.Model ilike 't%'",
    "params.lr LIKE '0._'",
    "params.only3 = ''",
    "params.lr IS NULL",
    "params.lr IS NOT NULL",
    "params.lr is not null",
    "params.none IS NULL",
    "params.lr = 0.2",
    "params.lr > '0.2'",
    "params.lr IN ('0.1', '0.2')",
    "params.lr = 0.2'",
    "params.lr = '0.2",
    "params.lr = lr",
)

TAG_FILTERS = (
    "tags.kind = 'Kind 1'",
    "tag.kind = 'Kind 1'",
    "tags.kind != 'Kind 1'",
    "tags.kind LIKE 'Kind%'",
    "tags.kind ILIKE 'kind 2'",
    'tags.`odd key` = "it\'s"',
    'tags."odd key" LIKE "it%"',
    "tags.only2 LIKE '50%'",
    "tags.only2 = '50%_off'",
    "tags.only2 LIKE '%_%'",
    "tags.only2 IS NULL",
    "tags.only2 IS NOT NULL",
    "tags.mlflow.runName = 'r1'",
    "tags.`mlflow.runName` != 'r1'",
    "tags.kind > 'Kind 1'",
    "tags.kind IN ('Kind 1')",
)

ATTRIBUTE_FILTERS = (
    "status = 'FINISHED'",
    "attributes.status = 'FINISHED'",
    "attribute.status = 'RUNNING'",
    "attr.status != 'RUNNING'",
    "run.status = 'FAILED'",
    "status LIKE 'F%'",
    "status ILIKE 'fin%'",
    "status = 'finished'",
    "status = 'NONSENSE'",
    "attributes.start_time > 2000",
    "start_time >= 2000",
    "start_time = 2000",
    "start_time != 2000",
    "start_time < 2000.5",
    "start_time > '2000'",
    "attributes.end_time < 8500",
    "end_time > 0",
    "end_time IS NULL",
    "run_name = 'r1'",
    "attributes.`run name` = 'r1'",
    "attributes.\"Run Name\" = 'r1'",
    "attributes.run_name ILIKE 'R%'",
    "run_name LIKE 'r_'",
    "name = 'r1'",
    "user_id = 'user1'",
    "attributes.user_id LIKE 'user%'",
    "attributes.User = 'user1'",
    "attributes.Created > 2000",
    "created > 2000",
    "run_id = '${r1}'",
    "attributes.run_id = '${r1}'",
    "run_id IN ('${r1}', '${r3}')",
    "run_id NOT IN ('${r1}', '${r3}')",
    "run_id in ('${r1}')",
    "run_id IN ()",
    "run_id IN ('${r1}'",
    "run_id != '${r1}'",
    "run_id LIKE '%'",
    "artifact_uri LIKE '%${r1}%'",
    "lifecycle_stage = 'active'",
    "experiment_id = '${exp}'",
    "run_id IN '${r1}'",
    "status IN ('FINISHED', 'FAILED')",
    "status NOT IN ('FINISHED')",
    "run_name IN ('r1', 'r2')",
    "attributes.nonsense = 'x'",
    "nonsense = 'x'",
    "nonsense.key = 'x'",
)

DATASET_FILTERS = (
    "dataset.name = 'iris'",
    "datasets.name = 'iris'",
    "dataset.name != 'iris'",
    "dataset.name LIKE 'i%'",
    "dataset.name ILIKE 'IRIS'",
    "dataset.digest = 'abc'",
    "dataset.digest IN ('abc', '123')",
    "dataset.name IN ('iris')",
    "dataset.context = 'train'",
    "dataset.context != 'train'",
    "dataset.context IN ('train')",
    "dataset.name = 'iris' AND dataset.digest = 'def'",
    "dataset.name = 'iris' AND dataset.context = 'train'",
    "dataset.name = 5",
    "dataset.nonsense = 'x'",
)

COMBINED_FILTERS = (
    "",
    "metrics.acc > 0.1 AND params.lr != '0.3'",
    "metrics.acc > 0.1 and metrics.acc < 0.4",
    "metrics.acc > 0.1 AND params.Model = 'Tree' AND tags.kind LIKE '%3' AND status = 'RUNNING'",
    "params.lr = 'a AND b'",
    "params.lr = 'x' AND",
    "AND params.lr = '0.2'",
    "metrics.acc > 0.1 AND AND params.lr = '0.2'",
    "metrics.acc > 0.1 OR metrics.acc < 0.4",
    "NOT metrics.acc > 0.1",
    "(metrics.acc > 0.1)",
    "metrics.acc > 0.1; DROP TABLE runs",
    "metrics.acc > 0.1 UNION SELECT 1",
    "metrics.acc > 0.1 -- comment",
    "metrics.acc>0.1",
    "metrics.acc > 0.1\nAND\tparams.lr = '0.2'",
    "metrics.acc",
    "> 0.1",
    "metrics.acc >",
    "0.1 < metrics.acc",
    "tags.kind = 'a'b'",
    "params.lr = '日本'",
    "metrics.acc > 0.1 AND 1 = 1",
    "select",
    "'",
    "`",
)

ORDERS: tuple[list[Json], ...] = (
    ["start_time ASC"],
    ["start_time DESC"],
    ["start_time"],
    ["attributes.start_time asc"],
    ["attribute.start_time desc"],
    ["end_time DESC"],
    ["end_time ASC"],
    ["status"],
    ["run_name DESC"],
    ["attributes.run_name"],
    ["user_id DESC"],
    ["metrics.acc"],
    ["metrics.acc DESC"],
    ["metrics.acc ASC"],
    ["metric.acc DESC"],
    ["metrics.`odd metric/x` DESC"],
    ['metrics."odd metric/x"'],
    ["metrics.none"],
    ["metrics.only5 DESC"],
    ["params.lr"],
    ["params.lr DESC"],
    ["parameters.lr DESC"],
    ["params.Model", "params.lr DESC"],
    ["tags.kind DESC"],
    ["tag.only2"],
    ["tags.`odd key`", "start_time ASC"],
    ["status DESC", "metrics.acc DESC"],
    ["attributes.Created"],
    ["`start_time` DESC"],
    [],
    ["dataset.name"],
    ["nonsense"],
    ["nonsense.x"],
    ["metrics.acc SIDEWAYS"],
    ["metrics.acc DESC NULLS LAST"],
    ["metrics.acc, params.lr"],
    ["metrics.acc", "metrics.acc DESC"],
    [""],
    [5],
)


def filters(name: str, texts: tuple[str, ...]) -> Case:
    return Case(f"runs-search-{name}", (*FILLED, *(search(text) for text in texts)))


FILTER_CASES = (
    filters("metrics", METRIC_FILTERS),
    filters("params", PARAM_FILTERS),
    filters("tags", TAG_FILTERS),
    filters("attributes", ATTRIBUTE_FILTERS),
    filters("datasets", DATASET_FILTERS),
    filters("combined", COMBINED_FILTERS),
    Case(
        "runs-search-empty-key",
        (*FILLED, search("metrics. > 0.2").or_else(refused("filter-empty-key"))),
    ),
)

BLANKS = Case(
    "runs-search-blanks",
    (
        *FILLED,
        search("   ").or_else(Ours("blanks", 200)),
        search(order_by=["metrics.acc DESC "]).or_else(Ours("blanks", 200)),
        search(order_by=["  metrics.acc"]).or_else(Ours("blanks", 200)),
    ),
)

ORDER = Case("runs-search-order", (*FILLED, *(search(order_by=order) for order in ORDERS)))

VIEWS = Case(
    "runs-search-views",
    (
        *FILLED,
        delete("r2"),
        search(),
        search(run_view_type="ACTIVE_ONLY"),
        search(run_view_type="DELETED_ONLY"),
        search(run_view_type="ALL"),
        search(run_view_type=2),
        search("metrics.acc > 0.1", run_view_type="ALL"),
        post("runs/search", {"experiment_ids": []}),
        post("runs/search", {}),
        post("runs/search", {"experiment_ids": "${exp}"}),
        post("runs/search", {"experiment_ids": ["987654"]}),
        post("runs/search", {"experiment_ids": ["987654", "${exp}"]}),
        post("runs/search", {"experiment_ids": ["${exp}", "${exp}"]}),
        post("runs/search", {"experiment_ids": [5]}).or_else(refused("wrong-type")),
        post(AJAX + "runs/search", {"experiment_ids": ["${exp}"]}),
        search(order_by="start_time"),
        search(filter=5),
        post("experiments/delete", {"experiment_id": "${exp}"}),
        search(),
        search(run_view_type="ALL"),
    ),
)


def page(**body: Json) -> Call:
    call = search(**body)
    return Call(
        call.method, call.path, call.body, headers=call.headers, save={"token": "next_page_token"}
    )


ORDERED = {"max_results": 2, "order_by": ["metrics.acc DESC"]}

PAGES = Case(
    "runs-search-pages",
    (
        *FILLED,
        page(max_results=2),
        page(max_results=2, page_token="${token}"),
        page(max_results=2, page_token="${token}"),
        page(max_results=5),
        page(max_results=4),
        page(max_results=4, page_token="${token}"),
        page(**ORDERED),
        page(**ORDERED, page_token="${token}"),
        page(**ORDERED, page_token="${token}"),
        page(max_results=1, order_by=["params.lr"], filter="params.Model = 'Tree'"),
        page(
            max_results=1,
            order_by=["params.lr"],
            filter="params.Model = 'Tree'",
            page_token="${token}",
        ),
        page(max_results="3"),
        search(max_results=50000),
        search(page_token=""),
        log_metric("acc", 1.0),
        update(status="FINISHED"),
    ),
)

CASES = (*FILTER_CASES, BLANKS, ORDER, VIEWS, PAGES)
