"""What labels that are no classes look like; no torch, since readers ask."""

DECIDES_NUMBERS = False          # of sentences alone


def likeness(found, classes):
    """The remedy for labels of which some are neither -1 nor 0 .. classes - 1. found: the set of values there are."""
    beyond = {value for value in found if not -1 <= value < classes}
    if beyond == {classes} and -1 not in found:
        what = "0 stood for void" if 0 in found else "classes began at 1"
        return f"with {classes} there and no -1 they look as though {what}; write label - 1"
    if len(beyond) == 1 and max(beyond) >= 250:
        return f"{max(beyond):g} looks like void; write -1 for it"
    return "map yours to these"
