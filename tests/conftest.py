"""Fixtures that all tests share: one S3 server and one local Ray per session, started only when a test asks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from connectors.storage import Folder, StorageOptions
from tests.servers.s3 import S3Server

# The machine may be busy: how long an example takes says nothing of whether it is right.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where vLLM puts its sockets, which it leaves behind when it is killed, here and in all that is started.

    And no process of its own for the model, which vLLM starts on CPUs only: it makes a start a third longer.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_RPC_BASE_PATH", str(tmp_path_factory.mktemp("rpc")))
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """The keys of the S3 server in the environment; a Ray worker has what its cluster was started with."""
    before = dict(os.environ)
    os.environ.update(S3Server().environment())
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def s3(s3_credentials: None) -> Iterator[S3Server]:
    """A real S3 protocol server on loopback with a bucket named ``bucket``; credentials are in the environment."""
    with S3Server("bucket") as server:
        yield server


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder on each kind of store."""
    name = tmp_path.name
    if request.param == "local":
        return Folder.open(str(tmp_path / "folder"))
    if request.param == "memory":
        return Folder.open(f"memory://{name}")
    server: S3Server = request.getfixturevalue("s3")
    return Folder.open(f"s3://bucket/{name}", StorageOptions(endpoint=server.endpoint))


@pytest.fixture(scope="session")
def code_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where transformers copies the code that models bring, for this process and all that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", str(tmp_path_factory.mktemp("code")))
        yield


@pytest.fixture(scope="session")
def local_ray(s3_credentials: None, code_cache: None) -> Iterator[None]:
    """One local Ray of two CPUs for the session."""
    import ray

    from cluster.local import attached

    with attached(num_cpus=2):
        assert ray.is_initialized()
        yield


@pytest.fixture
def no_client_stays() -> Iterator[None]:
    """The connections of this process are closed after the test."""
    from rmbatch.endpoints.connections import close_all

    yield
    close_all()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that nothing asks to be elsewhere run in processes of this machine, though tests before have left a Ray."""
    monkeypatch.setattr("jobs.run.where._is_attached", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(params=["here", pytest.param("ray", marks=pytest.mark.ray)])
def anywhere(request: pytest.FixtureRequest) -> str:
    """Jobs run in processes of this machine, and again on Ray."""
    request.getfixturevalue("here" if request.param == "here" else "local_ray")
    return str(request.param)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real rows that are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no {SHARED_DATA}: the real rows are kept beside the project, not in it")
    return SHARED_DATA
