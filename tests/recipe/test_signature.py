"""What is read of a kind's signature and docstring."""

import my_kinds
import optax

from cfg_jax.recipe import signature


def test_meanings_are_first_sentences_on_one_line():
    assert signature.meanings(my_kinds.Net) == {
        "width": "How wide it is.",
        "dtype": "Of the activations, on two lines.",
    }
    assert signature.meanings(my_kinds.favour) == {"logsnr": "λ.", "power": "Its power."}


def test_meanings_of_bases_are_inherited():
    meanings = signature.meanings(my_kinds.Words)
    assert meanings["length"] == "How many."
    assert meanings["p_uncond"] == "The probability that training hides the entry, in [0, 1]."


def test_docstrings_of_other_indentation_are_read():
    assert signature.meanings(optax.sgd)["nesterov"].startswith("Whether")


def test_summaries():
    assert signature.summary(my_kinds.Net) == "A network of a user's own."
    assert signature.summary(my_kinds.liar) == ""


def test_what_flax_adds_is_no_field():
    assert list(signature.fields(my_kinds.Net)) == [
        "width",
        "sizes",
        "dtype",
        "act",
        "num_classes",
    ]
    assert list(signature.fields(my_kinds.NNXNet)) == ["width", "num_classes"]
