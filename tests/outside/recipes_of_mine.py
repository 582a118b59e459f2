"""The recipes of that package."""

from my_house import Halves, Spoken, Taught, Transformer

from cfg_jax import recipe


def teacher():
    """A transformer over words and halves."""
    config = recipe.default()
    config.network = recipe.node(Transformer)
    config.condition.label = None
    config.condition.words = recipe.node(Spoken)
    config.codec = recipe.node("my_house:Halves")
    config.objective.target = "v"
    config.optimiser = recipe.node("optax:sgd", learning_rate=1e-2)
    config.train.steps = 4
    config.train.batch_size = 8
    config.train.checkpoint_every = 2
    config.train.log_every = 1
    config.train.sample_every = 4
    config.sample.steps = 2
    return config


def get_config():
    """A pupil of it."""
    config = teacher()
    config.codec = recipe.node(Halves)
    config.objective = recipe.node(Taught, teacher="teacher")
    return config
