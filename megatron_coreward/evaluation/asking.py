"""Questions of one's own to a model: the responses, their answers, and the vote.

Drawn and read as in an evaluation, without a ground truth.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.voting import Vote, vote
from megatron_coreward.data.pairs import Question
from megatron_coreward.data.prompts import EvaluationQuestion, with_prompts
from megatron_coreward.evaluation.measures import GREEDY, SAMPLED, Row
from megatron_coreward.evaluation.model import EvaluatedModel, read_model, run_with_engine
from megatron_coreward.evaluation.outcomes import draw
from megatron_coreward.grading.grader import Grader
from megatron_coreward.preflight.files import check_token_ids
from megatron_coreward.roles import Communicator, RolloutEngine


@dataclass(frozen=True)
class Asked:
    """A question with its responses; `rows` (outcomes.py) are in the order of samples."""

    question: str
    rows: list[Row]

    @property
    def vote(self) -> Vote:
        return vote([row["answer_class"] for row in self.rows], ties="first", min_agreement=0.0)

    def answers(self) -> list[tuple[int, list[str], int]]:
        """(class, its distinct answers, number of responses) of each class, most responses first.

        The one of the vote comes first; NO_ANSWER, whose answer is "", stands among them.
        """
        forms: dict[int, list[str]] = defaultdict(list)
        for row in self.rows:
            forms[row["answer_class"]].append(row["answer"])
        first = sorted(
            forms, key=lambda answer_class: (-len(forms[answer_class]), answer_class != self.vote.label)
        )
        return [(c, list(dict.fromkeys(forms[c])), len(forms[c])) for c in first]


def read_asked(
    questions: Sequence[str],
    model: str,
    checkpoint: Path | None,
    scratch: Path | None,
    given: Sequence[str],
    world_size: int,
) -> tuple[EvaluatedModel, list[EvaluationQuestion]]:
    """The model and the questions' prompts, checked. Raises ValueError for the first thing that is wrong."""
    empty = [number for number, question in enumerate(questions, start=1) if not question.strip()]
    if empty or not questions:
        raise ValueError(f"question {empty[0]} is empty" if empty else "there is no question")
    read = read_model(model, checkpoint, scratch, given, world_size)
    records = [Question(number, question, "") for number, question in enumerate(questions)]
    prompted = with_prompts(records, read.config, read.tokenizer)
    if len(prompted) < len(records):
        kept = {question.question_id for question in prompted}
        long = next(number for number in range(len(records)) if number not in kept)
        raise ValueError(
            f"question {long + 1} has a prompt of more than {read.config.data.max_prompt_tokens} tokens; "
            "shorten it, or raise data.max_prompt_tokens"
        )
    check_token_ids(read.shape, read.stop_ids, (question.prompt_ids for question in prompted))
    return read, prompted


def ask_model(
    model: EvaluatedModel,
    questions: Sequence[EvaluationQuestion],
    show: Callable[[Asked], None],
    *,
    greedy: bool,
) -> int:
    """Builds the engine and shows what `ask` returns; the program's exit code. A collective."""

    def work(engine: RolloutEngine, comm: Communicator, grader: Grader) -> None:
        for asked in ask(engine, comm, questions, model.config, grader, greedy=greedy):
            show(asked)

    return run_with_engine(model, work)


def ask(
    engine: RolloutEngine,
    comm: Communicator,
    questions: Sequence[EvaluationQuestion],
    config: Config,
    grader: Grader,
    *,
    greedy: bool,
) -> list[Asked]:
    """The questions with their responses, on rank 0; elsewhere none. A collective."""
    own = draw(engine, questions, config, grader, GREEDY if greedy else SAMPLED, config.run.seed)
    rows = [row for share in comm.gather(own) for row in share]
    by_question: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["sample"]):
        by_question[row["question_id"]].append(row)
    return [Asked(q.question, by_question[q.question_id]) for q in questions if q.question_id in by_question]
