"""The pairs of a probe: where they come from, without their truths, and what is refused."""

import json
from pathlib import Path

import pytest

from megatron_coreward.config.schema import Config
from megatron_coreward.data import synthetic
from megatron_coreward.data.prompts import build_probe, probe_records
from tests.support.models import byte_tokenizer


def probe_config(**monitor: object) -> Config:
    config = Config()
    config.data.source, config.data.system_prompt = "synthetic", ""
    for name, value in {"every": 5, "pairs": 3, **monitor}.items():
        setattr(config.monitor, name, value)
    return config


def test_synthetic_pairs_and_none_without_a_probe() -> None:
    pairs, records = build_probe(probe_config(), byte_tokenizer()), synthetic.probe_pairs()
    assert [(p.original, p.rephrased) for p in pairs] == [(r.original, r.rephrased) for r in records[:3]]
    assert all(pair.answer is None and pair.original_ids and pair.rephrased_ids for pair in pairs)
    assert build_probe(probe_config(every=0), byte_tokenizer()) == []


def test_a_probe_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    """The truths are not read, and a pair with a long side is left out."""
    file = tmp_path / "held_out.jsonl"
    rows = [{"question": f"{n}?", "rephrased": f"or {n}?", "answer": "1"} for n in range(4)]
    rows[1]["rephrased"] = 200 * "long "
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = build_probe(probe_config(original=str(file)), byte_tokenizer())
    assert [pair.pair_id for pair in pairs] == [0, 2, 3] and {pair.answer for pair in pairs} == {None}
    with pytest.raises(ValueError) as error:
        build_probe(probe_config(original=str(file), pairs=4), byte_tokenizer())
    assert str(error.value) == (
        f"monitor.pairs is 4, but monitor.original={file} gives 3 pairs with prompts of up to 512 tokens "
        "(data.max_prompt_tokens). Lower monitor.pairs, or name a larger file in monitor.original."
    )
    with pytest.raises(
        ValueError, match=r"monitor.pairs is 99999, but data.source=synthetic gives \d+ pairs"
    ):
        build_probe(probe_config(pairs=99999), byte_tokenizer())


def test_a_probe_needs_two_wordings(tmp_path: Path) -> None:
    """Those that are the same always agree."""
    same = tmp_path / "same.jsonl"
    same.write_text('{"question": "1?", "rephrased": "1?", "index": 0}\n')
    for rephrased, problem in (
        ("", f"monitor.original={same}: 1 of 1 rephrasings are their original question"),
        (str(same), f"monitor.rephrased={same}: this is the file of monitor.original"),
    ):
        with pytest.raises(ValueError) as error:
            probe_records(probe_config(original=str(same), rephrased=rephrased, pairs=1))
        assert str(error.value) == (
            f"{problem}; set monitor.rephrased to rephrasings (`coreward rephrase` makes them)"
        )
