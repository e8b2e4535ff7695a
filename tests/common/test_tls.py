"""Certificates of authorities are read where they are needed, and nowhere else."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading

from edgeembed.common.tls import verifying, without_certificates

IMPORTS = """
from edgeembed.common.tls import without_certificates
with without_certificates():
    import aiohttp
from aiohttp import connector
from edgeembed.upstream.client import UpstreamClient
context = connector._SSL_CONTEXT_VERIFIED
print(context.cert_store_stats()["x509_ca"], context.verify_mode.name, context.check_hostname)
"""


def test_aiohttp_that_is_imported_without_certificates_trusts_nobody() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0", "CERT_REQUIRED", "True"]


def test_only_the_thread_that_asked_for_it_goes_without() -> None:
    authorities = ssl.create_default_context().cert_store_stats()
    found: list[dict[str, int]] = []
    with without_certificates():
        own = ssl.create_default_context().cert_store_stats()
        other = threading.Thread(target=lambda: found.append(ssl.create_default_context().cert_store_stats()))
        other.start()
        other.join()
    assert own["x509_ca"] == 0 and found == [authorities]
    assert ssl.create_default_context().cert_store_stats() == authorities


def test_servers_with_https_are_verified() -> None:
    context = verifying("https://gpu-box/v1")
    assert isinstance(context, ssl.SSLContext)
    assert context.cert_store_stats() == ssl.create_default_context().cert_store_stats()
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert verifying("http://gpu-box/v1") is True
