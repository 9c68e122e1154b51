"""A bucket with the S3 protocol as a target; the only importer of boto3.

Credentials, region and endpoint come from the usual AWS_… variables and files. Files are made and
read locally, and transferred whole: S3 shows an object when all of it has arrived, large ones in
parts. Called by ``opening``.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error, S3UploadFailedError
from botocore import exceptions as errors
from botocore.config import Config

from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.target import SUFFIX, is_name, name_exists, no_such_backup

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_DEFAULT_REGION: Final = "us-east-1"
#: Attempts of each request, with growing pauses.
_ATTEMPTS: Final = 4
_CONNECT_S: Final = 10
_READ_S: Final = 60

_CREDENTIAL_CODES: Final = frozenset(
    {
        "AccessDenied",
        "403",
        "401",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "AuthorizationHeaderMalformed",
        "RequestTimeTooSkewed",
    }
)
_BUCKET_CODES: Final = frozenset({"NoSuchBucket", "PermanentRedirect", "InvalidBucketName"})
_NOT_FOUND_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_CREDENTIAL_ERRORS: Final = (
    errors.NoCredentialsError,
    errors.PartialCredentialsError,
    errors.CredentialRetrievalError,
    errors.ProfileNotFound,
    errors.UnauthorizedSSOTokenError,
)
_NETWORK_ERRORS: Final = (errors.HTTPClientError, errors.ConnectionError)


class Bucket:
    """Backups as objects in a bucket, under a prefix."""

    def __init__(self, url: str) -> None:
        """Read ``s3://bucket/prefix``; nothing is connected yet. Raises BackupFailed."""
        parts = urlsplit(url)
        self._url = url.rstrip("/")
        self._bucket = parts.netloc
        prefix = parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
        self._endpoint = endpoint or "AWS"
        with self._failures():
            session = boto3.session.Session()
            self._client: Any = session.client(
                "s3",
                region_name=session.region_name or _DEFAULT_REGION,
                endpoint_url=endpoint,
                config=_config(has_endpoint=endpoint is not None),
            )

    def __str__(self) -> str:
        return self._url

    def names(self) -> list[str]:
        """Return the names of all backups."""
        found: list[str] = []
        with self._failures():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            for page in pages:
                found += [item["Key"] for item in page.get("Contents", ())]
        names = [key[len(self._prefix) :] for key in found if key.endswith(SUFFIX)]
        return [name.removesuffix(SUFFIX) for name in names if is_name(name.removesuffix(SUFFIX))]

    def size(self, name: str) -> int:
        """Return the size of a backup in bytes."""
        with self._failures(name):
            head = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        return int(head["ContentLength"])

    def part(self, name: str, start: int, length: int) -> bytes:
        """Return some bytes of a backup."""
        if length <= 0:
            return b""
        with self._failures(name):
            reply = self._client.get_object(
                Bucket=self._bucket,
                Key=self._key(name),
                Range=f"bytes={start}-{start + length - 1}",
            )
            data: bytes = reply["Body"].read()
        return data

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Return a local file to write; it is removed at the end."""
        if self._exists(name):
            raise name_exists(name, self)
        with self._local() as path:
            yield path

    def put(self, file: Path, name: str) -> None:
        """Upload the file; large ones in parts, which are removed if not all arrive."""
        if self._exists(name):
            raise name_exists(name, self)
        with self._failures():
            self._client.upload_file(str(file), self._bucket, self._key(name))
        if self.size(name) != file.stat().st_size:
            raise BackupFailed(
                Reason.TARGET_FAILED,
                f"{self}: the object has another size than what was uploaded: the store of objects "
                "does not keep what it has confirmed; delete it and take another backup",
            )

    @contextlib.contextmanager
    def local_file(self, name: str) -> Iterator[Path]:
        """Return a local file with the content of a backup."""
        with self._local() as path:
            with self._failures(name):
                self._client.download_file(self._bucket, self._key(name), str(path))
            yield path

    def delete(self, name: str) -> None:
        """Delete a backup."""
        with self._failures(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}{SUFFIX}"

    def _exists(self, name: str) -> bool:
        return name in self.names()

    @contextlib.contextmanager
    def _local(self) -> Iterator[Path]:
        try:
            with tempfile.TemporaryDirectory(prefix="tidegate-backup-") as directory:
                yield Path(directory) / "backup"
        except OSError as error:
            raise BackupFailed(
                Reason.TARGET_FAILED,
                f"{tempfile.gettempdir()} cannot hold the backup before it is transferred: "
                f"{error.strerror or error}; TMPDIR names another directory",
            ) from error

    @contextlib.contextmanager
    def _failures(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except errors.ClientError as error:
            raise self._refused(error, name) from error
        except S3UploadFailedError as error:
            cause = error.__context__
            if isinstance(cause, errors.ClientError):
                raise self._refused(cause, name) from error
            raise BackupFailed(Reason.TARGET_FAILED, f"{self}: {error}") from error
        except _CREDENTIAL_ERRORS as error:
            raise BackupFailed(
                Reason.CREDENTIALS,
                f"{self}: no usable credentials: {error}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY",
            ) from error
        except _NETWORK_ERRORS as error:
            raise BackupFailed(
                Reason.TARGET_UNREACHABLE,
                f"{self}: {self._endpoint} cannot be reached: {error}; AWS_ENDPOINT_URL names the "
                "endpoint, it can be tried again",
            ) from error
        except (errors.BotoCoreError, Boto3Error, ValueError) as error:
            raise BackupFailed(Reason.TARGET_FAILED, f"{self}: {error}") from error

    def _refused(self, error: errors.ClientError, name: str) -> BackupFailed:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _CREDENTIAL_CODES:
            return BackupFailed(
                Reason.CREDENTIALS,
                f"{self}: {self._endpoint} refuses these credentials ({code}): they need "
                "s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject "
                "on its objects",
            )
        if code in _BUCKET_CODES:
            return BackupFailed(
                Reason.NO_BUCKET,
                f"{self}: there is no bucket {self._bucket} at {self._endpoint} in this region "
                f"({code}): create it, or correct the URL, AWS_REGION or AWS_ENDPOINT_URL",
            )
        if code in _NOT_FOUND_CODES and name:
            return no_such_backup(name, self)
        reason = Reason.TARGET_UNREACHABLE if status >= 500 else Reason.TARGET_FAILED
        return BackupFailed(reason, f"{self}: {self._endpoint} refuses: {error}")


def _config(*, has_endpoint: bool) -> Config:
    return Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        # Servers other than AWS's often have no names for buckets, and no trailing checksums.
        s3={"addressing_style": "path" if has_endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
