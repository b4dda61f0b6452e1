"""The base of all settings, in job files and in Python, and the kinds of values that many of them have."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, strict=True)]
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Seconds = Annotated[float, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseModel):
    """Frozen. An unknown key is refused, and the docstring under a field is its description.

    A field whose key is a word of Python (``as``) has the key as its alias, and is written under it.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        serialize_by_alias=True,
    )
