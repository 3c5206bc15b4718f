"""MQTT topic filter matching (MQTT 5.0, section 4.7)."""


def matches(pattern: str, topic: str) -> bool:
    """``+`` stands for one level, a final ``#`` for any number, also none; ``$`` hides from wildcards."""
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False
    wanted, given = pattern.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position == len(given) or level not in ("+", given[position]):
            return False
    return len(wanted) == len(given)
