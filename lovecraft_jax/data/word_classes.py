"""Classes of pretokens by their form: what a word that is too rare for an id of its own still says about itself."""

ENDINGS = ("ing", "ed", "ly", "tion", "ness", "ous", "able", "er", "est", "s")
KINDS = ("newlines", "spaces", "marks", "number", "capitals", "Capital", "apostrophe", "mixed", *ENDINGS, "word")
FORMS = tuple(before + kind for before in ("", " ") for kind in KINDS)
"""The names of the classes; those of pretokens that begin with a space do so too."""


def classify(pretoken: str) -> tuple[int, str]:
    """Returns the index of a pretoken's class in FORMS, and its stem: the pretoken without the space before it and
    without its class's ending."""
    before = " " if pretoken.startswith(" ") and not pretoken.isspace() else ""
    kind = _kind(pretoken.removeprefix(before))
    ending = kind if kind in ENDINGS else ""
    return FORMS.index(before + kind), pretoken.removeprefix(before).removesuffix(ending)


def compose(class_index: int, stem: str) -> str:
    """Returns the pretoken of a class and a stem: `classify` undone."""
    form = FORMS[class_index]
    before, kind = form[: -len(form.lstrip())], form.lstrip()
    return before + stem + (kind if kind in ENDINGS else "")


def _kind(text: str) -> str:
    if text.isspace():
        return "newlines" if text.startswith("\n") else "spaces"
    if text.isdecimal():
        return "number"
    if not any(map(str.isalnum, text)):
        return "marks"
    if "'" in text:
        return "apostrophe"
    if text.isupper() and len(text) > 1:
        return "capitals"
    if text[0].isupper() and not any(map(str.isupper, text[1:])):
        return "Capital"
    if any(map(str.isupper, text)):
        return "mixed"
    return next((ending for ending in ENDINGS if text.endswith(ending) and len(text) > len(ending) + 1), "word")
