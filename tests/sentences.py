"""What every refusal has in common."""

from collections.abc import Callable

import pytest

from nice_demo.errors import InputError


def refuses(call: Callable[[], object], *words: object) -> str:
    """Expect an `InputError` of one sentence that names all of `words`; return the sentence."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for word in words:
        assert str(word) in message
    return message
