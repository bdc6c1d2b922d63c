"""The file system behind an s3://, gs:// or abfs:// URI, and its errors as one sentence; what is read or written there is not its matter.

Credentials come from the environment, a profile or the machine's role only, never from a URI, which ends up in recipes and logs.
"""

from __future__ import annotations

import datetime
import os
import re
from functools import lru_cache
from urllib.parse import urlsplit

from pyarrow import fs

from hepdist.errors import StoreError

ATTEMPTS = 5
"""Of a request that S3 turns away for now, with growing pauses in between."""
GOOGLE_PATIENCE = datetime.timedelta(seconds=60)
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the instance",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or a service account of the instance",
    "abfs": "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID and its secret, or a managed identity",
}
SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs"}


def is_uri(text: str) -> bool:
    return "://" in text


def file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, one a process and bucket, and the path in it: 'bucket/folder'. Raises StoreError. Connects to nothing
    but, for a bucket whose region nobody names, to AWS."""
    parts = urlsplit(uri, allow_fragments=False)
    kind = SCHEMES.get(parts.scheme)
    if kind is None:
        raise StoreError(f"'{parts.scheme}://' is no place that hepdist can read; use a local path, s3://, gs:// or abfs://")
    if parts.password or parts.query or (parts.username and kind != "abfs"):
        raise StoreError(f"a {kind}:// URI holds credentials or options; leave them out and set {CREDENTIALS[kind]}")
    if kind == "abfs":
        container, account = (parts.username, parts.hostname) if parts.username else (parts.netloc, None)
        return _azure((account or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")).split(".")[0]), _joined(container or "", parts.path)
    if kind == "gs":
        return _google(), _joined(parts.netloc, parts.path)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    return _amazon(parts.netloc, endpoint, region), _joined(parts.netloc, parts.path)


def bucket_of(uri: str) -> str:
    """'s3://bucket': as much of a URI as an error may say, since folders can be named for patients."""
    parts = urlsplit(uri, allow_fragments=False)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[0] if parts.password is None else ''}"


def is_outage(error: Exception) -> bool:
    """Whether reading failed in the store or on the way to it, rather than over what the file holds."""
    return any(mark in str(error) for mark in ("AWS Error", "google::cloud", "curlCode", "Azure")) and not isinstance(
        error, FileNotFoundError
    )


def explained(uri: str, error: Exception) -> StoreError:
    """What the store's client raised, as one sentence without its stack, request identifiers and object names."""
    text, bucket, kind = str(error).upper(), bucket_of(uri), SCHEMES[urlsplit(uri).scheme]

    def says(*marks: str) -> bool:
        return any(mark in text for mark in marks)

    if says("NO_SUCH_BUCKET", "NOSUCHBUCKET", "CONTAINERNOTFOUND"):
        return no_bucket(uri)
    if says("ACCESS_DENIED", "FORBIDDEN", "403", "ACCESS_KEY", "SIGNATURE", "TOKEN", "CREDENTIAL", "AUTHENTICAT", "PERMISSION"):
        return StoreError(f"'{bucket}' refuses access: credentials are missing, expired or lack the right; set {CREDENTIALS[kind]}")
    if says("CURLCODE", "NETWORK", "UNAVAILABLE", "TIMEOUT", "TIMED OUT", "RESOLVE", "CONNECT"):
        return StoreError(
            f"'{bucket}' can't be reached over the network; check the connection and, for another S3 server, AWS_ENDPOINT_URL"
        )
    if says("301", "REDIRECT", "REGION"):
        return StoreError(f"'{bucket}' lies in another region; set AWS_REGION to that of the bucket")
    code = re.search(r"AWS Error ([A-Z_0-9]+)", str(error))
    return StoreError(
        f"'{bucket}' answers with an error ({code[1] if code else type(error).__name__}); try again, or look at its status page"
    )


def no_bucket(uri: str) -> StoreError:
    return StoreError(f"'{bucket_of(uri)}' does not exist; make it first, or correct its name")


@lru_cache(maxsize=16)
def _amazon(bucket: str, endpoint: str, region: str) -> fs.FileSystem:
    parts = urlsplit(endpoint)
    if not endpoint and not region:  # else requests go to us-east-1, and a bucket elsewhere answers with a redirect
        try:
            region = fs.resolve_s3_region(bucket)
        except OSError as error:
            uri = f"s3://{bucket}"
            raise (no_bucket(uri) if "not found" in str(error).lower() else explained(uri, error)) from None
    return fs.S3FileSystem(
        region=region or None,
        endpoint_override=parts.netloc or None,
        scheme=parts.scheme or "https",
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@lru_cache(maxsize=1)
def _google() -> fs.FileSystem:
    return fs.GcsFileSystem(retry_time_limit=GOOGLE_PATIENCE)


@lru_cache(maxsize=4)
def _azure(account: str) -> fs.FileSystem:
    if not account:
        raise StoreError("an abfs:// URI names no storage account; write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER")
    key, token = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"), os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    try:
        from pyarrow.fs import AzureFileSystem
    except ImportError:
        pass
    else:
        return AzureFileSystem(account, account_key=key, sas_token=None if key else token)
    try:
        import adlfs
    except ImportError:
        raise StoreError("abfs:// needs a pyarrow that was built with Azure, or the package adlfs; run: pip install adlfs") from None
    return fs.PyFileSystem(fs.FSSpecHandler(adlfs.AzureBlobFileSystem(account, account_key=key, sas_token=token, anon=False)))


def _joined(bucket: str, path: str) -> str:
    return f"{bucket}/{path.strip('/')}".rstrip("/")
