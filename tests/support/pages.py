"""The code blocks of a page of docs/, for tests that run them."""

import re

from tests.support.paths import ROOT


def blocks(page: str, heading: str = "", language: str = "python") -> list[str]:
    """The blocks of one language, below a heading if one is given, in order."""
    text = (ROOT / "docs" / page).read_text()
    if heading:
        [text] = re.findall(
            rf"^(#+ {re.escape(heading)}\n.*?)(?=^#+ |\Z)", text + "\n", re.MULTILINE | re.DOTALL
        )
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} {heading} has no block of {language}"
    return found
