"""What the errors of gateways and providers mean: one table of codes and words. It sends nothing.

    error = read_error(b'{"error": {"code": "insufficient_quota", "message": "…"}}')
    find_meaning(429, error)                             # "quota"

Gateways use different statuses for the same thing: an exhausted budget is a 400, 422 or 429 of LiteLLM, a 403 of New
API, a 402 of OpenRouter or an error inside its 200. So codes and words count first, and the status alone only where
they say nothing. Sources: the gateways' own code and documentation (LiteLLM ``proxy/_types.py`` and ``router.py``,
New API ``types/error.go``, OpenRouter "Errors and Debugging", Azure "Content filtering", vLLM ``serving_engine.py``).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Meaning = Literal["filter", "quota", "model", "key", "too_long", "down", "stop"]
"""filter, too_long: the error concerns this request, which has no score. quota, model, key, stop: it concerns all
requests and stops the job. down: no server has the model just now, and the job waits."""

_READ = 400
"""Only so many characters of a message are searched for words: what follows may repeat the request itself."""


@dataclass(frozen=True)
class ServerError:
    """An error as a server describes it."""

    codes: tuple[str, ...] = ()
    message: str = ""
    status: int | None = None
    """The status in the body; None where it has none."""


@dataclass(frozen=True)
class _Rule:
    meaning: Meaning
    codes: frozenset[str] = frozenset()
    words: str = r"(?!)"
    statuses: frozenset[int] | None = None
    """The statuses that it applies to; None: all."""


def _rule(meaning: Meaning, *codes: str, words: str = r"(?!)", statuses: Sequence[int] | None = None) -> _Rule:
    return _Rule(
        meaning, frozenset(map(str.lower, codes)), words, frozenset(statuses) if statuses is not None else None
    )


_4XX = tuple(range(400, 429))
_RULES = (
    _rule("filter", "content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"),  # OpenAI, Azure
    _rule("filter", "sensitive_words_detected", "prompt_blocked"),  # New API
    _rule("filter", "data_inspection_failed", "DataInspectionFailed"),  # DashScope
    _rule("filter", words=r"ContentPolicyViolationError|content management policy", statuses=_4XX),  # LiteLLM, Azure
    _rule("filter", words=r"requires moderation|\bflagged\b", statuses=[403]),  # OpenRouter
    _rule("quota", "insufficient_quota", "billing_hard_limit_reached", "billing_not_active"),  # OpenAI
    _rule("quota", "insufficient_user_quota", "pre_consume_token_quota_failed"),  # New API, One API
    _rule(
        "quota", "budget_exceeded", words=r"budget has been exceeded|exceeded\w*budget"
    ),  # LiteLLM: a key's, a team's
    _rule("quota", words=r"crossed budget|\b(?:over|exceeded) budget"),  # LiteLLM: a provider's, a deployment's
    _rule("quota", words=r"insufficient credits|requires more credits|never purchased credits"),  # OpenRouter
    _rule("quota", "insufficient_balance", "quota_exhausted", "Arrearage", "AllocationQuota.FreeTierOnly"),
    _rule("quota", "exceeded_current_quota_error", "insufficient_credits"),  # Moonshot, others
    _rule("quota", words=r"insufficient (?:user |account )?(?:quota|balance)|credit balance is too low"),
    _rule("quota", words=r"exceeded your current quota(?!.*(?:retry|ai\.google\.dev))"),  # Google's is by the minute
    _rule("quota", words=r"(?:额度|余额)(?:不足|已用尽)|欠费"),
    _rule("quota", words=r"\bquota|\bbalance\b|\bcredits?\b|额度|余额", statuses=[401, 403]),  # New API has no code
    _rule("too_long", "context_length_exceeded", "exceed_context_size_error", "string_above_max_length"),
    _rule("too_long", words=r"maximum context length|context (?:length|window|size)|ContextWindowExceeded"),
    _rule("too_long", words=r"(?:prompt|input|request)\b.{0,40}\btoo (?:long|large)|longer than the (?:model|maximum)"),
    _rule("down", words=r"no healthy deployments|no deployments available", statuses=_4XX),  # LiteLLM's router
    _rule("down", words=r"no available channel|无可用渠道", statuses=_4XX),  # New API
    _rule("model", "DeploymentNotFound", "model_not_found", "unknown_model", "invalid_model", statuses=_4XX),
    _rule("model", "key_model_access_denied", "team_model_access_denied", "model_not_supported", statuses=_4XX),
    _rule("model", words=r"invalid model name|not a valid model|unknown model|no such model", statuses=_4XX),
    # The name follows the word, and the verb the name: a row that speaks of models must not stop the job.
    _rule(
        "model",
        words=r"\bmodels?\b[ =:/]*[`'\"]?[\w./:@-]+[`'\"]?,? (?:does not exist|(?:was |is )?not found)",
        statuses=_4XX,
    ),
    _rule("model", words=r"not allowed to access model", statuses=_4XX),
    _rule("model", words=r"no endpoints found|deployment for this resource does not exist", statuses=_4XX),
    _rule("key", "invalid_api_key", "token_not_found_in_db", "expired_key", statuses=_4XX),
    _rule("key", words=r"(?:incorrect|invalid) api key|api key (?:not valid|expired)", statuses=_4XX),
    _rule("key", words=r"invalid proxy server token|无效的令牌", statuses=_4XX),
)
_COMPILED = [(rule, re.compile(rule.words, re.IGNORECASE | re.DOTALL)) for rule in _RULES]
_WAIT = re.compile(r"(?:try again|retry) (?:in|after) ([0-9.]+) ?(ms|milli|s|m(?!o))", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0}


def find_meaning(status: int, error: ServerError, stop_on: Sequence[str] = ()) -> Meaning | None:
    """What an error means; None where only its status tells. ``stop_on``: words that mean "stop" here."""
    message, codes = error.message[:_READ], {code.lower() for code in error.codes}
    text = f"{' '.join(error.codes)} {message}".casefold()
    if any(words.casefold() in text for words in stop_on):
        return "stop"
    for rule, words in _COMPILED:
        is_meant = rule.statuses is None or status in rule.statuses
        if is_meant and (codes & rule.codes or words.search(message)):
            return rule.meaning
    return "quota" if status == 402 else None


def find_wait_s(error: ServerError) -> float | None:
    """The seconds that a message asks to wait ("Please retry after 6 seconds"); None where it asks for none."""
    found = _WAIT.search(error.message)
    return float(found[1].rstrip(".") or 0) * _SECONDS[found[2].lower()] if found and found[1].count(".") < 2 else None


def read_error(raw: bytes) -> ServerError:
    """The codes and the message in an error's body, wherever the server puts them."""
    try:
        return read_error_json(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return ServerError((), raw.decode(errors="replace"))


def read_error_json(body: Any) -> ServerError:
    """As ``read_error``, for a body that is parsed already."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return ServerError((), str(error))
    codes = tuple(dict.fromkeys(_find_codes(error)))
    status = next((int(code) for code in codes if re.fullmatch("[45][0-9][0-9]", code)), None)
    message = error.get("message") or error.get("detail") or error.get("error") or ""
    return ServerError(codes, message if isinstance(message, str) else str(message), status)


def _find_codes(error: dict[str, Any]) -> Iterator[str]:
    for place in (error, error.get("innererror"), error.get("metadata")):
        if isinstance(place, dict):
            yield from (str(place[name]) for name in ("code", "type", "error_type") if place.get(name))
