"""What the tokens of a Whisper tokenizer stand for, in bytes: other runtimes join those."""

from __future__ import annotations


def text_tokens(tokenizer) -> list[bytes]:
    """Bytes of every text token, by id; the special tokens come after them and are left out.

    Raises:
        ValueError: the ids below `<|endoftext|>` are not all tokens of a byte-level vocabulary.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {char: value for value, char in bytes_to_unicode().items()}
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    names = {index: name for name, index in tokenizer.get_vocab().items() if index < end}
    try:
        return [bytes(byte_of[char] for char in names[index]) for index in range(end)]
    except KeyError as error:
        raise ValueError(
            f"the tokenizer is not Whisper's: {error.args[0]!r} is no byte-level token"
        ) from None
