"""What comparisons with PyTorch's networks share; import it after torch is known to be there."""

import jax
import numpy as np
import torch


def randomised(model, seed=0):
    """The model in evaluation and float64, all parameters and stored arrays random, in float32."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.5
            tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
    return model.eval().double()


def arrays(named):
    """Tensors by name as arrays by name."""
    return {name: tensor.detach().numpy() for name, tensor in named}


def outputs_of(modules, call):
    """What each module returns while `call` runs, as arrays."""
    found, hooks = [], []
    for module in modules:
        hooks.append(module.register_forward_hook(lambda m, args, out: found.append(out)))
    result = call()
    for hook in hooks:
        hook.remove()
    return result, found


def double(x):
    return torch.tensor(np.asarray(x), dtype=torch.float64)


def channels_last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def channels_first(x):
    return double(np.moveaxis(np.asarray(x), -1, 1).copy())


def error(got, want, least=0.0):
    """The largest difference of a leaf relative to its largest value.

    Leaves count as no smaller than `least` times the largest of all: what is 0 but for rounding,
    such as the gradient by a bias of keys, which moves no softmax, has no digits of its own.
    """
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    sizes = [np.abs(np.asarray(leaf)).max() for leaf in want]
    apart = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(got, want, strict=True)]
    return max(d / max(size, least * max(sizes)) for d, size in zip(apart, sizes, strict=True))
