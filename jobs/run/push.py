"""Puts a finished export on the Hugging Face hub, as a dataset.

    target = Push("hf://datasets/USER/NAME")        # UserError for another address, before any work
    target.upload(Path("pairs/"))                   # the address of the dataset's page

A new dataset is private unless you say otherwise; one that is there already stays as visible as it is. Files that an
earlier push has put into ``data/`` are replaced as a whole, in one commit. The token is the one of ``hf auth login`` or
HF_TOKEN, and is never printed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from connectors.errors import JobError, UserError
from rmbatch.endpoints.masking import Mask

_ADDRESS = re.compile(r"hf://datasets/([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")
COMMIT_MESSAGE = "Export of rmbatch"


@dataclass(frozen=True)
class Push:
    """Where an export goes on the hub. Raises UserError for an address that is none, or without the library."""

    address: str
    """hf://datasets/USER/NAME"""
    is_public: bool = False
    """Whether a new dataset is public."""

    def __post_init__(self) -> None:
        if _ADDRESS.fullmatch(self.address) is None:
            raise UserError(f"--push {self.address}: write hf://datasets/USER/NAME")
        try:
            import huggingface_hub  # noqa: F401
        except ImportError:
            raise UserError("--push needs the package huggingface_hub; pip install 'rmbatch[hub]'") from None

    def upload(self, folder: Path) -> str:
        """Upload a folder as one commit. Return the address of the dataset's page.

        Raises UserError without a valid token, or where the token may not write there. Raises JobError for other faults
        of the hub; the same command tries again.
        """
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the latter of its HTTP library

        token, dataset = get_token(), self.address.removeprefix("hf://datasets/").rstrip("/")
        if token is None:
            raise UserError("--push needs a token that may write: set HF_TOKEN, or run `hf auth login`")
        api = HfApi(token=token)
        try:
            url = api.create_repo(dataset, repo_type="dataset", private=not self.is_public, exist_ok=True)
            api.upload_folder(
                repo_id=dataset,
                repo_type="dataset",
                folder_path=folder,
                delete_patterns=["data/*"],
                commit_message=COMMIT_MESSAGE,
            )
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status in (401, 403):
                raise UserError(
                    f"--push {self.address}: the hub refuses the token ({status}); set HF_TOKEN to one that may write "
                    "there, or run `hf auth login`"
                ) from None
            raise self._stopped(error, token) from None
        except (OSError, HTTPError) as error:
            raise self._stopped(error, token) from None
        return str(url)

    def _stopped(self, error: Exception, token: str) -> JobError:
        what = Mask([token]).mask_text(f"{type(error).__name__}: {error}")
        return JobError(f"--push {self.address}: {what}; the export itself is whole")
