"""Every setting of a server: one table, from which the command line and the docs are made.

Names of flags and environment variables are MLflow's where it has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from events.kafka_settings import KAFKA_SETTINGS, KafkaAccess
from events.places import (
    SettingError,
    folder_path,
    is_bucket,
    known_bucket,
    known_log_uri,
    known_views_uri,
)
from events.s3_settings import S3Access

POOL_CLASSES = ("QueuePool", "NullPool")


@dataclass(frozen=True)
class Settings:
    """What a server was told; each field is described in SETTINGS."""

    home: Path = Path("runfold-data")
    host: str = "127.0.0.1"
    port: int = 5000
    log_uri: str | None = None
    views_uri: str | None = None
    lake_uri: str | None = None
    lake_cache_mb: int = 10_240
    default_artifact_root: str | None = None
    artifacts_destination: str | None = None
    serve_artifacts: bool = True
    artifacts_only: bool = False
    static_prefix: str = ""
    allowed_hosts: Sequence[str] | None = None
    cors_allowed_origins: Sequence[str] | None = None
    x_frame_options: str = "SAMEORIGIN"
    disable_security_middleware: bool = False
    wait_max_s: float = 10.0
    seal_points: int = 250_000
    seal_age_s: float = 600.0
    export_age_s: float = 30.0
    sql_concurrent: int = 2
    sql_seconds: float = 60.0
    sql_rows: int = 10_000_000
    sql_memory_mb: int = 1_024
    sql_threads: int = 0
    sql_spares: int = 1
    log_level: str = "info"
    s3_endpoint_url: str | None = None
    s3_ignore_tls: bool = False
    s3_addressing_style: str = "auto"
    presigned_urls: bool = True
    presigned_url_s: int = 300
    pool_size: int = 5
    pool_max_overflow: int = 10
    pool_recycle_s: int = -1
    pool_class: str = "QueuePool"
    database_echo: bool = False
    kafka_security_protocol: str = "PLAINTEXT"
    kafka_sasl_mechanism: str | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = None
    kafka_ssl_cafile: str | None = None
    kafka_ssl_certfile: str | None = None
    kafka_ssl_keyfile: str | None = None
    kafka_ssl_password: str | None = None

    @property
    def kafka_access(self) -> KafkaAccess:
        """How Kafka's brokers are spoken to."""
        fields = (field.name for field in dataclasses.fields(KafkaAccess))
        return KafkaAccess(**{name: getattr(self, f"kafka_{name}") for name in fields})

    @property
    def log_place(self) -> str:
        """The log's URI. Raises SettingError where no kind of log has one like it."""
        return known_log_uri(self.log_uri or f"sqlite:///{self.home / 'log.db'}")

    @property
    def pool_kind(self) -> str:
        """The pool's class. Raises SettingError for one that can't be used here."""
        if self.pool_class not in POOL_CLASSES:
            raise SettingError(
                f"--pool-class is {' or '.join(POOL_CLASSES)}, not {self.pool_class!r}: a server's "
                "threads each need a connection of their own"
            )
        return self.pool_class

    @property
    def views_place(self) -> str:
        """The views' URI. Raises SettingError where views can't be kept in such a place."""
        return known_views_uri(self.views_uri or f"sqlite:///{self.home / 'views.db'}")

    @property
    def lake_place(self) -> str | Path:
        """Where the Parquet files are: an `s3:` URI, or a folder."""
        if self.lake_uri and is_bucket(self.lake_uri):
            return known_bucket(self.lake_uri, "--lake-uri")
        return folder_path(self.lake_uri, self.home / "lake", "--lake-uri")

    @property
    def lake_path(self) -> Path:
        """The folder of the Parquet files, or of the copies of those that are in S3."""
        place = self.lake_place
        return place if isinstance(place, Path) else self.home / "lake-cache"

    @property
    def artifacts_path(self) -> Path:
        """The folder that the artifact proxy serves. Raises SettingError where that is none."""
        return folder_path(
            self.artifacts_destination, self.home / "artifacts", "--artifacts-destination"
        )

    @property
    def artifacts_place(self) -> str | Path:
        """What the artifact proxy serves: an `s3:` URI, or a folder."""
        if self.artifacts_destination and is_bucket(self.artifacts_destination):
            return known_bucket(self.artifacts_destination, "--artifacts-destination")
        return self.artifacts_path

    @property
    def s3(self) -> S3Access:
        """How to reach S3."""
        return S3Access(self.s3_endpoint_url, self.s3_ignore_tls, self.s3_addressing_style)

    @property
    def artifact_root(self) -> str:
        """Where new experiments keep their artifacts, as a URI."""
        if self.default_artifact_root:
            root = self.default_artifact_root
            # A client has another current folder than the server.
            return root if urlsplit(root).scheme else str(Path(root).absolute())
        if self.serve_artifacts:
            return "mlflow-artifacts:/"
        place = self.artifacts_place
        return place if isinstance(place, str) else place.absolute().as_uri()


@dataclass(frozen=True)
class Setting:
    """How one field of Settings is given: its flag, its environment variables, what it does."""

    field: str
    flag: str
    environment: tuple[str, ...]
    help: str
    storage: bool = False
    """True for what every command that opens the stores takes, not the server alone."""
    secret: bool = False
    """True for what may have a password in it, which belongs on no command line."""
    metavar: str | None = None
    default: Any = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        defaults = {f.name: f.default for f in dataclasses.fields(Settings)}
        object.__setattr__(self, "default", defaults[self.field])


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "home",
        "--home",
        ("RUNFOLD_HOME",),
        "Folder for everything that no other setting puts elsewhere.",
        storage=True,
        metavar="DIR",
    ),
    Setting(
        "log_uri",
        "--log-uri",
        ("RUNFOLD_LOG_URI",),
        "The event log: sqlite:///PATH, postgresql://USER@HOST/DATABASE, "
        "mysql+pymysql://USER@HOST/DATABASE or kafka://HOST:PORT,…/PREFIX. Default: log.db in the "
        "home folder.",
        storage=True,
        secret=True,
        metavar="URI",
    ),
    Setting(
        "views_uri",
        "--views-uri",
        ("RUNFOLD_VIEWS_URI",),
        "The views' database: sqlite:///PATH, postgresql://USER@HOST/DATABASE or "
        "mysql+pymysql://USER@HOST/DATABASE. Default: views.db in the home folder.",
        storage=True,
        secret=True,
        metavar="URI",
    ),
    Setting(
        "pool_size",
        "--pool-size",
        ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE",),
        "Connections that a process keeps open to a database server.",
        storage=True,
        metavar="CONNECTIONS",
    ),
    Setting(
        "pool_max_overflow",
        "--pool-max-overflow",
        ("MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW",),
        "Connections beyond those, which are closed after use.",
        storage=True,
        metavar="CONNECTIONS",
    ),
    Setting(
        "pool_recycle_s",
        "--pool-recycle",
        ("MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE",),
        "Seconds after which a connection to a database server is replaced. -1: never.",
        storage=True,
        metavar="SECONDS",
    ),
    Setting(
        "pool_class",
        "--pool-class",
        ("MLFLOW_SQLALCHEMYSTORE_POOLCLASS",),
        "How connections to a database server are kept: QueuePool, or NullPool for a new one each "
        "time. SQLAlchemy's others share connections among threads, or are for one thread.",
        storage=True,
        metavar="CLASS",
    ),
    Setting(
        "database_echo",
        "--database-echo",
        ("MLFLOW_SQLALCHEMYSTORE_ECHO",),
        "Log the beginning of each statement that goes to a database server, on MySQL with what "
        "clients sent.",
        storage=True,
    ),
    *(Setting(*one) for one in KAFKA_SETTINGS),
    Setting(
        "lake_uri",
        "--lake-uri",
        ("RUNFOLD_LAKE_URI",),
        "Where the Parquet files are: a folder, or s3://BUCKET/PREFIX. Default: lake in the home "
        "folder.",
        storage=True,
        metavar="URI",
    ),
    Setting(
        "lake_cache_mb",
        "--lake-cache-mb",
        ("RUNFOLD_LAKE_CACHE_MB",),
        "Megabytes of a lake in S3 that are kept in lake-cache in the home folder, for reading.",
        storage=True,
        metavar="MEGABYTES",
    ),
    Setting(
        "artifacts_destination",
        "--artifacts-destination",
        ("MLFLOW_ARTIFACTS_DESTINATION",),
        "Where proxied artifacts are kept: a folder, or s3://BUCKET/PREFIX. Default: artifacts in "
        "the home folder.",
        storage=True,
        metavar="URI",
    ),
    Setting(
        "s3_endpoint_url",
        "--s3-endpoint-url",
        ("MLFLOW_S3_ENDPOINT_URL",),
        "The S3 server, where it is not Amazon's.",
        storage=True,
        metavar="URL",
    ),
    Setting(
        "s3_ignore_tls",
        "--s3-ignore-tls",
        ("MLFLOW_S3_IGNORE_TLS",),
        "Accept any certificate of the S3 server.",
        storage=True,
    ),
    Setting(
        "s3_addressing_style",
        "--s3-addressing-style",
        ("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE",),
        "Where a bucket's name goes in the URLs of S3: path, virtual, or auto.",
        storage=True,
        metavar="STYLE",
    ),
    Setting(
        "presigned_urls",
        "--presigned-urls/--no-presigned-urls",
        ("RUNFOLD_PRESIGNED_URLS",),
        "Whether clients are given URLs of the S3 server, to up- and download past this one. Off "
        "where they can't reach it.",
    ),
    Setting(
        "presigned_url_s",
        "--presigned-url-seconds",
        ("MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS",),
        "Seconds for which such a URL of a download is valid, 604800 at most.",
        metavar="SECONDS",
    ),
    Setting(
        "host",
        "--host",
        ("MLFLOW_HOST",),
        "Address to listen on; 0.0.0.0 to be reached from other machines.",
    ),
    Setting("port", "--port", ("MLFLOW_PORT",), "Port to listen on."),
    Setting(
        "default_artifact_root",
        "--default-artifact-root",
        ("MLFLOW_DEFAULT_ARTIFACT_ROOT",),
        "Where new experiments keep their artifacts. Default: mlflow-artifacts:/, the proxy; "
        "the artifacts folder itself with --no-serve-artifacts.",
        storage=True,
        metavar="URI",
    ),
    Setting(
        "serve_artifacts",
        "--serve-artifacts/--no-serve-artifacts",
        ("MLFLOW_SERVE_ARTIFACTS",),
        "Whether clients up- and download artifacts through this server.",
    ),
    Setting(
        "artifacts_only",
        "--artifacts-only",
        ("MLFLOW_ARTIFACTS_ONLY",),
        "Serve nothing but the artifact proxy.",
    ),
    Setting(
        "static_prefix",
        "--static-prefix",
        ("MLFLOW_STATIC_PREFIX",),
        "A path in front of every route, such as /tracking, where a proxy needs one.",
        metavar="PATH",
    ),
    Setting(
        "allowed_hosts",
        "--allowed-hosts",
        ("MLFLOW_SERVER_ALLOWED_HOSTS",),
        "Comma-separated host names that requests may be sent to, with * as a wildcard; others "
        "get 403 (DNS rebinding). Default: localhost and private addresses.",
        metavar="HOSTS",
    ),
    Setting(
        "cors_allowed_origins",
        "--cors-allowed-origins",
        ("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",),
        "Comma-separated origins whose pages may call this server. Default: its own and localhost.",
        metavar="ORIGINS",
    ),
    Setting(
        "x_frame_options",
        "--x-frame-options",
        ("MLFLOW_SERVER_X_FRAME_OPTIONS",),
        "The X-Frame-Options header: SAMEORIGIN, DENY, or NONE for no header.",
    ),
    Setting(
        "disable_security_middleware",
        "--disable-security-middleware",
        ("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",),
        "Accept any host and origin. For tests behind a trusted proxy only.",
    ),
    Setting(
        "wait_max_s",
        "--wait-max",
        ("RUNFOLD_WAIT_MAX",),
        "Seconds that a read waits for the views to be as fresh as the log before it answers 503.",
        metavar="SECONDS",
    ),
    Setting(
        "seal_points",
        "--seal-points",
        ("RUNFOLD_SEAL_POINTS",),
        "Unsealed metric points at which they are written to a Parquet segment.",
        metavar="POINTS",
    ),
    Setting(
        "seal_age_s",
        "--seal-age",
        ("RUNFOLD_SEAL_AGE",),
        "Seconds after which unsealed points are written to a segment, few as they may be.",
        metavar="SECONDS",
    ),
    Setting(
        "export_age_s",
        "--export-age",
        ("RUNFOLD_EXPORT_AGE",),
        "Seconds after which what changed of runs is in the lake's Parquet files, and what was "
        "sealed is seen there; longer under load.",
        metavar="SECONDS",
    ),
    Setting(
        "sql_concurrent",
        "--sql-concurrent",
        ("RUNFOLD_SQL_CONCURRENT",),
        "SQL queries that run at the same time; more wait for a moment, then get 429. 0: none is "
        "taken.",
        metavar="QUERIES",
    ),
    Setting(
        "sql_seconds",
        "--sql-seconds",
        ("RUNFOLD_SQL_SECONDS",),
        "Seconds after which a SQL query is ended, without the time its reader takes.",
        metavar="SECONDS",
    ),
    Setting(
        "sql_rows",
        "--sql-rows",
        ("RUNFOLD_SQL_ROWS",),
        "The most rows that a SQL query may answer with.",
        metavar="ROWS",
    ),
    Setting(
        "sql_memory_mb",
        "--sql-memory",
        ("RUNFOLD_SQL_MEMORY",),
        "Megabytes of memory that a SQL query may use; nothing is spilled to the disk.",
        metavar="MB",
    ),
    Setting(
        "sql_threads",
        "--sql-threads",
        ("RUNFOLD_SQL_THREADS",),
        "Threads that a SQL query may use, at the lowest priority. 0: as many as there are "
        "processors, at most 4.",
        metavar="THREADS",
    ),
    Setting(
        "sql_spares",
        "--sql-spares",
        ("RUNFOLD_SQL_SPARES",),
        "Processes that stand ready for the next SQL query, from the first one on until none came "
        "for five minutes; each has 62 MB, most of it shared.",
        metavar="PROCESSES",
    ),
    Setting(
        "log_level",
        "--log-level",
        ("RUNFOLD_LOG_LEVEL", "MLFLOW_LOGGING_LEVEL"),
        "The least level of the server's own log lines: debug, info, warning or error.",
    ),
)
