"""Refusals, told apart from what the persons of a question say: "Mia says: I can't tell"."""

import re

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼʹ′＇`´‛", "'"))
_CANNOT = (
    r"(?:(?:don't|do not) (?:think|believe) I (?:can|could)|can ?not|can't|cant|could ?n[o']t"
    r"|couldn't|won't|will not|wouldn't)"
)
_UNABLE = r"(?:not able|unable|not allowed|not permitted|not in a position|not capable)"
_TO_SERVE = (
    r"(?:assist|help|comply|fulfil\w*|rephrase|rephrasing|reword\w*|rewrite|rewriting|paraphras\w*|restat\w*"
    r"|process|answer that|answer this|do that|do this|generate|provide|create|write|produce|complete|respond"
    r"|engage|discuss|support|continue|proceed|put (?:this|that|it)|change (?:this|that)|reformulat\w*)"
)
_OF_THE_TASK = re.compile(
    rf"(?i)(?:\b(?:I|we)\b[^.?!\n]{{0,40}}?|\A\W*)(?:\b{_CANNOT}|\b{_UNABLE} to|\bdecline to"
    rf"|\brefuse to)(?: \w+ly)? (?:be able to )?{_TO_SERVE}\b|\b(?:your|this|that|such a) request\b"
    rf"|\bas an? (?:AI\b|(?:large )?language model)|\bI(?:'m| am) (?:just |only )?an? (?:AI\b"
    rf"|(?:large )?language model|assistant)|\b(?:no|any|an actual|a) (?:question|problem|text) (?:was|is"
    rf"|has been|were) (?:given|provided|included|supplied)|\bplease (?:provide|share|give me|send|supply"
    rf"|clarify)(?: me)?(?: with)?(?: \w+){{0,3}}? (?:question|problem|text|context|details|information"
    rf"|clarification)\b|\bthere (?:is|was|seems to be) no (?:question|problem|text)\b|\b(?:against|violates?"
    rf"|violating) \w+ (?:\w+ )?(?:guidelines|polic)|\bI(?:'d| would) rather not\b|\b(?:must|have to"
    rf"|need to) (?:respectfully |politely )?(?:decline|refuse)\b|(?:not "
    rf"|im)possible(?: for me)? to (?:rephrase|reword|rewrite)|\bthe (?:question|problem|text|prompt)\b(?: is"
    rf"|[^.?!]{{0,40}} (?:seems|appears|looks))(?: to be)? (?:incomplete|inappropriate|unclear|cut off"
    rf"|missing|truncated)\b|\b(?:doesn't|does not|didn't|did not) (?:contain|include|provide) (?:an?"
    rf"|any) (?:\w+ )?(?:question|problem)\b"
)
_OF_A_PERSON = re.compile(
    rf"(?i)\bI(?: am|'m)?(?: \w+ly)? (?:{_CANNOT}|{_UNABLE})(?=[\s.,:;!])"
    r"|\bI(?:'m| am)(?: (?:so|very|really|truly|terribly|deeply))? (?:sorry|afraid)\b|\A\W*(?:so "
    r"|very )?sorry\b|\b(?:my|our) (?:\w+ )?apologies\b|\A\W*apologies\b|\bI (?:\w+ )?apologi[sz]e\b"
    r"|\A\W*(?:unfortunately|regrettably|regretfully)\W+(?:I|it|this|we|the (?:question|problem))\b"
    r"|\bI (?:don't|do not) (?:have (?:enough|access|the ability)|feel comfortable|understand|know how to re)"
    r"|\bI(?:'m| am) (?:not|un)(?: )?comfortable\b|\A\W*(?:we|you) (?:cannot|can't)\b"
)
_QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”|«[^»]*»|„[^“”]*[“”]|``[^'`]*''|(?<!\w)'[^\n]{0,400}?[.,!?]'(?!\w)"
    r"|(?<!\w)‘[^\n]{0,400}?[.,!?]’(?!\w)"
)
_SAYS = re.compile(
    r"\b(?:say(?:s|ing)?|said|tells?|told|ask(?:s|ed)|repl(?:y|ies|ied)|answer(?:s|ed)|think(?:s|ing)?"
    r"|thought|claim(?:s|ed)|stat(?:es?|ed)|announc(?:es?|ed)|declar(?:es?|ed)|exclaim(?:s|ed)|respond(?:s"
    r"|ed)|whisper(?:s|ed)|shout(?:s|ed)|remark(?:s|ed)|add(?:s|ed)|admit(?:s|ted)|not(?:es|ed)|mention(?:s"
    r"|ed)|observ(?:es|ed)|comment(?:s|ed)|call(?:s|ed) out|speak(?:s|ing)?|confess(?:es|ed)|conversation"
    r"|dialogue)\b|(?:\A|\n)\W*[A-Z]\w*:",
)
_FIRST_PERSON = re.compile(r"\bI(?:'\w+)? [a-z]+")


def refusal(original: str, rephrased: str) -> str:
    """The words of a refusal in the rephrasing; empty if there is none.

    Quoted speech is no refusal. Neither are words that a person of the question may say (I can't), where
    somebody speaks in the rephrasing before or in the same sentence, or the original says "I" as well.
    """
    before = original.translate(_APOSTROPHES)
    text = _QUOTED.sub(lambda match: " " * len(match[0]), rephrased).translate(_APOSTROPHES)
    for match in _OF_THE_TASK.finditer(text):
        if not _is_spoken(text, match.start()) and match[0].lower() not in before.lower():
            return match[0].strip()
    if _FIRST_PERSON.search(before):
        return ""
    for match in _OF_A_PERSON.finditer(text):
        end = re.search(r"[.?!](?:\s|$)|\Z", text[match.end() :])
        until = match.end() + (end.start() if end else 0)
        if not _SAYS.search(text[:until]) and match[0].lower() not in before.lower():
            return match[0].strip()
    return ""


def _is_spoken(text: str, position: int) -> bool:
    """Whether somebody is said to speak before `position` in the same sentence."""
    sentence = re.split(r"[.?!]\s", text[:position])[-1]
    return _SAYS.search(sentence) is not None
