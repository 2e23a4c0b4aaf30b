"""What stands around a rephrasing is taken off where a question is left, and recognised where it is not."""

import json

import pytest

from megatron_coreward.rephrasing.wrapping import is_placeholder, left_over, unwrap

PENS = "Twelve pens cost $18 in a store. How many dollars do 5 pens cost?"
TEX = r"What is \frac{1}{2} of \beta if $\beta \neq 5 \times 3$?"
QUESTIONS = [
    PENS,
    TEX,
    "Find $x$ such that $3x + 5 = 20$.",
    'Mia says "I win" and Tom\'s dog barks. Who of 3 wins?',
]
WRAPPINGS = {
    "fence": "```\n{}\n```",
    "fence with a language": "```markdown\n{}\n```",
    "open fence": "```\n{}",
    "tildes": "~~~\n{}\n~~~",
    "inline code": "`{}`",
    "straight quotes": '"{}"',
    "typographic quotes": "“{}”",
    "guillemets": "«{}»",
    "label": "Question: {}",
    "bold label": "**Question:** {}",
    "bold label, colon outside": "**Rephrased Question**: {}",
    "heading": "### Rephrased question\n\n{}",
    "participle": "Rephrased: {}",
    "label with a number": "Rephrased question 1: {}",
    "dash": "Reworded question - {}",
    "problem": "**Problem**\n{}",
    "Q": "Q: {}",
    "empty answer": "Q: {}\nA:",
    "lead-in": "Here is the question in other words: {}",
    "courtesy": "Sure! {}",
    "courtesy and lead-in": "Certainly! Here’s a rephrased version of the question:\n\n{}",
    "lead-in in the first person": "Let me put it in other words: {}",
    "lead-in in the passive": "The question could be reworded as follows:\n{}",
    "in other words": "In other words: {}",
    "sentence before": "I have rephrased the question as follows. {}",
    "note": "{}\nNote: I kept all the numbers.",
    "note in brackets": "{}\n\n(Note: the story was changed, the numbers stay the same.)",
    "explanation": "{}\n\n**Explanation:** The wording is new.",
    "hope": "{}\n\nI hope this helps!",
    "tags": "<question>{}</question>",
    "quoted lines": "> {}",
    "rules": "---\n{}\n---",
    "many layers": 'Sure, here is my version:\n```\n**Question:** "{}"\n```\nLet me know if it is fine.',
    "original first": "Original question: Why 12?\n\nRephrased question: {}",
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_wrappings_come_off(wrapping: str, question: str) -> None:
    assert unwrap(wrapping.format(question)) == question


@pytest.mark.parametrize(
    "text", [PENS, "If $3 < x$, what is the least whole number that $x$ can be, when it is below 20?"]
)
def test_brackets_of_the_template_come_off(text: str) -> None:
    """Short texts in them count as placeholders."""
    assert unwrap(f"<{text}>") == unwrap(f"< {text} >") == unwrap(f"⟨{text}⟩") == text
    assert is_placeholder("<Find $x$.>")


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("key", ["question", "rephrased_question", "problem", "rephrased", "output"])
def test_json_comes_off(key: str, question: str) -> None:
    assert unwrap(json.dumps({key: question})) == question
    assert unwrap(f"```json\n{json.dumps({key: question}, indent=2)}\n```") == question
    assert unwrap(str({key: question})) == question  # a Python literal
    assert unwrap(json.dumps([question])) == question


def test_json_with_more_keys_and_with_unescaped_tex() -> None:
    assert unwrap(json.dumps({"original_question": "Why?", "rephrased": PENS, "answer": "7.5"})) == PENS
    assert unwrap(f'{{"question": "{TEX}"}}') == TEX
    assert unwrap(f'{{"question": "{TEX}\\nWhich?"}}') == f"{TEX}\nWhich?"


@pytest.mark.parametrize(
    "text",
    [
        *QUESTIONS,
        "<b>Tell</b> of 12 <b>people</b>",
        '"A" or "B": which is larger?',
        "(3 + 4) times (5 + 6) is what (in base 10)?",
        "[asy] draw(p); [/asy] What is shown in [0, 1]?",
        r"\[x+y=3\] What is \[x\]?",
        "$x < 3$ or $x > 5$. Which?",
        "What is the sum?\nNote: a palindrome reads the same backwards.",
        "Which is right?\n- 3 + 4\n- 5 + 6",
        "1. Add 3 to 4.\n2. What do you get?",
        "The price is: 12 for 3. What is it for 5?",
        "A sequence is defined as follows: $a_1 = 3$. Find $a_5$.",
        "Of course, 12 pens cost 18 dollars. How much are 5?",
        "```asy\ndraw(p);\n```",
    ],
)
def test_what_belongs_to_a_question_stays(text: str) -> None:
    assert unwrap(text) == text


@pytest.mark.parametrize(
    "text", ["<rewritten question>", "**Rewritten Problem**", "YOUR NEW WORDING", "{question}"]
)
@pytest.mark.parametrize("wrapping", ["{}", '"{}"', "```\n{}\n```"])
def test_placeholders_stay_placeholders(text: str, wrapping: str) -> None:
    assert is_placeholder(unwrap(wrapping.format(text)))


def test_what_cannot_be_taken_off_is_named() -> None:
    assert left_over('{"question": "Why 5') and left_over(f"My try\n```\n{PENS}\n```")
    assert not left_over(PENS) and not left_over("Add:\n```\n  a b\n+ c d\n```")


@pytest.mark.parametrize(
    "piece", ["```", '"', "<a ", "Question: ", "Note: \n", "(", "**", " \n", '{"', "I can "]
)
def test_degenerate_texts_end(piece: str) -> None:
    """A model that repeats itself up to the token limit must not hold up the run."""
    unwrap(piece * 4000 + "x?")
