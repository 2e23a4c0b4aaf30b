"""The probe with scripted answers: what it asks, what it says on several ranks, and what it remembers."""

import json
import math
from typing import Any

import pytest

from megatron_coreward.config.schema import Config
from megatron_coreward.evaluation.probe import Probe
from megatron_coreward.requests import EVALUATION, PROBE, request_seed
from megatron_coreward.types import GenerationRequest, QuestionPair, Response, Sampling, View
from tests.support.fakes import FakeEngine, run_threads

PAIRS = [QuestionPair(n, f"q{n}", f"r{n}", (1, n), (2, n)) for n in (4, 7)]
Said = dict[tuple[int, str], tuple[str, list[str]]]
"""(pair, o or r) -> greedy answer and samples."""
START: Said = {
    (4, "o"): ("0.5", ["0.5", "1/2", "3", "0.5", "3", "3", "3", "1/2"]),
    (4, "r"): ("1/2", ["3", "3", "3", "1/2", "6/2", "3", "1", "2"]),
    (7, "o"): ("8", ["8", "8", "", "", "9", "9", "9", "9"]),
    (7, "r"): ("", ["", "", "", "", "9", "9", "9", "9"]),
}
LATER: Said = START | {
    (4, "o"): ("0.5", ["1/2", "1/2", "1/2", "1/2"]),
    (4, "r"): ("8", ["8", "8", "8", "8"]),
    (7, "o"): ("8", ["9", "9", "8", "8"]),
}


class Engine(FakeEngine):
    """A rank draws the pairs that are its own; greedy and sampled answers differ."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size
        self.said = START
        self.sampling: list[Sampling] = []

    def generate(self, requests: list[GenerationRequest], sampling: Sampling) -> list[Response]:
        self.sampling.append(sampling)

        def answer(request: GenerationRequest) -> str:
            greedy, samples = self.said[request.pair_id, request.view.value[0]]
            return rf"\boxed{{{samples[request.sample] if sampling.temperature else greedy}}}"

        self._answer = answer
        drawn = super().generate(requests, sampling)
        return [r for n, r in enumerate(drawn) if r.pair_id % self.world_size == self.rank]


def config(samples: int = 4) -> Config:
    config = Config()
    config.monitor.samples, config.run.seed = samples, 3
    return config


def probed(ranks: int) -> list[tuple[Probe, Engine]]:
    """At the start and after step 5, where one that goes on from a checkpoint remembers the same."""

    def work(comm: Any) -> tuple[Probe, Engine]:
        engine = Engine(comm.rank, ranks)
        probe = Probe(engine, comm, PAIRS, config())
        probe.measure(0, *probe.draw(), {})
        state = json.loads(json.dumps(probe.state_dict()))
        resumed = Probe(engine, comm, PAIRS, config())
        resumed.load_state_dict(state)
        engine.said = LATER
        for one in (probe, resumed):
            one.measure(5, *one.draw(), {"probe/kl": 0.25})
        assert probe.state_dict() == resumed.state_dict()
        return probe, engine

    return run_threads(ranks, work)


@pytest.mark.parametrize("ranks", [1, 2])
def test_figures_of_the_start_and_later(ranks: int) -> None:
    for probe, _ in probed(ranks):
        first, later = probe.history
        # 0.5 and 1/2 are equal: in thirds and ones of four, entropies e, e, 1 bit and 0.
        e = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        assert first["probe/answer_entropy"] == pytest.approx((2 * e + math.log(2)) / 4 / math.log(4))
        assert first["probe/agreement"] == 0.5, "0.5 = 1/2; 8 and none are not equal"
        assert first["probe/top_answer_share"] == 4 / 16, "3 has four, and so have 0.5 and 1/2 together"
        assert first["probe/kept_by_chance"] == 0.5, "of two that had 0.75, 3 is 6/2 in the second draw"
        assert "probe/kept_by_chance" not in later
        assert first["probe/kept_majorities"] == 1 and "probe/flipped_majorities" not in first
        assert later["probe/kept_majorities"] == 0.5, "of two that had 0.75, 1/2 is still 0.5"
        assert later["probe/flipped_majorities"] == 2 / 3, "of three that had a majority"
        assert (first["step"], later["step"], later["probe/kl"]) == (0, 5, 0.25)


def test_the_same_seeds_each_time_and_none_of_the_evaluation() -> None:
    [(_, engine)] = probed(1)
    greedy, twice, later, sampled = engine.requests[:4]
    assert [s.temperature for s in engine.sampling[:2]] == [0.0, 1.0]
    assert len(greedy) == 4 and len(sampled) == 16
    assert later == greedy and sampled == [r for r in twice if r.sample < 4], "the same at every step"
    assert len({r.seed for r in twice}) == 32, "the start model's second draw has seeds of its own"
    assert sampled[0].seed == request_seed(3, 0, 4, View.ORIGINAL, 0, PROBE)
    assert not {r.seed for r in sampled} & {
        request_seed(3, 0, r.pair_id, r.view, r.sample, EVALUATION) for r in sampled
    }


def test_another_probe_cannot_go_on_from_a_checkpoint() -> None:
    [(probe, engine)] = probed(1)
    state = probe.state_dict()
    for pairs, samples in ((PAIRS[:1], 4), (PAIRS, 5)):
        [other] = run_threads(1, lambda comm, p=pairs, s=samples: Probe(engine, comm, p, config(s)))
        with pytest.raises(ValueError, match="cannot resume: the checkpoint's probe asked other questions"):
            other.load_state_dict(state)
