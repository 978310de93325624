import socket
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from tests.fetch.server import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as behaviour:
        yield behaviour


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make every name unknown, once it is called."""

    def resolve(host: str, *_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    return lambda: monkeypatch.setattr("socket.getaddrinfo", resolve)
