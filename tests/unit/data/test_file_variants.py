"""Files as people have them: each is read, or refused in one line; docs/data.md holds the same table."""

import csv
import io
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_coreward.data.columns import USUAL, NamedColumns
from megatron_coreward.data.pairs import check_wordings_differ, load_pairs, load_questions
from tests.support.hub import REPOSITORY, use_cache, write_cache
from tests.support.paths import ROOT

QUESTION, REPHRASING = "What is 3+4?", "Add 3 and 4."
CHAT = [{"role": "system", "content": "Think."}, {"role": "user", "content": QUESTION}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
USES = {
    "evaluation": "evaluation.file",
    "training": "label-free training",
    "truth": "reward.method=ground_truth",
    "originals": "reward.method=majority_voting",
}
NAN = float("nan")


@dataclass(frozen=True)
class Variant:
    """A file of `form` with the record `row`, read for `use`.

    `reads` is the ground truth it gives ("" for none), `refused` what the error says, `warns` what a warning
    says. `second` is the record of the file of rephrasings. A `row` may be the content of the file itself.
    `named` are the columns that the configuration names; `at_hub` reads it as a file of a data set.
    """

    form: str
    says: str
    use: str
    row: dict[str, Any] | bytes
    reads: str = ""
    refused: str = ""
    warns: str = ""
    second: dict[str, Any] | None = field(default=None)
    named: NamedColumns = USUAL
    at_hub: bool = False

    def line(self) -> str:
        """The line of the table in docs/data.md."""
        outcome = f"reads `{self.reads}`" if self.reads else "reads no ground truth"
        outcome += f"; warns: {self.warns}" if self.warns else ""
        outcome = f"**refused**: {self.refused}" if self.refused else outcome
        return f"| {self.form} | {self.says} | {USES[self.use]} | {outcome} |"


def evaluated(
    form: str, says: str, value: Any, reads: str = "", refused: str = "", column: str = "answer"
) -> Variant:
    """A file for evaluation whose column of answers holds `value`."""
    return Variant(form, says, "evaluation", {"question": QUESTION, column: value}, reads, refused)


def trained(form: str, says: str, row: dict[str, Any], **outcome: Any) -> Variant:
    return Variant(form, says, "training", {"question": QUESTION, "rephrased": REPHRASING} | row, **outcome)


def view(question: Any, index: Any = 0, truth: Any = "7") -> dict[str, Any]:
    """A record of one view, in the paper's layout."""
    return {"prompt": question, "extra_info": {"index": index}, "reward_model": {"ground_truth": truth}}


OWN = {"text": QUESTION, "again": REPHRASING, "key": "7"}


def own(form: str, says: str, use: str = "training", row: dict[str, Any] = OWN, **more: Any) -> Variant:
    """A file with columns of its own, which the configuration names."""
    return Variant(form, says, use, row, **{"named": NamedColumns(*OWN)} | more)


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


A, LIST2 = "line 1 has no answer: column 'answer'", "is a list of 2 values"
ROW = "row 0 has no answer: column 'answer'"
PROSE = r"is prose without a \boxed{} or ####"
VARIANTS = [
    evaluated("JSONL", '`"answer": "7"`', "7", "7"),
    evaluated("JSONL", '`"answer": 7`', 7, "7"),
    evaluated("JSON", '`"answer": 7.0`', 7.0, "7.0"),
    evaluated("JSONL", '`"answer": ["7"]`', ["7"], "7"),
    evaluated("JSONL", '`"answer": ["7", "8"]`', ["7", "8"], refused=f"{A} {LIST2}"),
    evaluated("JSONL", '`"answer": {"value": 7}`', {"value": 7}, refused=f"{A} is a dict"),
    evaluated("JSONL", '`"answer": NaN`', NAN, refused=f"{A} is NaN"),
    evaluated("JSONL", '`"answer": null`', None, refused=f"{A} is null"),
    evaluated("JSONL", '`"answer": true`', True, refused=f"{A} is true or false"),
    evaluated("JSONL", r'`"answer": "So it is $\\boxed{7}$."`', r"So it is $\boxed{7}$.", "7"),
    evaluated("JSONL", r'`"answer": "3+4=7\n#### 1,007"`', "3+4=7\n#### 1,007", "1007"),
    evaluated("JSONL", '`"answer": "no solution"`', "no solution", "no solution"),
    evaluated("JSONL", '`"answer": "We add 3 and 4."`', "We add 3 and 4.", refused=f"{A} {PROSE}"),
    evaluated("JSONL", r'`"answer": "3+4\n=7"`', "3+4\n=7", refused=f"{A} {PROSE}"),
    evaluated("JSONL", '`"solution": "7"`', "7", "7", column="solution"),
    evaluated(
        *("JSONL", '`"solution": "Adding both gives 7."`', "Adding both gives 7."),
        refused=f"line 1 has no answer: column 'solution' {PROSE}",
        column="solution",
    ),
    Variant(
        "JSONL",
        "a byte-order mark",
        "evaluation",
        b'\xef\xbb\xbf{"question": "What is 3+4?", "answer": 7}',
        "7",
    ),
    Variant(
        *(
            "JSONL",
            "a mistake in line 2",
            "evaluation",
            b'{"question": "A?", "answer": 7}\n{"question": "B?"',
        ),
        refused=".jsonl:2: not readable as JSON lines",
    ),
    Variant("JSON", "one object, no list", "evaluation", b'{"question": "What is 3+4?", "answer": 7}', "7"),
    Variant("JSON", "a chat in `prompt`", "evaluation", {"prompt": CHAT, "answer": "7"}, "7"),
    Variant("JSON", "a chat of text parts", "evaluation", {"prompt": PARTS, "answer": "7"}, "7"),
    Variant(
        *("JSON", "a chat with two user turns", "evaluation", {"prompt": [*CHAT, *CHAT], "answer": "7"}),
        refused="row 0 has no question: column 'prompt' has 2 user turns; it must have one",
    ),
    Variant("CSV", "`problem`, `answer`", "evaluation", {"problem": QUESTION, "answer": "7"}, "7"),
    evaluated("CSV", "`answer` empty", "", refused="line 2 has no answer: column 'answer' is blank"),
    Variant("CSV", "a chat as JSON text", "evaluation", {"prompt": json.dumps(CHAT), "answer": "7"}, "7"),
    Variant(
        *("CSV", "a chat as Python text", "evaluation", {"prompt": str(CHAT), "answer": "7"}),
        refused="line 2 has no question: column 'prompt' is the text of a chat, but not as JSON",
    ),
    evaluated(
        "CSV",
        "`answer` `['7']`, Python text",
        "['7']",
        refused="column 'answer' is the text of a list, but not as JSON",
    ),
    Variant("Parquet", "`problem`, `answer`", "evaluation", {"problem": QUESTION, "answer": "7"}, "7"),
    Variant("Parquet", "the paper's layout", "evaluation", view(CHAT), "7"),
    Variant(
        "Parquet", 'the paper\'s layout, `ground_truth` `["7"]`', "evaluation", view(CHAT, truth=["7"]), "7"
    ),
    evaluated("Parquet", "`answer` a float, NaN", NAN, refused=f"{ROW} is NaN"),
    evaluated("Parquet", "`answer` a list of two", ["7", "8"], refused=f"{ROW} {LIST2}"),
    Variant(
        "Parquet", "`question` alone", "evaluation", {"question": QUESTION}, refused="no answers: no column"
    ),
    Variant(
        "Parquet",
        "`text`, `answer`",
        "evaluation",
        {"text": "A?", "answer": "7"},
        refused="no column 'original_question' or 'prompt'",
    ),
    Variant(
        *(
            "Parquet",
            "a Git LFS pointer",
            "evaluation",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        ),
        refused="this is a Git LFS pointer, not the data",
    ),
    Variant(
        "Parquet",
        "two files in the paper's layout",
        "training",
        view(CHAT),
        "7",
        second=view(said(REPHRASING)),
    ),
    Variant(
        "Parquet", "two files, `prompt` a text", "training", view(QUESTION), "7", second=view(REPHRASING)
    ),
    Variant("JSONL", "two files", "training", view(QUESTION), "7", second=view(REPHRASING)),
    Variant(
        "CSV",
        "two files, `question`, `index`, `answer`",
        "training",
        {"question": QUESTION, "index": 3, "answer": 7},
        "7",
        second={"question": REPHRASING, "index": 3},
    ),
    Variant(
        *("Parquet", "two files, other indices", "training", view(CHAT)),
        refused="row 0 has extra_info.index 1, but 0",
        second=view(said(REPHRASING), 1),
    ),
    Variant(
        *("Parquet", "two files, indices null", "training", view(CHAT, None)),
        refused="row 0 has no index: column 'extra_info.index' is null",
        second=view(said(REPHRASING), None),
    ),
    Variant(
        *("Parquet", "two files, the same questions", "training", view(CHAT)),
        refused="1 of 1 rephrasings are their original question",
        second=view(CHAT),
    ),
    trained(
        "Parquet",
        "`original_question`, `rephrased_question`",
        {"original_question": QUESTION, "rephrased_question": REPHRASING},
    ),
    trained("JSONL", "`question`, `rephrased`, `answer`", {"answer": "7"}, reads="7"),
    trained(
        "JSONL",
        "`rephrased` null",
        {"rephrased": None},
        refused="line 1 has no rephrasing: column 'rephrased' is null",
    ),
    trained("JSONL", "`answer` a list of two", {"answer": ["7", "8"]}, warns=f"{A} {LIST2}"),
    trained("Parquet", "`answer` null", {"answer": None}),
    Variant(
        "Parquet",
        "no rephrasings",
        "training",
        view(CHAT),
        refused="no rephrasings: no column 'rephrased_question' or 'rephrased'",
    ),
    Variant("Parquet", "no rephrasings", "truth", view(CHAT), "7"),
    Variant(
        "JSONL",
        "`answer` a list of two",
        "truth",
        {"question": QUESTION, "answer": ["7", "8"]},
        refused=f"{A} {LIST2}",
    ),
    Variant(
        "JSONL", "`solution` with ####", "truth", {"question": QUESTION, "solution": "We add. #### 7"}, "7"
    ),
    Variant("JSONL", "`question` alone", "originals", {"question": QUESTION}),
    Variant("CSV", "`question`, `answer`", "originals", {"question": QUESTION, "answer": "7"}, "7"),
    trained("CSV", "`question`, `rephrased`, `answer`", {"answer": "7"}, reads="7"),
    trained("JSON", "`question`, `rephrased`", {}),
    trained(
        "CSV",
        "`rephrased` empty",
        {"rephrased": ""},
        refused="line 2 has no rephrasing: column 'rephrased' is blank",
    ),
    Variant(
        *("JSONL", "`question` alone", "training", {"question": QUESTION}),
        refused="no rephrasings: no column 'rephrased_question' or 'rephrased' among question; name their "
        "file in data.rephrased; `coreward rephrase` makes one, and reward.method=majority_voting learns",
    ),
    own("JSONL", "`text`, `again`, `key`, named by `data.*_column`", reads="7"),
    own("CSV", "`text`, `again`, `key`, named by `data.*_column`", reads="7"),
    own("Parquet", "`text`, `key`, named by `data.*_column`", "evaluation", reads="7"),
    own(
        "JSONL",
        "`problem`, `answer`, others named",
        "evaluation",
        {"problem": QUESTION, "answer": 7},
        reads="7",
    ),
    own(
        "Parquet",
        "two files, `text` in both, named",
        row={"text": QUESTION, "index": 1, "key": 7},
        second={"text": REPHRASING, "index": 1},
        named=NamedColumns("text", "", "key"),
        reads="7",
    ),
    own(
        "JSONL",
        "`question`, but `data.question_column=text`",
        row={"question": QUESTION, "again": REPHRASING, "key": "7"},
        refused="no column 'text' among question, again, key; data.question_column names it",
    ),
    own(
        "JSONL",
        "no `key`, but `data.answer_column=key`",
        row={"text": QUESTION, "again": REPHRASING, "answer": "7"},
        refused="no column 'key' among text, again, answer; data.answer_column names it",
    ),
    own(
        "JSONL",
        "`again` null, named by `data.rephrased_column`",
        row={"text": QUESTION, "again": None, "key": "7"},
        refused="line 1 has no rephrasing: column 'again' is null",
    ),
    Variant(
        "Parquet",
        "`hf://OWNER/NAME/FILE`",
        "evaluation",
        {"question": QUESTION, "answer": "7"},
        "7",
        at_hub=True,
    ),
    trained("JSONL", "`hf://OWNER/NAME/FILE`", {"answer": "7"}, reads="7", at_hub=True),
    Variant(
        *("CSV", "`hf://OWNER/NAME/FILE`, two files", "training"),
        {"question": QUESTION, "index": 3, "answer": 7},
        "7",
        second={"question": REPHRASING, "index": 3},
        at_hub=True,
    ),
]


def write(variant: Variant, row: dict[str, Any] | bytes, name: str, folder: Path) -> str:
    path = folder / f"{name}.{variant.form.lower()}"
    if variant.at_hub:
        local = write(replace(variant, at_hub=False), row, name, folder)
        write_cache(folder / "cache", {path.name: Path(local).read_bytes()})
        return f"hf://{REPOSITORY}/{path.name}"
    if isinstance(row, bytes):
        path.write_bytes(row)
    elif variant.form == "Parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif variant.form == "CSV":
        text = io.StringIO()
        csv.writer(text).writerows([row.keys(), row.values()])
        path.write_text(text.getvalue(), newline="")
    else:
        path.write_text(json.dumps([row] if variant.form == "JSON" else row))
    return str(path)


def read(variant: Variant, folder: Path) -> list[tuple[str, str, str]]:
    """(question, rephrasing, ground truth) of every record, as training or evaluation reads them."""
    file = write(variant, variant.row, "file", folder)
    if variant.use == "evaluation":
        questions = load_questions(file, named=variant.named)
        return [(one.question, REPHRASING, one.answer) for one in questions]
    second = write(variant, variant.second, "second", folder) if variant.second else ""
    needs = {"rephrased_needed": variant.use == "training", "truth_needed": variant.use == "truth"}
    pairs = load_pairs(file, second, named=variant.named, **needs)
    if variant.use == "training":
        check_wordings_differ(pairs, file, second)
    return [(pair.original, pair.rephrased or REPHRASING, pair.answer or "") for pair in pairs]


@pytest.mark.parametrize("variant", VARIANTS, ids=[f"{one.form}, {one.says}, {one.use}" for one in VARIANTS])
def test_file(
    variant: Variant, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(tmp_path / "cache", monkeypatch)
    if variant.refused:
        with pytest.raises(ValueError) as error:
            read(variant, tmp_path)
        message = str(error.value)
        assert variant.refused in message and "\n" not in message and "; " in message
        assert str(tmp_path) in message and message.startswith(("evaluation.file=", "data."))
        return
    assert read(variant, tmp_path) == [(QUESTION, REPHRASING, variant.reads)]
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(warnings) == bool(variant.warns) and all(variant.warns in line for line in warnings)


def test_the_page_has_the_same_table() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if any(f" | {use} | " in line for use in USES.values())]
    expected = [variant.line() for variant in VARIANTS]
    assert lines == expected, "the table in docs/data.md should be:\n" + "\n".join(expected)
    assert len(VARIANTS) >= 40
