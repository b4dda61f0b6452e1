"""What formats without pairs share."""

from collections.abc import Collection
from typing import ClassVar

from rmbatch.exports.base import ExportRule, check_unread
from rmbatch.rows.roles import Roles


class SingleExport:
    """A format that no policy of pairs decides about."""

    is_paired: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    reads_candidates: ClassVar[bool] = True

    reads: ClassVar[frozenset[str]] = frozenset()
    """The settings that it reads, beside ``by``."""

    def check(self, rule: ExportRule) -> None:
        check_unread("this format makes no pairs", rule, self.reads)

    def check_columns(self, roles: Roles, names: Collection[str]) -> None:
        """Candidates are enough."""

    def files_beside(self, name: str, file_format: str) -> dict[str, bytes]:
        """None."""
        return {}
