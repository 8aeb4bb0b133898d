"""The layout that the design promises, held by tables that a change has to change in the open."""

from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import Source, source

ROOT = Path(__file__).resolve().parent.parent

# What each package may import beside itself.
BELOW = {
    "events": (),
    "projections": ("events",),
    "api": ("projections", "events"),
    "workers": ("projections", "events"),
}

# Files that may cross from workers to api, and why.
WIRING = {
    "workers/api_process.py": "starts the API: the one process that is made of both",
}

NOUNS = ("experiments", "runs", "metrics", "datasets", "logged_models", "artifacts")
NOUN_FOLDERS = ("events", "projections", "api")

# Nouns that have no file in a folder, and why.
MISSING_NOUNS = {
    ("events", "artifacts"): "the bytes are kept beside the log, they are not in it",
    ("projections", "artifacts"): "no view is made of artifacts: they are read where they lie",
}

# Entities of a folder that may know another, and why.
AGREED = {
    (
        "events/runs.py",
        "events.metrics",
    ): "a batch of a run carries points as metrics declares them",
}

# Files that are about no entity. What each is for stands in its docstring.
MECHANISMS: dict[str, tuple[str, ...]] = {
    "events": (
        "artifact_uris",
        "blobs",
        "catalog",
        "codec",
        "counters",
        "documentation",
        "errors",
        "event",
        "group_commit",
        "kafka_about",
        "kafka_group",
        "kafka_log",
        "kafka_reader",
        "kafka_records",
        "kafka_settings",
        "kafka_topics",
        "keys",
        "local_blobs",
        "log",
        "memory_blobs",
        "memory_log",
        "mysql_log",
        "opened_blobs",
        "places",
        "postgresql_log",
        "s3",
        "s3_blobs",
        "s3_settings",
        "settings",
        "sql_log",
        "sql_servers",
        "sql_writer",
        "sqlite",
        "sqlite_log",
        "wake",
        "worker_counts",
    ),
    "projections": (
        "catalog",
        "comparison",
        "database",
        "database_server",
        "direct_points",
        "filter_language",
        "filter_tokens",
        "folding",
        "history",
        "lake",
        "lake_changes",
        "lake_exports",
        "lake_listed",
        "lake_locks",
        "lake_published",
        "lifecycle",
        "model_documents",
        "mysql_views",
        "new_segments",
        "opened_lake",
        "opened_views",
        "owned",
        "page_tokens",
        "point_columns",
        "postgres_views",
        "prepared",
        "pressure",
        "purges",
        "query_child",
        "query_forker",
        "query_forks",
        "query_formats",
        "query_points",
        "query_process",
        "query_statement",
        "read_ahead",
        "replacement",
        "run_documents",
        "s3_lake",
        "same_log",
        "sandbox",
        "schema",
        "scrubbing",
        "search",
        "search_conditions",
        "search_plan",
        "searchable",
        "segment_files",
        "segments",
        "server_pulse",
        "server_tables",
        "server_views",
        "sql_events",
        "sql_macros",
        "sql_points",
        "sql_rows",
        "sql_snapshot",
        "sql_tables",
        "sqlite_views",
        "state",
        "statements",
        "stored_texts",
        "thinning",
        "view",
    ),
    "api": (
        "answers",
        "app",
        "errors",
        "express",
        "foresight",
        "limits",
        "monitoring",
        "names",
        "pages",
        "query_slots",
        "quotes",
        "request_counts",
        "requests",
        "run_inputs",
        "run_logging",
        "run_tags",
        "security",
        "services",
        "sql",
        "transfers",
        "values",
        "watch",
    ),
}

# Where each library lives. A second place to import it from is a decision, made here.
HOMES: dict[str, tuple[str, ...]] = {
    "boto3": ("events/s3.py",),
    "botocore": ("events/s3.py",),
    "click": ("workers/*",),
    # The child that runs users' statements is a program of its own, which imports no lake.
    "duckdb": ("projections/lake.py", "projections/query_child.py"),
    "kafka": (
        "events/kafka_about.py",
        "events/kafka_group.py",
        "events/kafka_log.py",
        "events/kafka_reader.py",
        "events/kafka_topics.py",
    ),
    "msgspec": (
        "events/*",
        "projections/*",
        "api/*",
        "workers/log_command.py",
        "workers/log_copy.py",
    ),
    "nanoarrow": ("projections/query_child.py",),
    "numpy": ("events/codec.py", "projections/*", "api/metrics.py", "api/run_logging.py"),
    "psycopg": ("projections/postgres_views.py",),
    "pymysql": ("projections/mysql_views.py",),
    "pysqlite3": ("events/sqlite.py",),
    "sqlalchemy": (
        "events/sql_servers.py",
        "events/sql_writer.py",
        "events/sqlite.py",
        "events/sqlite_log.py",
        "projections/*",
        "api/metrics.py",
        "api/services.py",
        "api/sql.py",
        "workers/exporter.py",
        "workers/sealer.py",
    ),
    "starlette": ("api/*",),
    "structlog": (
        "events/group_commit.py",
        "events/kafka_log.py",
        "events/kafka_topics.py",
        "events/sql_servers.py",
        "api/*",
        "workers/*",
    ),
    "uuid_utils": ("api/names.py", "projections/new_segments.py", "projections/lake_exports.py"),
    "uvicorn": ("workers/api_process.py", "workers/http_protocol.py"),
    "zstandard": ("events/codec.py",),
}

# Who may look at the process's environment.
ENVIRONMENT_READERS = {
    "workers/options.py": "a flag and its variables are read together, by click, and handed on",
}

# Modules that would let the answer of a fold depend on more than its events.
IMPURE = {
    name: "a fold takes time, ids and chance from its event"
    for name in ("time", "datetime", "random", "secrets", "uuid", "uuid_utils", "socket", "os")
}

# Limits come down when the longest thing does, and never go up.
LINES_PER_FILE_MAX = 500
LINES_PER_FUNCTION_MAX = 40
LINES_PER_TEST_FUNCTION_MAX = 60


@pytest.fixture(scope="module")
def product() -> list[Source]:
    return architecture.load(ROOT, BELOW)


@pytest.fixture(scope="module")
def tests() -> list[Source]:
    return architecture.load(ROOT, ["tests"])


def check_none(complaints: list[str]) -> None:
    """Fails with each complaint on a line of its own: each says what to do."""
    assert not complaints, "\n" + "\n".join(complaints)


def test_imports_point_to_the_log(product: list[Source]) -> None:
    """api and workers build on projections, projections on events, and events on none of them."""
    check_none(architecture.wrong_directions(product, BELOW, WIRING))


def test_entities_of_a_folder_do_not_meet(product: list[Source]) -> None:
    """An entity's file can be read, changed and removed without opening another entity's."""
    check_none(architecture.entities_that_meet(product, NOUNS, AGREED))


def test_modules_form_no_circle(product: list[Source]) -> None:
    """No module imports, over any number of steps, itself."""
    check_none(architecture.cycles(product))


def test_each_noun_has_its_file_in_each_folder(product: list[Source]) -> None:
    """`ls` teaches the layout: the same nouns everywhere, and mechanisms that say their purpose."""
    paths = [of.path for of in product]
    check_none(architecture.unmatched_nouns(paths, NOUNS, NOUN_FOLDERS, MISSING_NOUNS, MECHANISMS))


def test_each_library_has_its_home(product: list[Source]) -> None:
    """A third-party library is imported where the table says, and the table holds no old homes."""
    check_none(architecture.strangers(product, HOMES) + architecture.empty_homes(product, HOMES))


def test_folds_know_no_clock_and_no_chance(product: list[Source]) -> None:
    """No entity file of the projections can read a clock, random numbers or the machine."""
    folds = [of for of in product if of.folder == "projections" and of.noun in NOUNS]
    check_none(architecture.forbidden_imports(folds, IMPURE))


def test_only_the_command_line_reads_the_environment(product: list[Source]) -> None:
    """Everything but the command line takes its settings as arguments."""
    check_none(architecture.environment_readers(product, ENVIRONMENT_READERS))


def test_files_stay_short(product: list[Source], tests: list[Source]) -> None:
    """No file is longer than the limit, and the limit is not looser than it has to be."""
    check_none(architecture.long_files([*product, *tests], LINES_PER_FILE_MAX))


def test_functions_stay_short(product: list[Source], tests: list[Source]) -> None:
    """No function is longer than the limit, and the limit is not looser than it has to be."""
    check_none(architecture.long_functions(product, LINES_PER_FUNCTION_MAX))
    check_none(architecture.long_functions(tests, LINES_PER_TEST_FUNCTION_MAX))


def test_code_has_none_of_the_unwanted_shapes(product: list[Source]) -> None:
    """No mixins, no metaclasses, no files for leftovers, no assert where an error belongs."""
    check_none(architecture.unwanted_shapes(product))


def test_each_file_says_what_it_is_for(product: list[Source], tests: list[Source]) -> None:
    """Each module has a docstring."""
    check_none(architecture.undescribed_modules([*product, *tests]))


def test_each_test_says_what_is_true(tests: list[Source]) -> None:
    """Each test has a docstring."""
    check_none(architecture.undescribed_tests(tests))


def test_each_test_judges(tests: list[Source]) -> None:
    """No test can pass only because nothing was raised."""
    check_none(architecture.tests_without_judgement(tests))


# The rules themselves, on small sources that break them.

LONG = "def f():\n" + "    x = 1\n" * 30


@pytest.mark.parametrize(
    ("path", "text", "allowed"),
    [
        ("events/runs.py", "from projections import runs", False),
        ("projections/runs.py", "import api.runs", False),
        ("api/runs.py", "from workers.projector import Projector", False),
        ("workers/gc.py", "from api import app", False),
        ("events/runs.py", "from tests import servers", False),
        ("workers/gc.py", "def late():\n    import api", False),
        ("workers/api_process.py", "from api import app", True),
        ("api/runs.py", "from projections import runs\nfrom events import runs as facts", True),
        ("events/runs.py", "import json", True),
    ],
)
def test_a_wrong_direction_is_found(path: str, text: str, allowed: bool) -> None:
    """An import that points up or sideways is named; one that points down is not."""
    complaints = architecture.wrong_directions([source(path, text)], BELOW, WIRING)
    assert (complaints == []) == allowed, complaints


def test_entities_that_meet_are_found() -> None:
    """Both spellings of an import of a neighbour are seen, in the same folder alone."""
    sources = [
        source("api/runs.py", "from api import experiments"),
        source("api/metrics.py", "from api.runs import get_run"),
        source("api/datasets.py", "from projections import runs\nfrom api import answers"),
    ]
    found = architecture.entities_that_meet(sources, NOUNS, {})
    assert [line.split(":")[0] for line in found] == ["api/runs.py", "api/metrics.py"]


def test_a_circle_is_found() -> None:
    """Three modules that import each other in turn are a circle; a chain is none."""
    one, two = source("api/a.py", "import api.b"), source("api/b.py", "from api import c")
    back = source("api/c.py", "from api.a import name")
    end = source("api/c.py", "name = 1")
    assert len(architecture.cycles([one, two, back])) == 1
    assert architecture.cycles([one, two, end]) == []


def test_missing_and_surplus_nouns_are_found() -> None:
    """A missing file, an undeclared one, an excuse and a declaration out of date are each named."""
    found = architecture.unmatched_nouns(
        ["api/runs.py", "api/odd.py", "api/tags.py"],
        ["runs", "tags", "traces"],
        ["api"],
        {("api", "tags"): "an excuse that no longer holds"},
        {"api": ["gone"]},
    )
    assert [line.split(" ")[0] for line in found] == [
        "api/tags.py",
        "api/traces.py",
        "api/odd.py",
        "api/gone.py",
    ]


def test_a_stranger_is_found() -> None:
    """A library without a home, one away from home, and a home without its library are named."""
    homes = {"duckdb": ("projections/*",), "click": ("workers/cli.py",)}
    sources = [
        source("events/log.py", "import requests\nimport json"),
        source("api/runs.py", "import duckdb"),
        source("projections/points.py", "import duckdb"),
    ]
    assert len(architecture.strangers(sources, homes)) == 2
    assert architecture.empty_homes(sources, homes) == [
        "No file of workers/cli.py imports click any more: take it out of HOMES"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.environ['HOME']",
        "import os\nos.getenv('HOME')",
        "from os import environ",
        "from os import getenv as read",
    ],
)
def test_a_reader_of_the_environment_is_found(text: str) -> None:
    """Each way to read the environment is seen, except in the files that may."""
    complaints = architecture.environment_readers
    assert complaints([source("api/app.py", text)], ENVIRONMENT_READERS)
    assert not complaints([source("workers/options.py", text)], ENVIRONMENT_READERS)


def test_an_impure_fold_is_found() -> None:
    """A fold's file that imports a clock is named."""
    text = "import json\nfrom time import time"
    found = architecture.forbidden_imports([source("projections/runs.py", text)], IMPURE)
    assert [line.split(" ")[0] for line in found] == ["projections/runs.py:2"]


def test_limits_only_go_down() -> None:
    """Over the limit is a complaint, and so is a limit with room to come down."""
    sources = [source("api/app.py", LONG)]
    assert len(architecture.long_functions(sources, 30)) == 1
    assert architecture.long_functions(sources, 31) == []
    assert architecture.long_functions(sources, 40) == []
    assert architecture.long_functions(sources, 41) == [
        "The longest function has 31 lines: lower the limit to 40"
    ]
    assert len(architecture.long_files(sources, 30)) == 1


def test_a_docstring_does_not_make_a_function_long() -> None:
    """Explaining a function costs nothing against its limit."""
    [function] = architecture.functions(
        source("a.py", 'def f():\n    """a\n    b"""\n    return 1')
    )
    assert architecture.function_lines(function) == 2


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("api/utils.py", ""),
        ("api/app.py", "class TagsMixin: pass"),
        ("api/app.py", "class Tags(metaclass=Registry): pass"),
        ("api/app.py", "def f(x):\n    assert x"),
    ],
)
def test_an_unwanted_shape_is_found(path: str, text: str) -> None:
    """Each shape that the style rules out is seen."""
    assert len(architecture.unwanted_shapes([source(path, text)])) == 1


def test_an_idle_test_is_found() -> None:
    """A test without a docstring or without a judgement is named, in a class too."""
    idle = source("tests/test_a.py", "def test_a(): pass\nclass TestB:\n    def test_b(self): pass")
    good = source(
        "tests/test_b.py",
        'def test_a():\n    """True."""\n    assert 1\n'
        'def test_b():\n    """True."""\n    with pytest.raises(E): f()\n'
        'def test_c():\n    """True."""\n    check_same(1, 1)\n'
        'def test_d():\n    """True."""\n    _same()\n'
        "def _same():\n    _deeper()\n"
        "def _deeper():\n    assert 1",
    )
    assert len(architecture.undescribed_tests([idle, good])) == 2
    assert len(architecture.tests_without_judgement([idle, good])) == 2
