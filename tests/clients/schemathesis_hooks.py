"""What schemathesis sends, made to be what a client would send."""

import schemathesis


def whole(value):
    """Whole numbers as such: JSON Schema takes 3.0 for an integer, readers of JSON take it for none, and no client writes it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    return value


@schemathesis.hook
def map_body(context, body):
    return whole(body)
