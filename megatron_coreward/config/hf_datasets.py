"""Data sets of the Hugging Face Hub: hf://OWNER/NAME[@REVISION]/PATH names a file of one.

huggingface_hub fetches the file once into its cache and looks for changes at every start; without a network,
or with HF_HUB_OFFLINE=1, the cache alone is read. A file's name is never guessed: without one, and with one
that does not exist, the error lists the data files of the data set.
"""

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_coreward.config.fields import DATA_SUFFIXES

SCHEME = "hf://"
_FORM = re.compile(
    r"hf://(?:datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(refs/convert/\w+|refs/pr/\d+|[^/]+))?(?:/(.*))?"
)
_NAMED = 20


@dataclass(frozen=True)
class DataSetFile:
    """What an id says. `revision` is a branch, tag or commit, None for the main branch; `path` may be ""."""

    key: str
    given: str
    repository: str
    revision: str | None
    path: str

    def folder(self, patterns: Iterable[str], **options: Any) -> Any:
        """What snapshot_download returns. It fails at once where hf_hub_download tries for 20 seconds."""
        from huggingface_hub import snapshot_download  # only an id needs it

        return snapshot_download(
            self.repository,
            repo_type="dataset",
            revision=self.revision,
            allow_patterns=list(patterns),
            **options,
        )

    def error(self, problem: str) -> ValueError:
        """An error that lists the data files to choose from, as far as they are known."""
        names, place = self._data_files()
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        listed = f"{place}: {', '.join(names[:_NAMED])}{more}" if names else "check the id and the network"
        return ValueError(f"{self.key}={self.given}: {problem}; {listed}")

    def _data_files(self) -> tuple[list[str], str]:
        try:
            known = self.folder((f"*{suffix}" for suffix in DATA_SUFFIXES), dry_run=True)
            return sorted(file.filename for file in known), "its data files are"
        except (OSError, ValueError):  # no network
            try:
                folder = Path(self.folder((), local_files_only=True))
            except (OSError, ValueError):  # not in the cache either
                return [], ""
        files = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in DATA_SUFFIXES)
        return sorted(files), "its data files in the cache are"


def is_data_set(given: str) -> bool:
    return given.startswith(SCHEME)


def parse(given: str, key: str) -> DataSetFile:
    """The parts of an id; `key` is the option that holds it. Raises ValueError if it names no file."""
    match = _FORM.fullmatch(given)
    if match is None:
        raise ValueError(f"{key}={given}: a data set reads hf://OWNER/NAME[@REVISION]/FILE")
    file = DataSetFile(key, given, match[1], match[2], match[3] or "")
    if not file.path or file.path.endswith("/"):
        raise file.error(f"this names no file; set {key} to hf://{file.repository}/FILE")
    return file


def local_file(given: str, key: str) -> str:
    """The path of the file that `given` names: itself, or where the file of a data set lies in the cache.

    Raises:
        ValueError: an id of another form, or a file that does not exist or cannot be fetched.
    """
    if not is_data_set(given):
        return given
    file = parse(given, key)
    try:
        folder = file.folder([glob.escape(file.path)])
    except (OSError, ValueError) as error:  # every failure of the hub: network, unknown name, no permission
        raise file.error(f"could not be fetched ({' '.join(str(error).split())[:200]})") from error
    path = Path(folder) / file.path
    if not path.is_file():
        raise file.error("there is no such file in the data set, or it is not in the cache")
    return str(path)


def is_here(given: str, key: str) -> bool:
    """Whether a file can be read without fetching it. Raises ValueError for an id of another form."""
    if not is_data_set(given):
        return True
    file = parse(given, key)
    try:
        return (Path(file.folder((), local_files_only=True)) / file.path).is_file()
    except (OSError, ValueError):
        return False
