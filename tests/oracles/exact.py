r"""The authors' rule, from its description: what stands in the last box, as a string, and equal strings.

A box with a space, `\boxed 5`, anywhere in the text goes before all others, and what follows the last of them
up to a dollar sign is the answer. Otherwise it is what stands in the last `\boxed{..}`, where every brace
counts; one that never closes is none, even after others. `\fbox` and `\boxed5` raise an error in the authors'
code, which prints it: there is no answer then. Answers of white space do not vote.

Shares no code with megatron_coreward.
"""


def last_box(text: str) -> str:
    """The answer of a response; "" if there is none."""
    spaced = text.split("\\boxed ")
    if len(spaced) > 1:
        return spaced[-1].split("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        return ""
    level = 0
    for position in range(start, len(text)):
        level += {"{": 1, "}": -1}.get(text[position], 0)
        if text[position] == "}" and level == 0:
            box = text[start : position + 1]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else ""
    return ""


def partition(answers: list[str]) -> list[list[int]]:
    """The positions of equal answers, in the order of their first; blank ones are in no class."""
    found: dict[str, list[int]] = {}
    for position, answer in enumerate(answers):
        if answer.strip():
            found.setdefault(answer, []).append(position)
    return list(found.values())
