"""Sequences over the endpoints of experiments."""

from dataclasses import replace

from tests.differential.calls import (
    AJAX,
    NEW_EXPERIMENT,
    Call,
    Case,
    get,
    new_run,
    post,
)

READ = get("experiments/get", {"experiment_id": "${exp}"})


def second(name: str, save: str = "other") -> Call:
    return post("experiments/create", {"name": name}, save={save: "experiment_id"})


def delete(which: str = "exp") -> Call:
    return post("experiments/delete", {"experiment_id": f"${{{which}}}"})


def restore(which: str = "exp") -> Call:
    return post("experiments/restore", {"experiment_id": f"${{{which}}}"})


def rename(new_name: str, which: str = "exp") -> Call:
    return post("experiments/update", {"experiment_id": f"${{{which}}}", "new_name": new_name})


def set_tag(key: str, value: str, which: str = "exp") -> Call:
    body = {"experiment_id": f"${{{which}}}", "key": key, "value": value}
    return post("experiments/set-experiment-tag", body)


def delete_tag(key: str) -> Call:
    return post("experiments/delete-experiment-tag", {"experiment_id": "${exp}", "key": key})


def search(text: str, **body: object) -> Call:
    """A search whose token, if it gives one, is kept as `${token}`."""
    sent = {"filter": text, "max_results": 100, **body}
    return post("experiments/search", sent, save={"token": "next_page_token"})


MINE = "name LIKE '${unique}%'"

CREATE = Case(
    "experiments-create-get",
    (
        post(
            "experiments/create",
            {
                "name": "${unique}",
                "artifact_location": "",
                "tags": [{"key": "team", "value": "vision"}, {"key": "empty", "value": ""}],
            },
            save={"exp": "experiment_id"},
        ),
        READ,
        get("experiments/get-by-name", {"experiment_name": "${unique}"}),
        get("experiments/get-by-name", {"experiment_name": "${unique}-none"}),
        get("experiments/get-by-name"),
        get("experiments/get"),
        get("experiments/get", {"experiment_id": "999999"}),
        get("experiments/get", {"experiment_id": ""}),
        get(AJAX + "experiments/get", {"experiment_id": "${exp}"}),
        post("experiments/create", {"name": "${unique}"}),
        post("experiments/create", {}),
        post("experiments/create", {"name": 5}),
        post("experiments/create", {"name": "${unique}-x", "tags": "no list"}),
        post(
            "experiments/create",
            {"name": "${unique}-u", "unknown_field": 1},
            save={"u": "experiment_id"},
        ),
        get("experiments/get", {"experiment_id": "0"}, status_only=True),
    ),
)

LIFECYCLE = Case(
    "experiments-delete-restore-update",
    (
        NEW_EXPERIMENT,
        new_run(),
        rename("${unique}-renamed"),
        READ,
        post("experiments/update", {"experiment_id": "${exp}"}),
        post("experiments/update", {"new_name": "x"}),
        post("experiments/update", {"experiment_id": "999999", "new_name": "${unique}-y"}),
        rename("${unique}-renamed"),
        delete(),
        READ,
        get("experiments/get-by-name", {"experiment_name": "${unique}-renamed"}),
        get("runs/get", {"run_id": "${run}"}),
        delete(),
        restore(),
        READ,
        get("runs/get", {"run_id": "${run}"}),
        restore(),
        delete("none"),
        restore("none"),
        post("experiments/delete", {}),
        post("experiments/restore", {}),
        post("experiments/delete", {"experiment_id": "999999"}),
        post("experiments/restore", {"experiment_id": "999999"}),
    ),
)

TAGS = Case(
    "experiments-tags",
    (
        NEW_EXPERIMENT,
        set_tag("a", "1"),
        set_tag("a", "2"),
        set_tag("b/c d", "text with ünïcode"),
        set_tag("empty", ""),
        post("experiments/set-experiment-tag", {"experiment_id": "${exp}", "key": "none"}),
        READ,
        delete_tag("a"),
        delete_tag("a"),
        READ,
        post("experiments/set-experiment-tag", {"experiment_id": "${exp}"}),
        post("experiments/set-experiment-tag", {"key": "a", "value": "b"}),
        post("experiments/set-experiment-tag", {"experiment_id": "${exp}", "key": "k", "value": 3}),
        set_tag("a", "b", which="nowhere"),
        post("experiments/delete-experiment-tag", {"experiment_id": "${exp}"}),
        post("experiments/delete-experiment-tag", {"key": "a"}),
        delete_tag("never-set"),
        set_tag("mlflow.note.content", "a *note*"),
        READ,
    ),
)

SEARCH = Case(
    "experiments-search",
    (
        post(
            "experiments/create",
            {"name": "${unique}-a", "tags": [{"key": "k", "value": "v1"}]},
            save={"exp": "experiment_id"},
        ),
        second("${unique}-b", "b"),
        second("${unique}-C", "c"),
        second("${unique}-d%", "d"),
        post(
            "experiments/set-experiment-tag", {"experiment_id": "${b}", "key": "k", "value": "V2"}
        ),
        post(
            "experiments/set-experiment-tag",
            {"experiment_id": "${c}", "key": "odd key/x", "value": "it's"},
        ),
        delete("d"),
        search(MINE, order_by=["name ASC"]),
        search(MINE, order_by=["name DESC"]),
        search(MINE, order_by=["name"]),
        search(MINE, order_by=["creation_time ASC"]),
        search(MINE, order_by=["experiment_id DESC"]),
        replace(search(MINE, order_by=["last_update_time DESC"]), status_only=True),
        search(MINE),
        search(MINE, view_type="ALL", order_by=["name"]),
        search(MINE, view_type="DELETED_ONLY"),
        search(MINE, view_type="ACTIVE_ONLY", order_by=["name"]),
        search(MINE, view_type=3, order_by=["name"]),
        search("name ILIKE '${unique}-c'"),
        search("name LIKE '${unique}-c'"),
        search("name = '${unique}-a'"),
        search("attribute.name = '${unique}-a'"),
        search("attr.name = '${unique}-a'"),
        search("attributes.name = '${unique}-a'"),
        search("name != '${unique}-a' AND " + MINE, order_by=["name"]),
        search("tags.k = 'v1' AND " + MINE),
        search("tag.k ILIKE 'v%' AND " + MINE, order_by=["name"]),
        search("tags.k LIKE 'v%' AND " + MINE),
        search("tags.k != 'v1' AND " + MINE),
        search('tags.`odd key/x` = "it\'s" AND ' + MINE),
        search('tags."odd key/x" LIKE "it%" AND ' + MINE),
        search("tags.missing = 'x' AND " + MINE),
        search("tags.k IS NULL AND " + MINE, order_by=["name"]),
        search("tags.k IS NOT NULL AND " + MINE, order_by=["name"]),
        search("creation_time > 0 AND " + MINE, order_by=["name"]),
        search("creation_time < 5 AND " + MINE),
        search("last_update_time >= 1 AND " + MINE, order_by=["name"]),
        search("experiment_id = '${b}'"),
        search("experiment_id IN ('${b}', '${c}')", order_by=["name"]),
        search("experiment_id NOT IN ('${b}') AND " + MINE, order_by=["name"]),
        search("experiment_id != '${b}' AND " + MINE, order_by=["name"]),
        search("experiment_id > '${b}'"),
        search("experiment_id = 'abc'"),
        search("name IN ('${unique}-a', '${unique}-b')", order_by=["name"]),
        search("lifecycle_stage = 'active'"),
        search("name > 'a'"),
        search("name = 5"),
        search("creation_time = 'x'"),
        search("creation_time LIKE 'x'"),
        search("nonsense = 'x'"),
        search("name"),
        search("name = "),
        search("params.a = 'x'"),
        search(MINE, order_by=["nonsense"]),
        search(MINE, order_by=["tags.k"]),
        search(MINE, order_by=["name SIDEWAYS"]),
        search(MINE, order_by="name"),
        replace(search("", max_results=1), status_only=True),
        get(
            "experiments/search",
            [("filter", MINE), ("max_results", "10"), ("order_by", "name DESC")],
        ),
        get(
            "experiments/search",
            [
                ("filter", MINE),
                ("max_results", "10"),
                ("order_by", "creation_time ASC"),
                ("order_by", "name DESC"),
                ("view_type", "ALL"),
            ],
        ),
        get("experiments/search", [("filter", MINE), ("max_results", "ten")]),
    ),
)

PAGES = Case(
    "experiments-search-pages",
    (
        *(second(f"${{unique}}-{number}", f"e{number}") for number in range(5)),
        search(MINE, max_results=2, order_by=["name"]),
        search(MINE, max_results=2, order_by=["name"], page_token="${token}"),
        search(MINE, max_results=2, order_by=["name"], page_token="${token}"),
        search(MINE, max_results=5, order_by=["name"]),
        get(
            "experiments/search",
            {"filter": MINE, "max_results": 4},
            save={"token": "next_page_token"},
        ),
        get("experiments/search", {"filter": MINE, "max_results": 4, "page_token": "${token}"}),
    ),
)

CASES = (CREATE, LIFECYCLE, TAGS, SEARCH, PAGES)
