"""Examines a job's models and judges before they cost anything: ``rmbatch doctor job.yaml``, and briefly in each run.

The doctor loads each model in this process. It asks each model and each judge about the job's first rows. A run checks
only tokenizers, configurations and these rows. The checks themselves are in ``rmbatch/doctor/``.

    examine_job(job, Display(Console()))                                      # True: nothing failed
    check_models(prepared.needs.models, dataset, prepared.roles, display)     # raises UserError
"""

from collections.abc import Mapping

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.schema import visible_columns
from jobs.config.job_types import job_type
from jobs.config.sections import JobConfig
from jobs.run.sampling import read_first_rows
from jobs.show.display import Display
from jobs.show.doctor import count_findings, draw_findings
from rmbatch.doctor import reward_models as doctor
from rmbatch.doctor.findings import Finding, raise_failures
from rmbatch.doctor.generator_probes import generator_findings
from rmbatch.doctor.judge_probes import judge_findings
from rmbatch.doctor.model_probes import full_findings
from rmbatch.endpoints.connections import close_all
from rmbatch.generation.requests import RequestWriter
from rmbatch.judges.reward import JudgeReward, judge_rewards
from rmbatch.reward_models.reward import ModelReward, model_rewards
from rmbatch.rows.roles import FlatView, Roles, flatten, guess_roles

ROW_CHECKS = ("too_long", "malformed", "rows", "marks_in_text")
"""Checks of the first rows. They stop no run, because a model behind a gate or on a route may never get these rows."""
MODEL_ROWS = 64
"""First rows of the input that models are checked on."""
JUDGE_ROWS = 8
"""First rows of the input that judges are asked about."""


def examine_job(job: JobConfig, display: Display) -> bool:
    """Print the findings of each model and judge. True if nothing failed. Raises UserError for a mistake in the job."""
    kind = job_type(job.job)(job, display)
    rewards, generators = kind.rewards(), kind.generators()
    models, judges = dict(model_rewards(rewards)), dict(judge_rewards(rewards))
    if not models and not judges and not generators:
        display.say("this job asks no model, no judge and no source of candidates; there is nothing to examine")
        return True
    with kind.first_rows() as dataset:
        return _examine(dataset, job, models, judges, generators, display)


def _examine(
    dataset: InputDataset,
    job: JobConfig,
    models: dict[str, ModelReward],
    judges: dict[str, JudgeReward],
    generators: Mapping[str, RequestWriter],
    display: Display,
) -> bool:
    found: list[Finding] = []
    if generators:
        found += _examine_generators(dataset, job, generators, display)
        if models or judges:
            display.say("models and judges are not examined: this job's responses are not there yet")
            models, judges = {}, {}
    roles = guess_roles(dataset.schema, job.input.columns)
    found += _examine_judges(dataset, roles, judges, display)
    view = read_conversations(dataset, roles) if models else None
    for same_engine in _group_by_engine(models):
        try:
            for name, reward in same_engine.items():
                assert view is not None
                findings = _examine_model(name, reward, view, display)
                display.console.print(draw_findings(name, reward.spec.model, findings), "")
                found += findings
        finally:
            close_all()  # the next engine needs the memory
    display.say(count_findings(found))
    return all(finding.level != "failure" for finding in found)


def cheap_findings(models: Mapping[str, ModelReward], dataset: InputDataset, roles: Roles) -> dict[str, list[Finding]]:
    """Check each model without its weights. Findings by its name."""
    view = read_conversations(dataset, roles)
    return {name: doctor.cheap_findings(reward, view) for name, reward in models.items()}


def check_models(models: Mapping[str, ModelReward], dataset: InputDataset, roles: Roles, display: Display) -> None:
    """Say which checks warn. Raises UserError with those that failed."""
    if not models:
        return
    found = cheap_findings(models, dataset, roles)
    for name, findings in found.items():
        warnings = [each for each in findings if each.level == "warning" or each.check in ROW_CHECKS]
        checks = list(dict.fromkeys(each.check for each in warnings if each.level != "ok"))
        if checks:
            display.say(f"warning: model {name}: {', '.join(checks)}; `rmbatch doctor` says more")
    failures = []
    for name, findings in found.items():
        try:
            raise_failures([each for each in findings if each.check not in ROW_CHECKS], f"model {name}")
        except UserError as error:
            failures.append(str(error))
    if failures:
        raise UserError(". ".join(failures))


def read_conversations(dataset: InputDataset, roles: Roles, num_rows: int = MODEL_ROWS) -> FlatView:
    """Read the prompts and responses of the first readable rows."""
    several = roles.responses if isinstance(roles.responses, tuple) else (roles.responses,)
    named = dict.fromkeys(name for name in (roles.prompt, roles.response, *several) if name is not None)
    return flatten(read_first_rows(dataset.project(list(named)), num_rows).select(list(named)), roles)


def _examine_judges(
    dataset: InputDataset, roles: Roles, judges: Mapping[str, JudgeReward], display: Display
) -> list[Finding]:
    """Examine each judge, and print its findings."""
    if not judges:
        return []
    view = flatten(visible_columns(read_first_rows(dataset, JUDGE_ROWS)), roles)
    found: list[Finding] = []
    try:
        for name, judge in judges.items():
            if judge.spec.serve is None:
                display.say(f"{name}: asking {judge.spec.model} about the first {JUDGE_ROWS} rows, which costs money")
            findings = judge_findings(judge, view)
            display.console.print(draw_findings(name, judge.spec.model, findings), "")
            found += findings
    finally:
        close_all()
    return found


def _examine_generators(
    dataset: InputDataset, job: JobConfig, generators: Mapping[str, RequestWriter], display: Display
) -> list[Finding]:
    """Ask each source of candidates about the first rows, and print its findings."""
    columns = {**job.input.columns, "response": None, "responses": None}
    view = flatten(visible_columns(read_first_rows(dataset, JUDGE_ROWS)), guess_roles(dataset.schema, columns))
    found: list[Finding] = []
    try:
        for name, writer in generators.items():
            model = writer.source.model
            if writer.source.serve is None:
                display.say(f"{name}: asking {model} about the first {JUDGE_ROWS} rows, which costs money")
            findings = generator_findings(writer, view)
            display.console.print(draw_findings(name, model, findings), "")
            found += findings
    finally:
        close_all()
    return found


def _group_by_engine(models: Mapping[str, ModelReward]) -> list[dict[str, ModelReward]]:
    """The models, those that share an engine next to each other."""
    groups: dict[str, dict[str, ModelReward]] = {}
    for name, reward in models.items():
        groups.setdefault(reward.spec.engine_key, {})[name] = reward
    return list(groups.values())


def _examine_model(name: str, reward: ModelReward, view: FlatView, display: Display) -> list[Finding]:
    findings = doctor.cheap_findings(reward, view)
    if any(finding.level == "failure" for finding in findings):
        return [*findings, Finding("warning", "engine", "not loaded; fix the failures first")]
    display.say(f"{name}: loading {reward.spec.model} with engine: {reward.spec.engine}")
    return [*findings, *full_findings(reward, view)]
