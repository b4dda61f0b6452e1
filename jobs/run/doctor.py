"""Looks a job's models and judges over before they cost: ``rmbatch doctor job.yaml``, and quickly at each run.

The doctor loads each model in this process and asks it, and each judge, about the job's first rows; a run only looks at
tokenizers, configurations and these rows. The checks themselves are in ``rmbatch/doctor/``.

    show_doctor(job, Display(Console()))                                      # True: nothing failed
    check_models(prepared.needs.models, dataset, prepared.roles, display)     # raises UserError
"""

from collections.abc import Mapping

from connectors.dataset import InputDataset
from connectors.errors import UserError
from connectors.schema import visible_columns
from jobs.config.job_types import job_type
from jobs.config.sections import JobConfig
from jobs.run.input import list_job_input, plan_sample
from jobs.run.sampling import first_rows
from jobs.show.display import Display
from jobs.show.doctor import count_findings, findings_table
from rmbatch.doctor import reward_models as doctor
from rmbatch.doctor.findings import Finding, refuse
from rmbatch.doctor.judge_probes import judge_findings
from rmbatch.doctor.model_probes import full_findings
from rmbatch.endpoints.connections import close_all
from rmbatch.judges.reward import JudgeReward, judge_rewards
from rmbatch.reward_models.reward import ModelReward, model_rewards
from rmbatch.rows.roles import FlatView, Roles, flatten, guess_roles

OF_ROWS = ("too_long", "malformed", "rows", "marks_in_text")
"""Checks of the first rows, which a model behind a gate or on a route may never be asked about: they stop no run."""
ROWS = 64
"""First rows of the input that are looked at."""
JUDGED_ROWS = 8
"""First rows of the input that judges are asked about."""


def show_doctor(job: JobConfig, display: Display) -> bool:
    """Print what is found of each model and judge; True if nothing failed. Raises UserError for the rest of the job."""
    rewards = job_type(job.job)(job, display).rewards()
    models, judges = dict(model_rewards(rewards)), dict(judge_rewards(rewards))
    if not models and not judges:
        display.say("no reward of this job is a model or a judge; there is nothing to look over")
        return True
    dataset = plan_sample(job, list_job_input(job))
    roles = guess_roles(dataset.schema, job.input.columns)
    found = _look_over_judges(dataset, roles, judges, display)
    view = sample(dataset, roles) if models else None
    for same_engine in _by_engine(models):
        try:
            for name, reward in same_engine.items():
                assert view is not None
                findings = _look_over_model(name, reward, view, display)
                display.console.print(findings_table(name, reward.spec.model, findings), "")
                found += findings
        finally:
            close_all()  # the next engine needs the memory
    display.say(count_findings(found))
    return all(finding.level != "failure" for finding in found)


def cheap_findings(models: Mapping[str, ModelReward], dataset: InputDataset, roles: Roles) -> dict[str, list[Finding]]:
    """What is found of each model without its weights, by its name."""
    view = sample(dataset, roles)
    return {name: doctor.cheap_findings(reward, view) for name, reward in models.items()}


def check_models(models: Mapping[str, ModelReward], dataset: InputDataset, roles: Roles, display: Display) -> None:
    """Say how many warnings there are for the models; raises UserError with the failures."""
    if not models:
        return
    found = cheap_findings(models, dataset, roles)
    for name, findings in found.items():
        told = [each for each in findings if each.level == "warning" or (each.level != "ok" and each.check in OF_ROWS)]
        warned = list(dict.fromkeys(each.check for each in told))
        if warned:
            display.say(f"warning: model {name}: {', '.join(warned)}; `rmbatch doctor` says more")
    refused = []
    for name, findings in found.items():
        try:
            refuse([each for each in findings if each.check not in OF_ROWS], f"model {name}")
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError(". ".join(refused))


def sample(dataset: InputDataset, roles: Roles, num_rows: int = ROWS) -> FlatView:
    """The first rows that can be read, with what the roles of conversations name."""
    several = roles.responses if isinstance(roles.responses, tuple) else (roles.responses,)
    named = dict.fromkeys(name for name in (roles.prompt, roles.response, *several) if name is not None)
    return flatten(first_rows(dataset.project(list(named)), num_rows).select(list(named)), roles)


def _look_over_judges(
    dataset: InputDataset, roles: Roles, judges: Mapping[str, JudgeReward], display: Display
) -> list[Finding]:
    """What is found of each judge, printed."""
    if not judges:
        return []
    view = flatten(visible_columns(first_rows(dataset, JUDGED_ROWS)), roles)
    found: list[Finding] = []
    try:
        for name, judge in judges.items():
            display.say(f"{name}: asking {judge.spec.model} about the first {JUDGED_ROWS} rows, which costs its price")
            findings = judge_findings(judge, view)
            display.console.print(findings_table(name, judge.spec.model, findings), "")
            found += findings
    finally:
        close_all()
    return found


def _by_engine(models: Mapping[str, ModelReward]) -> list[dict[str, ModelReward]]:
    """The models, those that share an engine next to each other."""
    groups: dict[str, dict[str, ModelReward]] = {}
    for name, reward in models.items():
        groups.setdefault(reward.spec.engine_key, {})[name] = reward
    return list(groups.values())


def _look_over_model(name: str, reward: ModelReward, view: FlatView, display: Display) -> list[Finding]:
    findings = doctor.cheap_findings(reward, view)
    if any(finding.level == "failure" for finding in findings):
        return [*findings, Finding("warning", "engine", "not loaded; mend what failed first")]
    display.say(f"{name}: opening {reward.spec.model} with engine: {reward.spec.engine}")
    return [*findings, *full_findings(reward, view)]
