"""Reads a SentencePiece model: its pieces and its table of characters, out of a protocol buffer.

The message is `ModelProto` of sentencepiece_model.proto (Kudo & Richardson 2018, "SentencePiece"):
pieces in field 1, the trainer's settings in 2, the normaliser's in 3.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

UNIGRAM = 1
"""The trainer's `model_type` of a unigram model, which is also that of a file without one."""

PIECES, TRAINER, NORMALISER = 1, 2, 3  # of the model
PIECE, SCORE = 1, 2  # of a piece
MODEL_TYPE, UNKNOWN = 3, 40  # of the trainer
CHARACTERS = 2  # of the normaliser

Value = int | bytes


class Pieces(NamedTuple):
    """What a unigram model says.

    Attributes:
      pieces: Each piece and its log-probability, in the order of their ids.
      unknown: The id of what no piece covers.
      characters: The normaliser's table, as `normalizers.Precompiled` takes it; b"" for none.
    """

    pieces: list[tuple[str, float]]
    unknown: int
    characters: bytes


def read(path: Path) -> Pieces:
    """The unigram model of a file.

    Raises:
      ValueError: The file cannot be read, is damaged, or holds a model of another kind.
    """
    try:
        model = list(fields(path.read_bytes()))
        pieces = [_piece(_bytes(value)) for number, value in model if number == PIECES]
        trainer, normaliser = (
            dict(fields(b"".join(_bytes(value) for number, value in model if number == part)))
            for part in (TRAINER, NORMALISER)
        )
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, IndexError, KeyError, struct.error):
        raise ValueError(f"{path} is damaged, or no SentencePiece model") from None
    if not pieces or trainer.get(MODEL_TYPE, UNIGRAM) != UNIGRAM:
        raise ValueError(f"{path} holds no unigram model, as T5's tokenizer is")
    unknown, characters = trainer.get(UNKNOWN, 0), normaliser.get(CHARACTERS, b"")
    if not isinstance(unknown, int) or not isinstance(characters, bytes):
        raise ValueError(f"{path} is damaged, or no SentencePiece model")
    return Pieces(pieces, unknown, characters)


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message in their order, as numbers and values: integers, or raw bytes.

    Raises:
      ValueError: It is cut short, or has groups, which no message here has.
      IndexError: It is cut short.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == 2:
            size, place = _varint(message, place)
        else:
            size = {1: 8, 5: 4}[kind]
        if place + size > len(message):
            raise ValueError("cut short")
        yield number, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("an integer has more than 64 bits")


def _piece(message: bytes) -> tuple[str, float]:
    held = dict(fields(message))
    (score,) = struct.unpack("<f", _bytes(held.get(SCORE, bytes(4))))
    return _bytes(held[PIECE]).decode("utf-8"), score


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("an integer where a text belongs")
    return value
