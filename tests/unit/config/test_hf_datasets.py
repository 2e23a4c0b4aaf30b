"""Data sets by id: from the client's cache, from a server on this machine, and what the errors list."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_coreward.config.hf_datasets import is_here, local_file, parse
from tests.support.hub import COMMIT, REPOSITORY, serving, use_cache, use_server, write_cache

KEY = "data.original"
FILES = {"data/train.jsonl": b'{"question": "A?"}\n', "test.csv": b"question\nB?\n", "README.md": b"no data"}
LISTED = "data/train.jsonl, test.csv"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache as the working client uses it, offline; the snapshot's folder."""
    use_cache(tmp_path, monkeypatch)
    return write_cache(tmp_path, FILES)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("hf://owner/name/a.jsonl", ("owner/name", None, "a.jsonl")),
        ("hf://datasets/owner/name/a.jsonl", ("owner/name", None, "a.jsonl")),
        ("hf://owner/na.me-2@v1.0/data/a b.csv", ("owner/na.me-2", "v1.0", "data/a b.csv")),
        ("hf://o/n@refs/convert/parquet/main/0.parquet", ("o/n", "refs/convert/parquet", "main/0.parquet")),
        ("hf://o/n@refs/pr/3/a.json", ("o/n", "refs/pr/3", "a.json")),
    ],
)
def test_parts_of_an_id(given: str, parts: tuple[str, str | None, str]) -> None:
    file = parse(given, KEY)
    assert (file.repository, file.revision, file.path) == parts


@pytest.mark.parametrize(
    "given", ["hf://", "hf://name", "hf:///a/b", "hf://owner/name@/a.csv", "hf://-o/n/a"]
)
def test_other_forms_are_refused(given: str) -> None:
    for read in (local_file, is_here, parse):
        with pytest.raises(ValueError) as error:
            read(given, KEY)
        assert str(error.value) == f"{KEY}={given}: a data set reads hf://OWNER/NAME[@REVISION]/FILE"


def test_files_that_are_no_data_sets_are_left_alone() -> None:
    assert local_file("nowhere/a.jsonl", KEY) == "nowhere/a.jsonl" and is_here("nowhere/a.jsonl", KEY)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_file_of_the_cache(cache: Path, revision: str) -> None:
    given = f"hf://{REPOSITORY}{revision}/data/train.jsonl"
    assert local_file(given, KEY) == str(cache / "data/train.jsonl") and is_here(given, KEY)


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("", f"this names no file; set data.original to hf://{REPOSITORY}/FILE"),
        ("/data/", f"this names no file; set data.original to hf://{REPOSITORY}/FILE"),
        ("/train.jsonl", "there is no such file in the data set, or it is not in the cache"),
        ("/data/[a-z]*.jsonl", "there is no such file in the data set, or it is not in the cache"),
    ],
)
def test_errors_list_the_data_files_of_the_cache(cache: Path, rest: str, problem: str) -> None:
    given = f"hf://{REPOSITORY}{rest}"
    with pytest.raises(ValueError) as error:
        local_file(given, KEY)
    assert str(error.value) == f"{KEY}={given}: {problem}; its data files in the cache are: {LISTED}"


@pytest.mark.parametrize("given", [f"hf://{REPOSITORY}@v2/test.csv", "hf://owner/other/test.csv"])
def test_what_is_not_in_the_cache(cache: Path, given: str) -> None:
    assert not is_here(given, KEY)
    with pytest.raises(ValueError) as error:
        local_file(given, KEY)
    message = str(error.value)
    assert message.startswith(f"{KEY}={given}: could not be fetched (")
    assert message.endswith("check the id and the network") and "\n" not in message


def test_many_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(tmp_path, monkeypatch)
    write_cache(tmp_path, {f"{number:02}.csv": b"question\nA?" for number in range(23)})
    with pytest.raises(ValueError, match=r"00\.csv, 01\.csv, .*, 19\.csv and 3 more$"):
        local_file(f"hf://{REPOSITORY}", KEY)


def test_a_file_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(tmp_path, monkeypatch, offline=False)
    given = f"hf://{REPOSITORY}/test.csv"
    with serving(FILES) as address:
        use_server(address, monkeypatch)
        assert not is_here(given, KEY)
        path = Path(local_file(given, KEY))
        assert path.read_bytes() == FILES["test.csv"] and is_here(given, KEY)
        assert not is_here(f"hf://{REPOSITORY}/data/train.jsonl", KEY), "nothing else is fetched"
        for rest in ("", "/gone.csv"):
            with pytest.raises(ValueError, match=f"; its data files are: {LISTED}$"):
                local_file(f"hf://{REPOSITORY}{rest}", KEY)
        with pytest.raises(ValueError, match=r"not be fetched \(.*404.*; check the id and the network$"):
            local_file("hf://owner/other/test.csv", KEY)
    assert local_file(given, KEY) == str(path), "the server is gone, the cache is not"


def test_the_environment_says_where_the_cache_is(tmp_path: Path) -> None:
    """The real client, with HF_HUB_OFFLINE and HF_HUB_CACHE: one line, at once."""
    snapshot = write_cache(tmp_path, FILES)
    program = (
        "import sys; from megatron_coreward.config.hf_datasets import local_file; "
        "sys.stdout.write(local_file(sys.argv[1], 'KEY'))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", program, f"hf://{REPOSITORY}/test.csv"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == str(snapshot / "test.csv")
