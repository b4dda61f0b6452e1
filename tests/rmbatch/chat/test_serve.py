"""Models that a job serves: how they are written, what is refused, and what names their answers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import UserError
from rmbatch.chat.client import ChatClient, ChatRequest
from rmbatch.chat.limits.accounts import with_service
from rmbatch.chat.serve import Places, ServeSpec
from rmbatch.chat.spec import ChatSpec
from rmbatch.endpoints.errors import ServiceError, ServiceLost
from rmbatch.endpoints.server import Patience
from rmbatch.settings.mistakes import validate
from tests.judging import judge_server, questions
from tests.servers.hostile import Reset


def spec(**written: Any) -> ChatSpec:
    return validate(ChatSpec, written, where="JOB")


def test_short_form_takes_what_stands_beside_it() -> None:
    short = spec(serve="Qwen/Qwen3-8B", gpus=1, replicas=[1, 8], max_length=16384, temperature=0.7)
    assert short.model == "Qwen/Qwen3-8B"
    assert short.serve == ServeSpec(model="Qwen/Qwen3-8B", gpus=1, replicas=(1, 8), max_length=16384)
    assert short == spec(
        serve={"model": "Qwen/Qwen3-8B", "gpus": 1, "replicas": [1, 8], "max_length": 16384}, temperature=0.7
    )
    assert spec(**short.model_dump(mode="json")) == short  # a dumped one is read back
    assert spec(serve="Qwen/Qwen3-8B", model="qwen").model == "qwen"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"model": "m"}, "JOB: write endpoint: URL of a server, or serve: a model for the job to serve itself"),
        ({"serve": "m", "endpoint": "http://h"}, "serve: the job's own servers have no endpoints"),
        ({"serve": "m", "batch": {}}, "serve: the job's own servers have no batch"),
        ({"serve": {"model": "m", "gpus": 1}, "gpus": 2}, "gpus: it stands both in serve and beside it"),
        ({"serve": "m", "replicas": [4, 2]}, "JOB: serve: replicas: the fewest (4) are more than the most"),
        ({"serve": "m", "replicas": 0}, "JOB: replicas: got 0; write 1 or more or a list"),
        ({"serve": "m", "gpus": 1.5}, "gpus: 1.5 is neither a part of one GPU nor a whole number of them"),
        ({"serve": "m", "gpus": -1}, "JOB: gpus: got -1; write 0.0 or more"),
        ({"serve": "m", "engine_args": {"api_key": "x"}}, "api_key: put no secrets here; set it in the environment"),
        ({"serve": "m", "engine_args": {"hf_token": "x"}}, "hf_token: put no secrets here"),
        ({"serve": "m", "env": {"HF_TOKEN": "x"}}, "HF_TOKEN: put no secrets here"),
        ({"serve": "m", "engine_args": {"port": 1}}, "engine_args: port is given by the job itself"),
        ({"serve": "m", "engine_args": {"max_model_len": 1}}, "max_model_len is given by serve.max_length"),
        ({"serve": "m", "engine_args": {"--max-num-seqs": 1}}, "as a name with underscores, without --"),
        ({"serve": "m", "engine_args": {"seed": None}}, "seed has no value"),
        ({"serve": "m", "command": ["x"], "dtype": "float32"}, "put them in the command"),
        ({"serve": {"model": "m", "gpsu": 1}}, "JOB: serve.gpsu: unknown key; did you mean 'gpus'"),
        ({"serve": {"gpus": 1}}, "serve.model: missing"),
    ],
)
def test_mistake_is_named_with_its_cure(written: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as mistake:
        spec(**written)
    assert message in str(mistake.value)


def test_arguments_that_only_look_like_secrets_are_taken() -> None:
    taken = {"max_num_batched_tokens": 8192, "tokenizer_mode": "auto", "skip_tokenizer_init": False}
    assert spec(serve="m", engine_args=taken).serve is not None


def test_identity_holds_what_changes_answers() -> None:
    one = spec(serve="m", gpus=1, replicas=[1, 8], engine_args={"max_num_seqs": 8, "rope_scaling": {"factor": 2}})
    other = spec(serve="m", gpus=4, cpus=2, replicas=2, engine_args={"rope_scaling": {"factor": 2}})
    assert one.identity() == other.identity()
    assert one.identity()["serve"] == {"model": "m", "dtype": "auto", "engine_args": {"rope_scaling": {"factor": 2}}}
    for changed in ({"dtype": "float32"}, {"max_length": 9}, {"quantization": "fp8"}, {"revision": "abc"}):
        assert spec(serve="m", **changed).service_name != spec(serve="m").service_name
    assert "serve" not in spec(endpoint="http://h", model="m").identity()  # as outputs of earlier versions have it


def test_specs_that_sample_differently_share_servers() -> None:
    warm, cold = (spec(serve="m", temperature=each) for each in (0.0, 1.0))
    assert warm.serve_key == cold.serve_key
    assert warm.client_key == cold.client_key
    assert warm.account == cold.account
    assert spec(serve="m", model="other").serve_key != warm.serve_key


def test_other_weights_in_the_same_folder_are_another_service(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 20))
    served = spec(serve=str(tmp_path))
    first = served.service_name
    (tmp_path / "README.md").write_text("about it")
    assert served.service_name == first
    changed = bytearray(1 << 20)
    changed[-1] = 1
    (tmp_path / "model.safetensors").write_bytes(changed)
    assert served.service_name != first
    assert with_service(served).service == served.service_name


class _Listed:
    """A directory that a test writes."""

    api_key = "secret-of-the-job"

    def __init__(self, *urls: str | None) -> None:
        self.places = Places(urls)

    async def look(self) -> Places:
        return self.places


def asked(*texts: str) -> list[ChatRequest]:
    return [ChatRequest([{"role": "user", "content": text}]) for text in texts]


def test_client_follows_a_server_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmbatch.chat.client.FOLLOW_S", 0.05)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which leads nowhere, and is not for servers of the job
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def work() -> None:
        with judge_server(lambda _: "first") as first, judge_server(lambda _: "second") as second:
            directory = _Listed(f"{first.url}/v1", None)
            async with ChatClient(spec(serve="m"), directory=directory) as client:
                assert [each.texts for each in await client.complete(asked("a"))] == [("first",)]
                first.always = Reset()
                waiting = asyncio.create_task(client.complete(asked("b", "c")))
                await asyncio.sleep(0.2)
                directory.places = Places((None, None))
                await asyncio.sleep(0.3)
                assert not waiting.done()
                directory.places = Places((f"{second.url}/v1", None))
                assert [each.texts for each in await waiting] == [("second",), ("second",)]
                headers = {seen["Authorization"] for *_, seen in second.asked}
        assert len(questions(second)) == 2
        assert headers == {"Bearer secret-of-the-job"}

    asyncio.run(work())


def test_client_stops_when_no_server_will_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmbatch.chat.client.FOLLOW_S", 0.05)

    async def work() -> None:
        with judge_server(lambda _: "first") as server:
            directory = _Listed(f"{server.url}/v1")
            async with ChatClient(spec(serve="m"), directory=directory) as client:
                await client.complete(asked("a"))
                directory.places = Places((None,), "its server died 8 times")
                await asyncio.sleep(0.2)
                with pytest.raises(ServiceLost, match="its server died 8 times"):
                    await client.complete(asked("b"))
            directory.places = Places((None,), "no such model")
            async with ChatClient(spec(serve="m"), directory=directory) as client:
                with pytest.raises(ServiceError, match="no such model"):
                    await client.complete(asked("c"))

    asyncio.run(work())


def test_client_loses_patience_with_servers_that_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmbatch.chat.client.FOLLOW_S", 0.05)

    async def work() -> None:
        with judge_server(lambda _: "first") as server:
            directory, patience = _Listed(f"{server.url}/v1"), Patience(lost_after_s=0.3)
            async with ChatClient(spec(serve="m"), patience=patience, directory=directory) as client:
                await client.complete(asked("a"))
                directory.places = Places((None,))
                await asyncio.sleep(0.2)
                with pytest.raises(ServiceLost, match="no endpoint answers"):
                    await client.complete(asked("b"))

    asyncio.run(work())
