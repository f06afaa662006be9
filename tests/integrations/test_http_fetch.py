"""A host that nobody allowed is asked at public addresses alone, and at those that were checked."""

from __future__ import annotations

import socket

import httpx2
import pytest
from label_studio_fakes import FakeLabelStudio

from fewshot.integrations.label_studio import http_fetch
from fewshot.integrations.label_studio.http_fetch import NotPublic, fetch, is_public


def resolving(monkeypatch, *addresses):
    """Have every name found at these addresses; returns the names that were looked up."""
    asked = []

    def getaddrinfo(host, port, *_, **__):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "::1", "::", "fe80::1", "fe80::1%lo", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1"),
        *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
def test_an_address_of_a_private_network_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("93.184.216.34", "10.0.0.1")])
def test_a_host_with_any_private_address_is_refused(monkeypatch, addresses):
    resolving(monkeypatch, *addresses)
    with pytest.raises(NotPublic, match=r"^bucket\.example is at 10\.0\.0\.1, which is not of the public internet$"):
        fetch(httpx2.URL("https://bucket.example/a"), headers={}, max_bytes=9, seconds=5, public_only=True)


def test_a_number_of_a_private_network_is_refused():
    with pytest.raises(NotPublic, match=r"127\.0\.0\.1"):
        fetch(httpx2.URL("https://127.0.0.1/a"), headers={}, max_bytes=9, seconds=5, public_only=True)


def test_the_address_that_was_checked_is_asked_under_the_hosts_name(monkeypatch):
    monkeypatch.setattr(http_fetch, "is_public", lambda address: True)
    with FakeLabelStudio() as bucket:
        bucket.tokens, bucket.pictures = {None}, {"/a?b=c d": b"a picture"}
        names = resolving(monkeypatch, "127.0.0.2", "127.0.0.1")  # nothing listens at the first
        url = httpx2.URL(f"http://bucket.example:{bucket.server_port}/a?b=c%20d")
        found = fetch(url, headers={}, max_bytes=9, seconds=5, public_only=True)
        bucket.shutdown()
    assert found.body == b"a picture"
    assert bucket.hosts == [f"bucket.example:{bucket.server_port}"]
    assert names.count("bucket.example") == 1
