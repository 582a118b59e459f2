"""Reads the tokenizer folders of CLIP and T5, as transformers writes them, old or new."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from cfg_jax.diffusion.checks import told
from cfg_jax.runtime.files import read_object, read_text
from cfg_jax.text import sentencepiece_file
from cfg_jax.text.sentencepiece_file import Pieces

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
WHOLE = "tokenizer.json"

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
"""The special tokens that the files name."""

CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
"""What the special tokens are where no file names them."""

T5_EXTRA = tuple(f"<extra_id_{i}>" for i in range(100))
"""Tokens that follow the pieces of T5's SentencePiece model, the last one first."""

CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
"""What byte pairs never cross: endings, letters, one digit, other signs (CLIP's tokenizer)."""

END_OF_WORD = "</w>"

LARGEST = 2**31
"""Ids lie below."""

SPARE = 16
"""Small vocabularies for tests hold a few entries that no merge makes; more are a cut file."""


class Made(NamedTuple):
    """What a folder gives of a `Tokenizer`; its attributes are described there."""

    json: str
    bos: int | None
    eos: int
    pad: int


def clip(folder: str | Path) -> Made:
    """Reads CLIP's tokenizer; the splitting into words is always CLIP's own.

    Raises:
      ValueError: A file is missing or damaged; it is named.
    """
    root = _folder(folder)
    vocabulary, merges, where = _byte_pairs(root)
    roles, added = _special_tokens(root, CLIP_TOKENS)
    names = {token.content for token in [*roles.values(), *added.values()]}
    _check_merges(vocabulary, merges, names, where)
    _check_letters(vocabulary, roles["unk_token"].content, root)
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=roles["unk_token"].content,
            end_of_word_suffix=END_OF_WORD,
            continuing_subword_prefix="",
            fuse_unk=False,
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    made.decoder = decoders.ByteLevel()
    return _finished(root, made, roles, added)


def is_unigram(folder: str | Path) -> bool:
    """Whether a folder's tokenizer is a unigram model, as T5's is.

    Raises:
      ValueError: There is no such folder, or its file is damaged.
    """
    root = _folder(folder)
    if not (root / WHOLE).is_file():
        return any(root.glob("*.model"))
    model = _object(root / WHOLE).get("model")
    return isinstance(model, Mapping) and model.get("type") == "Unigram"


def t5(folder: str | Path) -> Made:
    """Reads T5's tokenizer, a unigram model of words that begin with "▁".

    Raises:
      ValueError: A file is missing or damaged; it is named.
    """
    root = _folder(folder)
    roles, added = _special_tokens(root, T5_TOKENS)
    path, (pieces, unknown, characters) = _unigram(root)
    if path.name != WHOLE:
        extra = {len(pieces) + i: name for i, name in enumerate(reversed(T5_EXTRA))}
        pieces = [*pieces, *((name, 0.0) for name in extra.values())]
        added = {i: AddedToken(name, special=True) for i, name in extra.items()} | added
    try:
        made = Tokenizer(models.Unigram(pieces, unknown, byte_fallback=False))
        if characters:
            made.normalizer = normalizers.Precompiled(characters)
    except Exception as error:  # the package raises no other class
        raise ValueError(f"{path} holds a damaged unigram model: {error}") from None
    spaces = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    return _finished(root, made, roles, added)


def _unigram(root: Path) -> tuple[Path, Pieces]:
    """The unigram model of a folder, and the file that holds it."""
    path, alone = root / WHOLE, sorted(root.glob("*.model"))
    if not path.is_file() and alone:
        return alone[0], sentencepiece_file.read(alone[0])
    held = _object(path)
    model = held.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("vocab"), list):
        raise ValueError(f"{path} holds no unigram model, as T5's tokenizer is")
    if model.get("unk_id") is None:
        raise ValueError(f"{path} holds a damaged unigram model: it has no unk_id")
    try:
        pieces = [(str(piece), float(score)) for piece, score in model["vocab"]]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a damaged unigram model: {error}") from None
    return path, Pieces(pieces, model["unk_id"], _characters(path, held.get("normalizer")))


def _finished(
    root: Path, made: Tokenizer, roles: dict[str, AddedToken], added: dict[int, AddedToken]
) -> Made:
    """Adds the special tokens, and looks their ids up."""
    known = {token.content for token in added.values()}
    others = [token for token in roles.values() if token.content not in known]
    made.add_tokens([*(added[i] for i in sorted(added)), *others])
    for i, token in added.items():
        if made.token_to_id(token.content) != i:
            raise ValueError(
                f"{root}: the added token {token.content!r} has the id {i} there, "
                f"and {made.token_to_id(token.content)} by the vocabulary"
            )
    ids = {}
    for role, token in roles.items():
        found = made.token_to_id(token.content)
        if found is None:
            raise ValueError(f"{root}: the {role} {token.content!r} is not in the vocabulary")
        ids[role] = found
    if ids.get("bos_token") == ids["eos_token"]:
        raise ValueError(f"{root}: the bos_token and the eos_token are one, {ids['eos_token']}")
    return Made(made.to_str(), ids.get("bos_token"), ids["eos_token"], ids["pad_token"])


def _byte_pairs(root: Path) -> tuple[dict[str, int], list[tuple[str, str]], Path]:
    """Vocabulary and merges of a folder, and the file that holds the merges."""
    whole, merges = root / WHOLE, root / "merges.txt"
    if whole.is_file():
        model = _object(whole).get("model")
        model = model if isinstance(model, Mapping) else {}
        pairs = model.get("merges")
        if not isinstance(pairs, list):
            raise ValueError(f"{whole} holds no byte pairs, as CLIP's tokenizer are")
        split = [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
        return _vocabulary(whole, model.get("vocab")), _pairs(whole, split), whole
    if not (root / "vocab.json").is_file() and not merges.is_file():
        raise ValueError(f"{root} holds neither {WHOLE} nor vocab.json and merges.txt")
    vocabulary = _vocabulary(root / "vocab.json", _object(root / "vocab.json"))
    lines = _read(merges).split("\n")
    headed = lines[0].startswith("#version")
    return vocabulary, _pairs(merges, [line.split(" ") for line in lines[headed:] if line]), merges


def _vocabulary(path: Path, held: Any) -> dict[str, int]:
    if not isinstance(held, Mapping) or not all(
        type(i) is int and 0 <= i < LARGEST for i in held.values()
    ):
        raise ValueError(f"{path} holds no vocabulary: ids by their tokens")
    tokens: dict[int, str] = {}
    for token, i in held.items():
        if tokens.setdefault(i, token) != token:
            raise ValueError(f"{path}: {told(tokens[i])} and {told(token)} have one id, {i}")
    return dict(held)


def _pairs(path: Path, held: list[Any]) -> list[tuple[str, str]]:
    for number, pair in enumerate(held, 1):
        if not isinstance(pair, list) or [type(token) for token in pair] != [str, str]:
            raise ValueError(f"{path}: merge {number} is no pair of tokens, but {told(pair)}")
    return [(first, second) for first, second in held]


def _check_merges(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], names: set[str], where: Path
) -> None:
    """Raises ValueError where the merges and the vocabulary are not of each other."""
    made = {first + second for first, second in merges}
    for token in made:
        if token not in vocabulary:
            raise ValueError(f"{where} makes {token!r}, which the vocabulary has not")
    loose = [
        token
        for token in vocabulary
        if len(token.removesuffix(END_OF_WORD)) > 1 and token not in made and token not in names
    ]
    if len(loose) > SPARE:
        raise ValueError(
            f"{where} is cut short: it makes {len(loose)} tokens of the vocabulary not, "
            f"such as {loose[-1]!r}"
        )


def _check_letters(vocabulary: dict[str, int], unknown: str, root: Path) -> None:
    """Raises ValueError where texts would lose letters, or meet one without any token."""
    lost = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(vocabulary))
    if lost:
        raise ValueError(
            f"{root}: the vocabulary must have a token of each of the 256 bytes, and lacks "
            f"{len(lost)}, such as {lost[0]!r}"
        )
    if unknown not in vocabulary:
        raise ValueError(f"{root}: the unk_token {unknown!r} is not in the vocabulary")


def _special_tokens(
    root: Path, usual: Mapping[str, str]
) -> tuple[dict[str, AddedToken], dict[int, AddedToken]]:
    """The special tokens by their roles, and all added tokens by their ids.

    Where tokenizer_config.json lists the added tokens, it alone counts; in older folders the other
    files name them, and special_tokens_map.json has the last word, as in transformers.
    """
    config = _object_if_there(root / CONFIG)
    named = {role: (root / CONFIG, config[role]) for role in usual if config.get(role)}
    listed = config.get("added_tokens_decoder")
    added = {}
    if listed is not None:
        added = _added(root / CONFIG, listed)
    else:
        mapped = _object_if_there(root / MAP)
        named |= {role: (root / MAP, mapped[role]) for role in usual if mapped.get(role)}
        special = {_token(*value).content for value in named.values()}
        for content, i in _object_if_there(root / ADDED).items():
            fields = {"content": content, "normalized": content not in special}
            added |= _added(root / ADDED, {i: fields | {"special": content in special}})
        held = _object_if_there(root / WHOLE).get("added_tokens") or []
        try:
            added |= _added(root / WHOLE, {entry["id"]: entry for entry in held})
        except (TypeError, KeyError):
            raise ValueError(f"{root / WHOLE}: its added_tokens are damaged") from None
    roles = {role: _token(root, content) for role, content in usual.items()}
    roles |= {role: _token(*value) for role, value in named.items()}
    contents = {token.content: token for token in added.values()}
    return {role: contents.get(token.content, token) for role, token in roles.items()}, added


FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""What the files say of a token beside its content."""


def _added(path: Path, listed: Any) -> dict[int, AddedToken]:
    try:
        return {int(i): _token(path, token, special=False) for i, token in listed.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its added tokens are damaged: {error}") from None


def _token(path: Path, value: Any, special: bool = True) -> AddedToken:
    """A token of its content, or of a dictionary with content and flags."""
    fields = {"content": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("content"), str):
        raise ValueError(f"{path} names a special token that is none: {told(value)}")
    flags = {flag: bool(fields[flag]) for flag in FLAGS if flag in fields}
    if special:
        flags["special"] = True
    return AddedToken(fields["content"], **flags)


def _characters(path: Path, normalizer: Any) -> bytes:
    """SentencePiece's table of characters, in the normalizer or a sequence of them."""
    entries = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("precompiled_charsmap"):
            try:
                table = base64.b64decode(entry["precompiled_charsmap"], validate=True)
                normalizers.Precompiled(table)
            except Exception:  # the package raises no other class
                raise ValueError(f"{path}: its precompiled_charsmap is damaged") from None
            return table
    return b""


def _folder(folder: str | Path) -> Path:
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root} is no folder")
    return root


def _read(path: Path) -> str:
    _check_there(path)
    return read_text(path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}")


def _object(path: Path) -> dict[str, Any]:
    _check_there(path)
    return read_object(path)


def _object_if_there(path: Path) -> dict[str, Any]:
    return _object(path) if path.exists() else {}
