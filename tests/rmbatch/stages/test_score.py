"""What a score stage makes of an end that its rewards did not ask for."""

import pyarrow as pa
import pytest
from ray._raylet import raise_sys_exit_with_custom_error_message

import rmbatch
from rmbatch.rows.roles import guess_roles
from rmbatch.stages.score import ScoreStage


def test_a_process_that_ray_ends_is_no_fault_of_a_reward() -> None:
    """Ray raises SystemExit wherever the process is, when it gets SIGTERM."""

    def ended(response: pa.Array) -> pa.Array:
        raise_sys_exit_with_custom_error_message("The process receives a SIGTERM.", 1)
        return pa.nulls(len(response), pa.float64())

    table = pa.table({"response": ["a", "b"]})
    stage = ScoreStage({"ended": rmbatch.reward(ended)}, roles=guess_roles(table.schema), on_error="null")
    with pytest.raises(SystemExit):
        stage(table)
