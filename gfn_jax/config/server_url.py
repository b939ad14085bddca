"""What a Redis server's URL may say: it stands in config.json, for everyone to read."""

from urllib.parse import urlsplit


def check_url(url: str) -> None:
    """Raises `ValueError`, which repeats nothing of it, where a URL is none of Redis's, or holds more than a place."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("it is no URL") from None
    if parts.password:
        raise ValueError(
            "it holds a password, which would stand in config.json for everyone to read: put it into an environment "
            "variable, and that variable's name into replay.password_variable"
        )
    if parts.query:
        raise ValueError("options behind a question mark are not taken; a password goes into a variable")
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("it does not begin with redis://, rediss:// or unix://")
