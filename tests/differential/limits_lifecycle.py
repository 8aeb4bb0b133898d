"""Lifecycle of runs, experiments and logged models: rows L-60 to L-76 of the list of limits."""

from tests.differential.calls import (
    NEW_EXPERIMENT,
    READ_RUN,
    SETUP,
    Call,
    Case,
    Json,
    get,
    new_run,
    on_run,
    post,
    refused,
)
from tests.differential.experiments import READ as READ_EXPERIMENT
from tests.differential.experiments import delete as delete_experiment
from tests.differential.experiments import delete_tag as delete_experiment_tag
from tests.differential.experiments import rename
from tests.differential.experiments import restore as restore_experiment
from tests.differential.experiments import set_tag as set_experiment_tag
from tests.differential.logged_models import create as create_model
from tests.differential.logged_models import finalize
from tests.differential.logged_models import read as read_model
from tests.differential.runs import delete, delete_tag, log_metric, log_param, restore, update

STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED", "RUNNING", "KILLED", "FINISHED")


def create_run(**fields: Json) -> Call:
    body = {"experiment_id": "${exp}", **fields}
    return post("runs/create", body, save={"new": "run.info.run_id"})


RUNS = (
    on_run(
        "L-60-every-status",
        *(call for status in STATUSES for call in (update(status=status), READ_RUN)),
        *(update(status=number) for number in range(1, 6)),
        update(status="3"),
    ),
    Case(
        "L-61-unknown-status",
        (
            *SETUP,
            update(status=99),
            update(status=0),
            update(status="BOGUS").or_else(refused("L-61")),
        ),
    ),
    on_run(
        "L-62-end-times",
        update(end_time=-1),
        READ_RUN,
        update(end_time=5),
        update(end_time=0),
        READ_RUN,
        update(end_time=None),
        update(end_time=2**63 - 1),
    ),
    Case(
        "L-63-start-times",
        (
            *SETUP,
            create_run(start_time=-5),
            create_run(start_time="123"),
            create_run(start_time=2**63 - 1),
            get("runs/get", {"run_id": "${new}"}),
            create_run(start_time=None),
            create_run(start_time=2**63).or_else(refused("L-63")),
            create_run(start_time=1.5).or_else(refused("L-63")),
            update(end_time=2**63).or_else(refused("L-63")),
        ),
    ),
    Case(
        "L-64-experiment-of-a-new-run",
        (
            *SETUP,
            post("runs/create", {"start_time": 1}).or_else(refused("L-64")),
            post("runs/create", {"experiment_id": "", "start_time": 1}).or_else(refused("L-64")),
            post("runs/create", {"experiment_id": "987654"}),
            delete_experiment(),
            create_run(),
        ),
    ),
    on_run(
        "L-65-deleted-run",
        log_metric("m", 1.0),
        log_param("p", "1"),
        delete(),
        log_metric("m", 2.0),
        log_param("p", "1"),
        update(status="FINISHED"),
        delete_tag("mlflow.runName"),
        post("runs/log-inputs", {"run_id": "${run}", "datasets": []}),
        post("runs/outputs", {"run_id": "${run}", "models": [{"model_id": "m-1"}]}),
        READ_RUN,
    ),
    on_run("L-66-delete-twice", delete(), delete(), READ_RUN, restore(), restore()),
    Case(
        "L-66-unknown-run",
        (delete("nothing"), restore("nothing")),
    ),
)

EXPERIMENTS = (
    Case(
        "L-67-delete-experiment",
        (
            *SETUP,
            new_run("second", 2000),
            delete("second"),
            delete_experiment(),
            READ_RUN,
            get("runs/get", {"run_id": "${second}"}),
            delete_experiment(),
        ),
    ),
    Case(
        "L-68-restore-experiment",
        (
            *SETUP,
            new_run("second", 2000),
            delete("second"),
            delete_experiment(),
            restore_experiment(),
            READ_RUN,
            get("runs/get", {"run_id": "${second}"}),
            restore_experiment(),
        ),
    ),
    Case(
        "L-69-restore-run-of-deleted-experiment",
        (
            *SETUP,
            delete_experiment(),
            restore(),
            READ_RUN,
            log_metric("m", 1.0),
            READ_RUN,
            restore_experiment(),
            READ_RUN,
        ),
    ),
    Case(
        "L-70-name-of-a-deleted-experiment",
        (NEW_EXPERIMENT, delete_experiment(), post("experiments/create", {"name": "${unique}"})),
    ),
    Case(
        "L-71-rename",
        (
            NEW_EXPERIMENT,
            post(
                "experiments/create", {"name": "${unique}-taken"}, save={"other": "experiment_id"}
            ),
            rename("${unique}-taken"),
            rename(""),
            rename("n" * 501),
            rename("${unique}-new"),
            READ_EXPERIMENT,
            delete_experiment(),
            rename("${unique}-later"),
        ),
    ),
    Case(
        "L-72-tag-on-a-deleted-experiment",
        (
            NEW_EXPERIMENT,
            set_experiment_tag("a", "1"),
            delete_experiment(),
            set_experiment_tag("a", "2"),
            delete_experiment_tag("a"),
            READ_EXPERIMENT,
        ),
    ),
    on_run(
        "L-73-delete-a-tag-that-is-not-there",
        delete_tag("none"),
        delete_experiment_tag("none"),
    ),
    Case(
        "L-74-duplicate-tags-at-creation",
        (
            post(
                "experiments/create",
                {
                    "name": "${unique}",
                    "tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}],
                },
            ).or_else(refused("L-74")),
        ),
    ),
)

MODELS = (
    Case(
        "L-76-status-of-a-logged-model",
        (
            *SETUP,
            create_model(name="m"),
            read_model(),
            finalize("LOGGED_MODEL_READY"),
            read_model(),
            create_model("failed", name="f"),
            finalize("LOGGED_MODEL_UPLOAD_FAILED", "failed"),
            read_model("failed"),
        ),
    ),
)

CASES = (*RUNS, *EXPERIMENTS, *MODELS)
