"""Secrets of the test. None of them may appear in anything that the server writes or shows."""

import secrets

# Parts of secrets that are shorter could appear by chance.
SHORTEST = 16

_parts = set()


def remember(secret):
    """Notes a secret, and each part of a token with dots. Returns it."""
    # The header of a JSON Web Token, its first part, is no secret: other tokens have the same.
    parts = secret.split(".")
    for part in parts[1:] if len(parts) == 3 else [secret]:
        for piece in (part[:SHORTEST], part[-SHORTEST:]):
            if len(piece) == SHORTEST:
                _parts.add(piece)
    return secret


def new_secret():
    """Creates a secret, such as a password. It never begins with `-`, so programs take it as an argument."""
    return remember(secrets.token_hex(32))


def found_in(text):
    """Returns a secret's part that is in the text, or None."""
    return next((part for part in _parts if part in text), None)


def count():
    return len(_parts)
