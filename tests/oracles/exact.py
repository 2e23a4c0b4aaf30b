r"""The authors' rule, from its description: the last \boxed{...} as a string, and equal strings.

Shares no code with megatron_coreward.
"""


def last_box(text: str) -> str:
    r"""What stands in the last \boxed{...}; "" if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return ""
    level = 0
    for position in range(start, len(text)):
        level += {"{": 1, "}": -1}.get(text[position], 0)
        if text[position] == "}" and level == 0:
            return text[start + len("\\boxed{") : position]
    return ""


def partition(answers: list[str]) -> list[list[int]]:
    """The positions of equal answers, in the order of their first; blank ones are in no class."""
    found: dict[str, list[int]] = {}
    for position, answer in enumerate(answers):
        if answer.strip():
            found.setdefault(answer, []).append(position)
    return list(found.values())
