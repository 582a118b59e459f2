"""Reads the text encoders of transformers: CLIP's, with a projection or without, and T5's encoder.

Only names and layouts differ: a dense layer's matrix is (out, in) there and (in, out) here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path as File
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cfg_jax.diffusion.checks import told
from cfg_jax.runtime import safetensors_file, torch_file
from cfg_jax.runtime.files import read_object
from cfg_jax.runtime.tensors import Path, check_shapes, require
from cfg_jax.text.clip import CLIPText
from cfg_jax.text.t5 import T5Encoder

Encoder = CLIPText | T5Encoder
LARGEST_END = 2
"""The id of the end in configurations that pool where a row's id is the largest."""


OURS = {
    "length",
    "eos",
    "pool",
    "masked",
    "layer",
    "final_norm",
    "dtype",
    "remat",
    "parent",
    "name",
}
"""Fields that say how an encoder is used: the others say which one it is."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = "model.safetensors.index.json"


def read(folder: str, network: Encoder) -> dict[str, Any]:
    """The variables of an encoder whose weights a folder holds.

    Args:
      folder: It holds config.json, and model.safetensors, in one or several files, or
        pytorch_model.bin.
      network: The encoder; of a longer one, the positions that it has are taken.

    Raises:
      ValueError: A file is missing or damaged, or the folder holds another encoder.
    """
    root = File(folder).expanduser()
    config = read_object(root / "config.json")
    try:
        theirs = encoder(config)
        _check_same(network, theirs, folder)
        variables = parameters(_tensors_of(root), theirs)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if "positions" in variables["params"]:
        places = variables["params"]["positions"]
        variables["params"]["positions"] = places[: network.length]
    return variables


def _check_same(network: Encoder, theirs: Encoder, folder: str) -> None:
    """Raises ValueError where the encoder of a folder is another one."""
    if type(network) is not type(theirs):
        raise ValueError(
            f"it holds a {type(theirs).__name__}, and encoder is a {type(network).__name__}"
        )
    for field in dataclasses.fields(theirs):
        ours, other = getattr(network, field.name), getattr(theirs, field.name)
        if field.name == "hidden" and ours is None:
            ours = 4 * network.width
        if field.name not in OURS and ours != other:
            raise ValueError(f"its encoder has {field.name} {other}, and encoder has {ours}")
    if getattr(network, "length", 0) > getattr(theirs, "length", 0):
        raise ValueError(f"length must be at most {theirs.length}, got {network.length}")


def _tensors_of(root: File) -> dict[str, np.ndarray]:
    """The tensors of a folder by their names."""
    if (root / INDEX).is_file():
        named = read_object(root / INDEX).get("weight_map")
        if not isinstance(named, Mapping) or not all(isinstance(n, str) for n in named.values()):
            raise ValueError(f"{INDEX} has no weight_map")
        files = sorted({File(name).name for name in named.values()})
        parts = [_flat(root / name) for name in files]
        return {name: tensor for part in parts for name, tensor in part.items()}
    whole, pickled = (root / name for name in WEIGHTS)
    if pickled.is_file() and not whole.is_file():
        return torch_file.read(pickled)
    return _flat(whole)


def _flat(path: File) -> dict[str, np.ndarray]:
    tensors, _ = safetensors_file.read(path)
    return traverse_util.flatten_dict(tensors, sep=safetensors_file.SEPARATOR)


def encoder(config: Mapping[str, Any]) -> Encoder:
    """The text encoder of a config.json.

    Args:
      config: What the file holds. A CLIP encoder has a projection if its `architectures` say so.

    Raises:
      ValueError: It is of another model, lacks an entry, or asks for what the encoders do not do.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ENCODERS:
        raise ValueError(f"model_type must be one of {', '.join(ENCODERS)}, got {told(kind)}")
    try:
        return ENCODERS[kind](config)
    except KeyError as error:
        raise ValueError(f"the configuration of the text encoder lacks {error}") from None


def _clip(config: Mapping[str, Any]) -> CLIPText:
    require(config, "layer_norm_eps", 1e-5)
    names = config.get("architectures") or ()
    if not isinstance(names, list | tuple):
        raise ValueError(f"architectures must be a list of names, got {told(names)}")
    projects = "CLIPTextModelWithProjection" in names
    end = config.get("eos_token_id", 49_407)
    return CLIPText(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        length=config["max_position_embeddings"],
        hidden=config["intermediate_size"],
        activation=config["hidden_act"],
        projection=config.get("projection_dim", 512) if projects else None,
        pool="argmax" if end == LARGEST_END else "first_eos",
        eos=end,
    )


def _t5(config: Mapping[str, Any]) -> T5Encoder:
    require(config, "layer_norm_epsilon", 1e-6)
    forwards = {"gated-gelu": "gated_gelu", "relu": "relu"}
    forward = config.get("feed_forward_proj", "relu")
    if forward not in forwards:
        raise ValueError(
            f"feed_forward_proj must be one of {', '.join(forwards)}, got {told(forward)}"
        )
    return T5Encoder(
        vocabulary=config["vocab_size"],
        width=config["d_model"],
        layers=config["num_layers"],
        heads=config["num_heads"],
        head_channels=config["d_kv"],
        hidden=config["d_ff"],
        feed_forward=forwards[forward],
        buckets=config["relative_attention_num_buckets"],
        distance=config.get("relative_attention_max_distance", 128),
        masked=False,
    )


ENCODERS: dict[str, Callable[[Mapping[str, Any]], Encoder]] = {"clip_text_model": _clip, "t5": _t5}
"""How a configuration is read, by its `model_type`."""


def tensor_shapes(network: Encoder) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a text encoder's tensors."""
    return {name: shape for name, (_, shape) in _tensors(network).items()}


def parameters(tensors: Mapping[str, np.ndarray], network: Encoder) -> dict[str, Any]:
    """A text encoder's variables from a state dictionary.

    CLIP's names may have `text_model.` before them or not, and T5's table of embeddings either of
    its two names; buffers of position ids are left out.

    Args:
      tensors: Arrays by the names of transformers' modules.
      network: The encoder that they are of.

    Returns:
      {"params": ...} of float32, as the encoder's `apply` takes them.

    Raises:
      ValueError: They are of another encoder: tensors are missing, unexpected or of other shapes,
        or the two tables of T5 differ.
    """
    given = _own_names(tensors, network)
    wanted = _tensors(network)
    check_shapes(
        {name: np.shape(tensor) for name, tensor in given.items()},
        {name: shape for name, (_, shape) in wanted.items()},
    )
    ours = {}
    for name, (path, _) in wanted.items():
        if not jnp.issubdtype(given[name].dtype, jnp.floating):
            raise ValueError(f"{name} must be of floats, got {given[name].dtype}")
        with np.errstate(over="ignore"):
            value = np.asarray(given[name], np.float32)
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite in float32")
        ours[path] = jnp.asarray(value.T if path[-1] == "kernel" else value)
    return {"params": traverse_util.unflatten_dict(ours)}


CLIP_NAMES = {
    "tokens": "embeddings.token_embedding",
    "positions": "embeddings.position_embedding",
    "norm": "final_layer_norm",
    "project": "text_projection",
    "norm_1": "layer_norm1",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm_2": "layer_norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
T5_NAMES = {
    "tokens": "shared",
    "distances": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "norm": "encoder.final_layer_norm",
    "norm_1": "layer.0.layer_norm",
    "q": "layer.0.SelfAttention.q",
    "k": "layer.0.SelfAttention.k",
    "v": "layer.0.SelfAttention.v",
    "out": "layer.0.SelfAttention.o",
    "norm_2": "layer.1.layer_norm",
    "gate": "layer.1.DenseReluDense.wi_0",
    "up": "layer.1.DenseReluDense.wi_1",
    "down": "layer.1.DenseReluDense.wo",
}
"""Their names of our modules: of the encoder, and within a block."""


def _tensors(network: Encoder) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """By their names, where the tensors lie among our parameters, and their shapes there."""
    row = jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *row)["params"]
    return {
        _their_name(path, network): (
            path,
            leaf.shape[::-1] if path[-1] == "kernel" else leaf.shape,
        )
        for path, leaf in traverse_util.flatten_dict(shapes).items()
    }


def _their_name(path: Path, network: Encoder) -> str:
    clip = isinstance(network, CLIPText)
    names = CLIP_NAMES if clip else T5_NAMES
    if not clip and network.feed_forward == "relu":
        names = names | {"up": "layer.1.DenseReluDense.wi"}
    module = path[0]
    if module.startswith("blocks_"):
        blocks = "encoder.layers" if clip else "encoder.block"
        name = f"{blocks}.{module.removeprefix('blocks_')}.{names[path[1]]}"
    else:
        name = names[module]
    return f"{name}.{'bias' if path[-1] == 'bias' else 'weight'}"


SAME = {"encoder.embed_tokens.weight": "shared.weight"}
"""T5's table is stored by both names, or by either."""


def _own_names(tensors: Mapping[str, np.ndarray], network: Encoder) -> dict[str, np.ndarray]:
    """The tensors by the names that `_tensors` has."""
    given: dict[str, tuple[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        if isinstance(network, CLIPText):
            own = name.removeprefix("text_model.")
        else:
            own = SAME.get(name, name)
        if own.endswith("embeddings.position_ids"):
            continue
        first, held = given.setdefault(own, (name, tensor))
        if held is not tensor and not np.array_equal(held, tensor):
            raise ValueError(f"{first} and {name} are one tensor, and differ")
    return {own: tensor for own, (_, tensor) in given.items()}
