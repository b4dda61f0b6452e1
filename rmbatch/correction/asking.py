"""The way from the loop to the chat models that edit and criticise, and what they were used for.

ask_writer(spec, requests)                       # completions, and what they used is counted
Writer("editor", spec, corrector)                # an asker of a stage: client, costs, what a plan shows
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rmbatch.chat.connect import complete_counted
from rmbatch.chat.spec import ChatSpec
from rmbatch.correction.guards import EMPTY
from rmbatch.correction.history import Attempt, Row
from rmbatch.correction.loop import Corrector, read_text
from rmbatch.correction.spec import CriticSpec, EditorSpec

if TYPE_CHECKING:
    from rmbatch.chat.client import ChatRequest
    from rmbatch.chat.completion import Completion
    from rmbatch.rewards.evaluation import Columns, Offsets


def counted_as(spec: EditorSpec | CriticSpec) -> str:
    """The name that what an editor or a critic uses is counted under."""
    return f"writer.{spec.digest}"


def ask_writer(spec: EditorSpec | CriticSpec, requests: "Sequence[ChatRequest]") -> "list[Completion]":
    """Ask an editor or a critic. Raises JobError where all must stop."""
    is_editor = isinstance(spec, EditorSpec)  # no row fails for want of a critique
    return complete_counted(
        spec.chat(), requests, counted_as(spec), lambda _, completion: _find_errors(completion) if is_editor else ()
    )


def _find_errors(completion: "Completion") -> list[str]:
    """Why an editor's completion leaves its row without an edit."""
    if completion.failure is not None:
        return [str(completion.failure)]
    return [EMPTY] if read_text(completion) is None else []


@dataclass(frozen=True)
class PlannedRequest:
    """A request of which a plan knows the text, as nobody has been asked before it."""

    text: str
    num_votes: int = 1


@dataclass(frozen=True)
class Writer:
    """An editor or a critic as what asks a chat model."""

    spec: EditorSpec | CriticSpec
    corrector: Corrector
    number: int | None = None
    """Of a critic, its place among those that are models. None: it is the editor."""
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    """The columns of the stage, of which nobody knows anything before it is asked."""
    takes_offsets = False
    asks_all = False

    @property
    def chat(self) -> ChatSpec:
        """Who is asked."""
        return self.spec.chat()

    @property
    def counted_as(self) -> str:
        """The name that what it uses is counted under."""
        return counted_as(self.spec)

    def column_types(self, name: str) -> dict[str, pa.DataType]:
        """The columns of the stage, whatever its name."""
        del name
        return dict(self.columns)

    def questions(self, column: "Columns", offsets: "Offsets | None" = None) -> list[PlannedRequest]:
        """The requests of all rounds for some rows, if all of them entered and no edit were accepted."""
        planned = []
        spec = self.corrector.spec
        for row in self._read_rows(column, offsets):
            if self.corrector.find_fault(row) is not None:
                continue
            for number in range(1, spec.rounds + 1):
                if self.number is None:
                    kind = self.corrector.kind_of_edit(row)
                    several = [
                        self.corrector.edit_request(row, kind, None, number, place)
                        for place in range(spec.editor.edits)
                    ]
                else:
                    several = (
                        [] if row.best.text is None else [self.corrector.critique_request(self.number, row, number)]
                    )
                planned += [PlannedRequest(_text_of(each)) for each in several]
        return planned

    def _read_rows(self, column: "Columns", offsets: "Offsets | None") -> list[Row]:
        prompts, responses = column("prompt").to_pylist(), column("response").to_pylist()
        columns = {name: column(name).to_pylist() for name in self.corrector.columns}
        if offsets is None:
            places = range(len(responses))
        else:  # of the candidates of a prompt one will be edited, which one is not known before they are scored
            places = offsets[:-1][np.diff(offsets) > 0].tolist()
        row = Row(0, None, Attempt("first"))
        return [
            replace(
                row,
                place=place,
                messages=prompts[place],
                first=Attempt("first", responses[place]),
                columns={name: values[place] for name, values in columns.items()},
                rounds=[],
            )
            for place in places
        ]


def _text_of(request: "ChatRequest") -> str:
    said: list[Any] = [message["content"] for message in request.messages]
    return "\n\n".join(str(each) for each in said)
