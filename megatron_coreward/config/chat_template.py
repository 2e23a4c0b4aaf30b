"""model.chat_template: a chat template for a base model that has none. Imports no torch."""

from pathlib import Path

CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""Its name in a Hugging Face folder, where it comes before what tokenizer_config.json says."""
PLAIN = "plain"
_PLAIN_FILE = Path(__file__).parent / "assets" / "plain.jinja"


def template_text(given: str) -> str:
    """The Jinja template that a value of model.chat_template stands for; "" for the model's own.

    A value with a brace is a template already: a run stores the text, so that the file may go.

    Raises:
        ValueError: there is no such file, or it holds no template.
    """
    if not given or "{" in given:
        return given
    path = _PLAIN_FILE if given == PLAIN else Path(given).expanduser()
    allowed = f"Give the path of a Jinja file, or {PLAIN} for the one that ships."
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"model.chat_template is {given!r}, which cannot be read: {error}. {allowed}"
        ) from error
    if "{" not in text:
        raise ValueError(f"model.chat_template is {given!r}, but that file holds no template. {allowed}")
    return text
