"""How S3 is reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class S3Access:
    """How to reach S3, beside what boto3 finds out by itself."""

    endpoint_url: str | None = None
    """None: Amazon's."""
    ignore_tls: bool = False
    """Whether any certificate will do."""
    addressing_style: str = "auto"
    """Where the bucket's name goes in a URL: `path`, `virtual`, or `auto`."""
