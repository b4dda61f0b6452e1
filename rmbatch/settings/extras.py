"""The extras of the package, and a check with one clear line where one is missing.

require("judge", "an LLM judge")      # raises UserError: … pip install 'rmbatch[judge]'
"""

from importlib.util import find_spec

from connectors.errors import UserError

EXTRAS = {
    "judge": ("jinja2", "jsonschema_rs"),
    "transformers": ("transformers", "jinja2"),
    "rules": ("cydifflib", "sacrebleu", "jsonschema_rs", "py3langid"),
    "tokenizers": ("jieba", "tiktoken"),
    "report": ("matplotlib",),
    "inspect": ("duckdb",),
}
"""By extra in ``pyproject.toml``: the modules that it brings."""


def require(extra: str, who: str, *modules: str) -> None:
    """Raises UserError, saying what to install, where ``who`` lacks one of the modules; without any: of the extra."""
    missing = next((name for name in modules or EXTRAS[extra] if find_spec(name) is None), None)
    if missing is not None:
        raise UserError(f"{who} needs the package {missing!r}, which is not installed: pip install 'rmbatch[{extra}]'")
