"""What ``rmbatch rewards NAME`` prints of a judge: what it gives, its principles, all its settings.

print(describe_judge("base_helpfulness_pointwise"))
"""

import textwrap

from rmbatch.chat.spec import ChatSpec
from rmbatch.judges.kinds.base import load_kind
from rmbatch.judges.library import LIBRARY, library_defaults
from rmbatch.judges.principles import load_principles
from rmbatch.judges.spec import JudgeSpec

WIDTH = 110


def describe_judge(name: str) -> str:
    """The judge's kind, principles and settings with their defaults, as text. Raises KeyError for no judge."""
    kind = LIBRARY[name].kind if name in LIBRARY else name
    model = load_kind(kind)
    given = library_defaults(name) if name in LIBRARY else {}
    lines = [f"{name}: a {kind} judge. {model.__doc__}"]
    if name in LIBRARY:
        principles = load_principles(LIBRARY[name].topic)
        lines += ["", *textwrap.wrap(principles.about, WIDTH)]
        lines += [f"  {place}. {each.name}: {each.text}" for place, each in enumerate(principles.principles, 1)]
    lines += ["", "settings:"]
    of_chat = [key for key in model.model_fields if key in ChatSpec.model_fields]
    own = [key for key in model.model_fields if key not in JudgeSpec.model_fields]
    of_all = [key for key in JudgeSpec.model_fields if key not in of_chat and key != "judge"]
    for key in [*own, *of_all, *of_chat]:
        field = model.model_fields[key]
        default = "needed" if field.is_required() else repr(field.get_default(call_default_factory=True))
        default = repr(given[key]) if key in given else default
        told = " ".join((field.description or "").split())
        lines += [
            f"  {key} = {default}",
            *textwrap.wrap(told, WIDTH, initial_indent="      ", subsequent_indent="      "),
        ]
    return "\n".join(lines)
