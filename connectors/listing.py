"""Lists the files that a job's input names: a file, a folder, a glob, or the output of an earlier job.

Names that start with "_" or "." are skipped in folders and globs. A finished rmbatch output is read by its manifest; an
unfinished one is refused. All files of an input have the same format.

    listing = list_input(["s3://team/rollouts/2026-11-*/"], StorageOptions(), "auto")
    listing.format, [file.uri for file in listing.files], listing.skipped
"""

import errno
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from fsspec.utils import glob_translate

from connectors.errors import UserError
from connectors.faults import explain_errors
from connectors.formats.base import FORMATS, find_format, load_format
from connectors.local import LocalStore
from connectors.storage import Folder, StorageOptions, Store, open_url
from connectors.units import InputFile

MANIFEST = "_rmbatch/manifest.json"
"""A job writes it last, see connectors/ledger.py."""


@dataclass(frozen=True)
class Listing:
    """The files of an input, sorted by name."""

    format: str
    """A name in ``FORMATS``."""
    files: list[InputFile]
    skipped: list[str]
    """Files that were left out: their names say another format or an unknown one."""

    @property
    def is_scanned(self) -> bool:
        """See ``Format.is_scanned``."""
        return load_format(self.format).is_scanned


def list_input(paths: Sequence[str], options: StorageOptions, chosen: str = "auto") -> Listing:
    """List all files that ``paths`` name. Raises UserError where there is none or where formats are mixed.

    ``chosen``: the format of all files that ``paths`` name, and the only format to look for in folders. auto: each
    file's name says its format.
    """
    found: dict[str, InputFile] = {}
    skipped: list[str] = []
    formats: dict[str, str] = {}
    for path in paths:
        with explain_errors(path):
            expanded = _expand(path, options)
        for file, named in expanded:
            kind = chosen if named and chosen != "auto" else find_format(file.uri)
            if kind is None or chosen not in ("auto", kind):
                skipped.append(file.uri)
                continue
            formats.setdefault(kind, file.uri)
            found[file.uri] = file
    if len(formats) > 1:
        a, b = formats.items()
        raise UserError(f"the input mixes {a[0]} ({a[1]}) and {b[0]} ({b[1]}); set input.format to choose one")
    if not found:
        raise UserError(f"no input file found at {', '.join(paths)}{_hint(skipped)}")
    return Listing(next(iter(formats)), [found[uri] for uri in sorted(found)], skipped)


def includes(path: str, folder: str, options: StorageOptions) -> bool:
    """Whether an input path would include the files that a job writes to ``folder`` (a URL). Links are followed."""
    store, root = open_url(path, options)
    other, inside = open_url(folder, options)
    if store is not other:
        return False
    if isinstance(store, LocalStore):
        inside = os.path.realpath(inside)
    files = [f"{inside}/data/u000000{load_format(name).suffixes[0]}" for name in FORMATS]
    written = [inside, f"{inside}/data", *files]
    if not _is_glob(root):
        root = os.path.realpath(root) if isinstance(store, LocalStore) else root.rstrip("/")
        return f"{inside}/".startswith(f"{root}/")
    if isinstance(store, LocalStore):
        fixed = _fixed_part(root)
        root = os.path.realpath(fixed) + root.removeprefix(fixed)
    pattern = re.compile(glob_translate(root.rstrip("/")))
    above = [parent for parent in map(str, PurePosixPath(inside).parents) if parent.startswith(_fixed_part(root))]
    return any(pattern.fullmatch(place) for place in [*above, *written])


def _hint(skipped: Sequence[str]) -> str:
    if not skipped:
        return ""
    return (
        f"; {len(skipped)} files of another format, such as {skipped[0]}: write them as Parquet or as JSONL "
        "(one object a line), or set input.format where they are one of these"
    )


def _is_glob(path: str) -> bool:
    return any(char in path for char in "*?[")


def _fixed_part(pattern: str) -> str:
    """The folder above everything that a glob can match."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _expand(path: str, options: StorageOptions) -> list[tuple[InputFile, bool]]:
    """List the files of one path. The bool says whether the path named the file itself, not a folder around it."""
    store, root = open_url(path, options)
    try:
        if not _is_glob(root) or store.stat(root) is not None or store.is_folder(root):
            return _expand_one(store, path, root, options)
        matches = _find_visible_matches(store, root.rstrip("/"))
        if not matches:
            raise UserError(f"no file matches {path}")
        return [item for match in matches for item in _expand_one(store, store.url(match), match, options)]
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{error.filename or path} is a link that leads to itself; remove it") from None


def _find_visible_matches(store: Store, pattern: str) -> list[str]:
    """Match a glob, without hidden names unless the pattern names some. All stores give the same result."""
    fixed = _fixed_part(pattern)
    matches = store.glob(pattern)
    if "**" in pattern and isinstance(store, LocalStore):
        _refuse_links_back(matches)
    if _is_hidden(pattern.removeprefix(fixed)):
        return matches
    return [match for match in matches if not _is_hidden(match.removeprefix(fixed))]


def _refuse_links_back(matches: Sequence[str]) -> None:
    """Refuse links to a folder above them: ``**`` follows links and would find the same files again and again."""
    for folder in sorted({os.path.dirname(match) for match in matches}):
        for place in [folder, *map(str, PurePosixPath(folder).parents)]:
            if os.path.islink(place) and f"{os.path.realpath(os.path.dirname(place))}/".startswith(
                f"{os.path.realpath(place).rstrip('/')}/"
            ):
                raise UserError(f"{place} is a link to a folder that it lies in; remove it, or write a glob without **")


def _expand_one(store: Store, url: str, path: str, options: StorageOptions) -> list[tuple[InputFile, bool]]:
    if store.is_folder(path):
        return [(file, False) for file in _list_folder(store, url, path.rstrip("/"), options)]
    found = store.stat(path)
    if found is None:
        raise UserError(f"no such file or folder: {url}")
    return [(_make_input_file(store, *found), True)]


def _list_folder(store: Store, url: str, root: str, options: StorageOptions) -> list[InputFile]:
    manifest = Folder.open(url, options).read_if_exists(MANIFEST)
    if manifest is not None:
        try:
            parts = json.loads(manifest)["files"]
            wanted = {f"{root}/{part['path']}" for part in parts if part["part"] == "data"}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{url}/{MANIFEST} is damaged ({error!r}), so its data files are not known; "
                f"name them yourself: {url}/data/*"
            ) from None
        return [_make_input_file(store, *entry) for entry in store.walk(root) if entry[0] in wanted]
    entries = store.walk(root)
    if any(entry[0].startswith(f"{root}/_rmbatch/") for entry in entries):
        raise UserError(f"{url} is the output of a job that has not finished; run that job's command again first")
    return [_make_input_file(store, *entry) for entry in entries if not _is_hidden(entry[0].removeprefix(root))]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _make_input_file(store: Store, path: str, size: int, etag: str) -> InputFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"the name {path!a} is not UTF-8, so no plan can hold it; rename the file or folder") from None
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return InputFile(
        store.url(path), size, etag, partition=tuple((key, _decode_partition_value(text)) for key, text in pairs)
    )


def _decode_partition_value(text: str) -> str | None:
    return None if text == "__HIVE_DEFAULT_PARTITION__" else unquote(text)
