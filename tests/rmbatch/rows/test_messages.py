"""Lists beside the lists of candidates."""

import numpy as np
import pyarrow as pa
import pytest

from rmbatch.rows import messages


def test_lists_of_values_fit_candidates_or_name_the_first_row_that_does_not() -> None:
    lists = pa.array([[9.0], [1.0, 2.0], None, [3.0, 4.0], [None, 5.0]])[1:]
    assert messages.fit_lists(lists, np.array([0, 2, 4, 4, 6])).to_pylist() == [1.0, 2.0, None, None, None, 5.0]
    assert messages.fit_lists(lists, np.array([0, 2, 2, 4, 6])).to_pylist() == [1.0, 2.0, 3.0, 4.0, None, 5.0]
    with pytest.raises(messages.MisfitError) as raised:
        messages.fit_lists(lists, np.array([0, 2, 4, 6, 7]))
    assert raised.value.row == 3
