"""Buckets of S3 and of what speaks like it: the home of boto3.

Credentials, region and profiles are found as boto3 finds them: environment variables, files, the
machine's role. All calls block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from events.errors import (
    InvalidParameterValue,
    PermissionDenied,
    ResourceDoesNotExist,
    RunfoldError,
    TemporarilyUnavailable,
)
from events.s3_settings import S3Access

KEY_BYTES_MAX: Final = 1024
CONNECT_S_MAX: Final = 3
CONNECTIONS: Final = 32

_LATER: Final = frozenset({"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"})
_NO_CREDENTIALS: Final = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


@dataclass(frozen=True)
class Bucket:
    """What is below a prefix of a bucket."""

    client: Any
    name: str
    prefix: str
    """Without a slash at its end; "" is the whole bucket."""

    @property
    def uri(self) -> str:
        """Its URI, without a slash at its end."""
        return f"s3://{self.name}/{self.prefix}".rstrip("/")

    def key(self, path: str) -> str:
        """The key of a path below the prefix; a path with a slash at its end keeps it.

        Raises InvalidParameterValue for one that S3 does not take.
        """
        key = f"{self.prefix}/{path}" if self.prefix else path
        if len(key.encode()) > KEY_BYTES_MAX:
            raise InvalidParameterValue(
                f"The path is too long: with the bucket's prefix it has more than {KEY_BYTES_MAX} "
                "bytes."
            )
        return key

    def call(self, method: str, **arguments: Any) -> Any:
        """One call of the S3 API on this bucket, with what it raises told in our words.

        Raises what `told` does.
        """
        with told(self.uri):
            return getattr(self.client, method)(Bucket=self.name, **arguments)

    def pages(self, method: str, **arguments: Any) -> Iterator[Any]:
        """All pages of a listing. Raises what `told` does."""
        with told(self.uri):
            yield from self.client.get_paginator(method).paginate(Bucket=self.name, **arguments)

    def signed(self, method: str, seconds: int, **arguments: Any) -> str:
        """A URL by which whoever has it does this one call, for so long."""
        with told(self.uri):
            url: str = self.client.generate_presigned_url(
                method, Params={"Bucket": self.name, **arguments}, ExpiresIn=seconds
            )
            return url


class Refused(RunfoldError):
    """S3 refused a call for a reason that is none of those which every caller knows."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        """S3's own name of the reason, such as `NoSuchKey`; of a HEAD the status, such as `404`."""

    @property
    def is_missing(self) -> bool:
        """Whether the object, or the upload, is not there."""
        return self.code in ("NoSuchKey", "NoSuchUpload", "NotFound", "404")


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Raises what boto3 does as errors that a client can be told.

    TemporarilyUnavailable: no answer, or one to come again. PermissionDenied: the credentials, or
    none. ResourceDoesNotExist: no such bucket. Refused: everything else.
    """
    try:
        yield
    except ClientError as error:
        raise _refusal(uri, error) from error
    except _NO_CREDENTIALS as error:
        raise PermissionDenied(
            f"This server has no credentials for {uri}: {error} It takes them from "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from ~/.aws, or from the machine's role."
        ) from error
    except ParamValidationError as error:
        raise InvalidParameterValue(str(error)) from error
    except BotoCoreError as error:
        raise TemporarilyUnavailable(f"The S3 server of {uri} does not answer: {error}") from error


def _refusal(uri: str, error: ClientError) -> RunfoldError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or status == 429 or code in _LATER:
        return TemporarilyUnavailable(f"The S3 server of {uri} asks to come again: {code}")
    if code == "NoSuchBucket":
        return ResourceDoesNotExist(f"The bucket of {uri} is not there.")
    if status in (401, 403):
        return PermissionDenied(
            f"The S3 server of {uri} refuses {error.operation_name} to this server's credentials: "
            f"{code} {message}".rstrip()
        )
    return Refused(code, f"The S3 server of {uri} refuses {error.operation_name}: {code} {message}")


@dataclass(frozen=True)
class Patience:
    """How long one call is waited for, where the server is there and says nothing."""

    answer_s_max: int
    attempts: int


FOR_UPLOADS: Final = Patience(60, 3)
"""Putting many parts together may take S3 a minute."""


def open_bucket(uri: str, access: S3Access, patience: Patience = FOR_UPLOADS) -> Bucket:
    """The place that `s3://BUCKET/PREFIX` names; nothing is asked of the server yet."""
    name, _, prefix = uri.removeprefix("s3://").partition("/")
    return Bucket(_client(access, patience), name, prefix.strip("/"))


@lru_cache(maxsize=8)
def _client(access: S3Access, patience: Patience) -> Any:
    """One client, which all threads share, for all buckets."""
    return Session().client(
        "s3",
        endpoint_url=access.endpoint_url,
        verify=False if access.ignore_tls else None,
        config=Config(
            # The older way of signing is what boto3 takes for URLs of an endpoint not Amazon's.
            signature_version="s3v4",
            s3={"addressing_style": access.addressing_style},
            connect_timeout=CONNECT_S_MAX,
            read_timeout=patience.answer_s_max,
            retries={"mode": "standard", "total_max_attempts": patience.attempts},
            max_pool_connections=CONNECTIONS,
            # Other makers' servers don't all know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
