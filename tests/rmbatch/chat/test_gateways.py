"""Errors as gateways and providers write them, each with its end: stop and go on later, wait, or null with a code."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from rmbatch.chat.client import BudgetExhausted
from rmbatch.chat.refusals import find_meaning, find_wait_s, read_error
from rmbatch.endpoints.errors import ServiceError
from tests.rmbatch.chat.completing import asked, chats, completed
from tests.servers.hostile import Events, HostileServer, Json, Status

NAMES = [f"n{number}" for number in range(30)]


@dataclass(frozen=True)
class Said:
    """What a gateway says: status, message, and what else is in its error."""

    status: int
    message: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    inside: bool = False
    """In an answer of status 200."""

    @property
    def deed(self) -> Status | Json:
        body = {"error": {"message": self.message, **self.more}}
        return Json(body) if self.inside else Status(self.status, self.headers, body)

    def __str__(self) -> str:
        return f"{self.status} {self.message[:40]}"


def litellm(status: int, message: str, kind: str = "None") -> Said:
    return Said(status, message, {"type": kind, "param": "None", "code": str(status)})


def new_api(status: int, code: str, message: str) -> Said:
    return Said(status, message, {"type": "new_api_error", "param": "", "code": code})


def openrouter(status: int, message: str, *, inside: bool = False, **metadata: Any) -> Said:
    return Said(status, message, {"code": status, "metadata": metadata}, inside=inside)


def azure(status: int, code: str, message: str, **more: Any) -> Said:
    return Said(status, message, {"code": code, **more}, {"Retry-After": "0"} if status == 429 else {})


def vllm(status: int, message: str, kind: str) -> Said:
    return Said(status, message, {"type": kind, "param": None, "code": status})


OUT_OF_QUOTA = {
    "LiteLLM": [
        litellm(422, "Budget has been exceeded! Current cost: 1.2, Max budget: 1.0", "budget_exceeded"),
        litellm(400, "Budget has been exceeded! Current cost: 1.2, Max budget: 1.0", "budget_exceeded"),
        litellm(400, "ExceededBudget: User=default_user_id over budget. Spend=11.0, Budget=10.0"),
        litellm(
            429,
            "No deployments available - crossed budget for provider: Exceeded budget for provider openai: 0.7 >= 1e-12",
        ),
        litellm(
            429, "litellm.RateLimitError: OpenAIException - You exceeded your current quota, please check your plan"
        ),
    ],
    "New API": [
        new_api(403, "insufficient_user_quota", "用户额度不足, 剩余额度: ＄0.000000"),
        new_api(403, "pre_consume_token_quota_failed", "token quota is not enough, token remain quota: $0.01"),
        new_api(401, "", "该令牌额度已用尽"),
        Said(429, "余额不足或无可用资源包,请充值。", {"code": "1113"}),
    ],
    "OpenRouter": [
        openrouter(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits"),
        openrouter(402, "This request requires more credits, or fewer max_tokens.", inside=True),
    ],
    "Azure and OpenAI": [
        Said(429, "You exceeded your current quota.", {"type": "insufficient_quota", "code": "insufficient_quota"}),
        Said(400, "Billing hard limit has been reached", {"code": "billing_hard_limit_reached"}),
    ],
    "others": [
        Said(402, "Insufficient Balance", {"type": "unknown_error"}),
        Said(400, "Your credit balance is too low to access the API.", {"type": "invalid_request_error"}),
        Said(400, "Access denied, please make sure your account is in good standing.", {"code": "Arrearage"}),
    ],
}
MISTAKE = {
    "LiteLLM": [
        litellm(400, "/chat/completions: Invalid model name passed in model=judge. Call `/v1/models` to view"),
        litellm(403, "key not allowed to access model. Tried to access judge", "key_model_access_denied"),
        litellm(400, "Authentication Error, Invalid proxy server token passed", "auth_error"),
    ],
    "New API": [new_api(400, "model_not_found", "The model judge is not there"), new_api(401, "", "无效的令牌")],
    "OpenRouter": [
        openrouter(400, "judge is not a valid model ID"),
        openrouter(404, "No endpoints found for judge."),
        openrouter(401, "User not found."),
    ],
    "Azure": [
        azure(404, "DeploymentNotFound", "The API deployment for this resource does not exist."),
        azure(401, "401", "Access denied due to invalid subscription key or wrong API endpoint."),
    ],
    "vLLM": [
        vllm(404, "The model `judge` does not exist.", "NotFoundError"),
        vllm(400, "The model `judge` does not exist.", "BadRequestError"),
    ],
    "Google": [Said(400, "API key not valid. Please pass a valid API key.", {"status": "INVALID_ARGUMENT"})],
}
WAITS = {
    "LiteLLM": [
        litellm(429, "No deployments available for selected model, Try again in 0.2 seconds.", "throttling_error"),
        litellm(400, "You passed in model=judge. There are no healthy deployments for this model."),
        litellm(429, "Crossed TPM / RPM / Max Parallel Request Limit under key", "None"),
        litellm(500, "litellm.InternalServerError: Connection error."),
    ],
    "New API": [
        new_api(503, "model_not_found", "No available channel for model judge under group default (distributor)"),
        new_api(429, "", "当前分组上游负载已饱和，请稍后再试"),
        new_api(500, "do_request_failed", "upstream error: do request failed"),
    ],
    "OpenRouter": [
        openrouter(429, "Rate limit exceeded: free-models-per-min."),
        openrouter(502, "Provider returned error", inside=True, provider_name="x"),
        openrouter(429, "judge is temporarily rate-limited upstream", inside=True),
    ],
    "Azure": [
        azure(
            429, "429", "Requests to the ChatCompletions_Create Operation have exceeded call rate limit of your tier."
        ),
        azure(503, "InternalServerError", "The service is temporarily unable to process your request."),
    ],
    "vLLM": [
        vllm(503, "The engine is paused.", "ServiceUnavailableError"),
        vllm(500, "EngineDeadError", "InternalServerError"),
    ],
    "Google": [
        Said(
            429, "You exceeded your current quota. Please retry in 0.1s.", {"status": "RESOURCE_EXHAUSTED", "code": 429}
        )
    ],
}
NULL = {
    "LiteLLM": [
        (litellm(400, "litellm.ContextWindowExceededError: litellm.BadRequestError: too many"), "endpoint_refused"),
        (litellm(400, "litellm.ContentPolicyViolationError: your request was rejected"), "refused_by_filter"),
    ],
    "New API": [
        (new_api(500, "sensitive_words_detected", "user sensitive words detected"), "refused_by_filter"),
        (new_api(400, "invalid_request", "field messages is required"), "endpoint_refused"),
    ],
    "OpenRouter": [
        (
            openrouter(403, "judge requires moderation on x. Your input was flagged.", reasons=["x"]),
            "refused_by_filter",
        ),
        (openrouter(400, "This endpoint's maximum context length is 4096 tokens."), "endpoint_refused"),
        (openrouter(400, "This endpoint's maximum context length is 4096 tokens.", inside=True), "endpoint_refused"),
    ],
    "Azure": [
        (
            azure(
                400,
                "content_filter",
                "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
            "refused_by_filter",
        ),
        (
            azure(400, "context_length_exceeded", "This model's maximum context length is 8192 tokens."),
            "endpoint_refused",
        ),
    ],
    "vLLM": [
        (
            vllm(
                400,
                "This model's maximum context length is 2048 tokens. However, you requested 2100",
                "BadRequestError",
            ),
            "endpoint_refused",
        ),
        (Said(413, "Payload too large"), "endpoint_refused"),
    ],
    "Groq": [(Said(429, "Request too large for model `x` on tokens per minute (TPM): Limit 6000"), "endpoint_refused")],
}


def cases(by_gateway: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(each, id=f"{gateway} {number}")
        for gateway, some in by_gateway.items()
        for number, each in enumerate(some)
    ]


def test_there_are_enough_gateways() -> None:
    for table in (OUT_OF_QUOTA, MISTAKE, WAITS, NULL):
        assert len(table) >= 5


@pytest.mark.parametrize("said", cases(OUT_OF_QUOTA))
def test_exhausted_budget_stops_the_job_resumably(one: HostileServer, tmp_path: Path, said: Said) -> None:
    one.plan("n9", *[said.deed] * 50)
    with pytest.raises(BudgetExhausted, match="is out of quota"):
        completed(one, requests=asked(*NAMES), cache=str(tmp_path))
    assert len(chats(one)) < 25  # nothing more is sent
    one._plans.clear()
    completions = completed(one, requests=asked(*NAMES), cache=str(tmp_path))
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in NAMES]


@pytest.mark.parametrize("said", cases(MISTAKE))
def test_a_wrong_model_or_key_stops_the_job_with_one_line(one: HostileServer, tmp_path: Path, said: Said) -> None:
    one.plan("n9", *[said.deed] * 50)
    with pytest.raises(ServiceError, match=rf"{one.url}/v1/chat/completions: {said.status} ") as error:
        completed(one, requests=asked(*NAMES), cache=str(tmp_path))
    assert "\n" not in str(error.value)
    one._plans.clear()
    completions = completed(one, requests=asked(*NAMES), cache=str(tmp_path))
    assert all(completion.texts for completion in completions)


@pytest.mark.parametrize("said", cases(WAITS))
def test_passing_error_is_waited_off(one: HostileServer, said: Said) -> None:
    one.plan("n9", said.deed, said.deed)
    completions = completed(one, requests=asked(*NAMES), in_flight=2)
    assert [completion.texts for completion in completions] == [(f"said {name}",) for name in NAMES]
    assert len(one.seen["n9"]) == 3


@pytest.mark.parametrize("case", cases(NULL))
def test_error_of_one_request_is_its_failure_at_once(one: HostileServer, case: tuple[Said, str]) -> None:
    said, code = case
    one.plan("n9", *[said.deed] * 50)
    completions = completed(one, requests=asked(*NAMES))
    assert {name: each.failure and each.failure.code for name, each in zip(NAMES, completions) if each.failure} == {
        "n9": code
    }
    assert len(one.seen["n9"]) == 1


def test_stop_on_words_stop_the_job(one: HostileServer) -> None:
    one.plan("n9", *[Status(400, body={"error": {"message": "Kontingent erschöpft (K-7)"}})] * 2)
    assert completed(one, requests=asked(*NAMES))[9].failure
    with pytest.raises(ServiceError, match="400 Kontingent erschöpft"):
        completed(one, requests=asked(*NAMES), stop_on=["kontingent"])


def test_words_repeated_from_a_row_do_not_stop_the_job(one: HostileServer) -> None:
    echo = {"error": {"message": "bad field; got: " + "x" * 400 + "Budget has been exceeded! insufficient_quota"}}
    one.plan("n9", Status(400, body=echo))
    assert str(completed(one, requests=asked(*NAMES))[9].failure).startswith("endpoint_refused: 400 bad field")


def test_error_inside_a_choice_is_read(one: HostileServer) -> None:
    broken = {"message": {"content": "half"}, "finish_reason": "error", "error": {"code": 402, "message": "no credits"}}
    one.plan("q", Json({"choices": [broken]}))
    with pytest.raises(BudgetExhausted):
        completed(one, requests=asked("q"))


def test_error_inside_a_stream_is_read(one: HostileServer) -> None:
    said = litellm(429, "No deployments available - crossed budget for provider: openai")
    event = b"data: " + orjson.dumps(said.deed.body) + b"\n\n"
    one.plan("q", Events([event]))
    with pytest.raises(BudgetExhausted):
        completed(one, requests=asked("q"), first_token_timeout_s=5)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please retry after 6 seconds.", 6.0),
        ("Try again in 0.5 seconds. Passed model=x", 0.5),
        ("Please try again in 20ms.", 0.02),
        ("Please try again in 500 milliseconds.", 0.5),
        ("Please try again in 2m0s", 120.0),
        ("Try again in 1.2.3 seconds", None),
        ("Try again later.", None),
    ],
)
def test_wait_in_a_message_is_read(message: str, seconds: float | None) -> None:
    assert find_wait_s(read_error(orjson.dumps({"error": {"message": message}}))) == seconds


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{}",
        b'{"error": null}',
        b'{"error": [1]}',
        b'{"error": {"code": {}}}',
        b"\xff",
    ],
)
def test_error_body_of_any_form_is_read(raw: bytes) -> None:
    assert find_meaning(400, read_error(raw)) is None


def test_long_messages_are_read_fast() -> None:
    for unit in ("model ", "prompt ", "exceeded", "a"):
        asyncio.run(asyncio.wait_for(asyncio.to_thread(find_meaning, 400, read_error((unit * 200_000).encode())), 5))
