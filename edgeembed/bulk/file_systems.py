"""The file systems behind URIs: pyarrow's for object stores and HDFS, fsspec's for a model hub and web servers.

Credentials are found by these libraries in their usual ways. A server that stalls is an error, never a hang.
"""

from __future__ import annotations

import importlib
import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from edgeembed.common.installation import find_installation
from edgeembed.errors import ConfigError

CONNECT_SECONDS = 10
STALL_SECONDS = 30
"""After so long without a byte, a request has failed."""
ATTEMPTS = 4
"""At a request that failed for a reason that may pass."""

_SECRET_QUERY = re.compile(r"(\w+://[^\s?'\"]*\?)[^\s'\"]+")
_SECRET_USER = re.compile(r"(\w+://)[^\s/'\"]+@")
_MOST_REASON = 300


class Scheme(NamedTuple):
    """Which library opens the URIs of a scheme, and what to look at if it cannot."""

    library: str
    remedy: str


SCHEMES = {
    "s3": Scheme(
        "pyarrow",
        "check the bucket's name, AWS_ENDPOINT_URL, AWS_REGION and the credentials (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)",
    ),
    "gs": Scheme("pyarrow", "check the bucket's name and the credentials (GOOGLE_APPLICATION_CREDENTIALS)"),
    "abfs": Scheme(
        "pyarrow",
        "check the names of container and account, and the credentials (AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, "
        "AZURE_CLIENT_ID, or `az login`)",
    ),
    "hdfs": Scheme("pyarrow", "check the name node's address, and that JAVA_HOME, HADOOP_HOME and CLASSPATH are set"),
    "hf": Scheme("huggingface_hub", "check the repository's name, HF_ENDPOINT, and HF_TOKEN if it is private"),
    "http": Scheme("aiohttp", "check the address, and that this machine may read it"),
}
ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs", "https": "http"}


def import_library(scheme: str, name: str) -> Any:
    """Import the library that opens a scheme's URIs. Raises ConfigError that says how to install it."""
    module = {"pyarrow": "pyarrow.fs", "huggingface_hub": "huggingface_hub", "aiohttp": "fsspec"}[SCHEMES[scheme].library]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{name} needs {module.partition('.')[0]}: {find_installation().add('bulk')}") from error


def file_system(scheme: str, authority: str, name: str) -> Any:
    """Return the file system of a URI. authority: what follows `://`, up to the path. name: for messages.

    Raises ConfigError.
    """
    library = import_library(scheme, name)
    match scheme:
        case "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
            return _s3(library, authority, endpoint, STALL_SECONDS)
        case "gs":
            return _gs(library, os.environ.get("STORAGE_EMULATOR_HOST", ""))
        case "abfs":
            account = authority.partition("@")[2] or os.environ.get("AZURE_STORAGE_ACCOUNT", "")
            if not account:
                raise ConfigError(
                    f"{name} names no storage account; set AZURE_STORAGE_ACCOUNT, or write "
                    "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
                )
            return _abfs(library, account)
        case "hdfs":
            return _hdfs(library, authority)
        case "hf":
            from edgeembed.hub.download.transport import endpoint as hub_endpoint
            from edgeembed.hub.download.transport import session

            session()  # as for downloads of models: nothing is sent of what else is installed, and settings are checked
            # Repositories change; a listing of an hour ago would hide that.
            return library.HfFileSystem(endpoint=hub_endpoint(), use_listings_cache=False, skip_instance_cache=True)
        case _:
            return _http(library, STALL_SECONDS)


@lru_cache(maxsize=64)
def _s3(library: Any, bucket: str, endpoint: str, stall_seconds: float) -> Any:
    region = None
    if not endpoint:
        try:
            region = library.resolve_s3_region(bucket)
        except OSError:
            region = None  # AWS_REGION, or what the request itself says
    # Without the delay, a small file would be a multipart upload: three requests instead of one.
    return library.S3FileSystem(
        region=region,
        endpoint_override=endpoint or None,
        allow_delayed_open=True,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=stall_seconds,
        retry_strategy=library.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@lru_cache(maxsize=4)
def _gs(library: Any, emulator: str) -> Any:
    limit = timedelta(seconds=2 * STALL_SECONDS)
    if emulator:
        scheme, _, host = emulator.rpartition("://")
        return library.GcsFileSystem(anonymous=True, scheme=scheme or "http", endpoint_override=host, retry_time_limit=limit)
    return library.GcsFileSystem(retry_time_limit=limit)


@lru_cache(maxsize=16)
def _abfs(library: Any, account: str) -> Any:
    account, _, domain = account.partition(".")
    hosts: dict[str, str] = {}
    if domain and not domain.endswith("core.windows.net"):
        suffix = re.sub(r"^(dfs|blob)\.", "", domain)
        hosts = {"blob_storage_authority": f".blob.{suffix}", "dfs_storage_authority": f".dfs.{suffix}"}
    key, token = os.environ.get("AZURE_STORAGE_KEY"), os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    return library.AzureFileSystem(account, account_key=key or None, sas_token=None if key else token or None, **hosts)


@lru_cache(maxsize=16)
def _hdfs(library: Any, authority: str) -> Any:
    host, _, port = authority.partition(":")
    return library.HadoopFileSystem(host or "default", int(port) if port.isdigit() else 0 if not host else 8020)


@lru_cache(maxsize=4)
def _http(library: Any, stall_seconds: float) -> Any:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=stall_seconds)
    # No listings: a web server's page of links is not a folder. trust_env: proxies as for downloads of models.
    return library.filesystem(
        "http", client_kwargs={"timeout": timeout, "trust_env": True}, use_listings_cache=False, skip_instance_cache=True
    )


def reason_of(error: BaseException) -> str:
    """Return why a request failed, for messages: one line, without the secrets that a URI may hold."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server answered with status {status}"
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer for {STALL_SECONDS} seconds"
    lines = str(error).strip().splitlines()
    reason = redacted(lines[0]) if lines else type(error).__name__
    return reason if len(reason) <= _MOST_REASON else f"{reason[:_MOST_REASON]}…"


def redacted(text: str) -> str:
    """Return a text without the user names, passwords and queries of the URIs in it."""
    return _SECRET_USER.sub(r"\1", _SECRET_QUERY.sub(r"\1…", text))
