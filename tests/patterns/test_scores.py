"""What is known of attentions without a formula: limits in which they are others, what leaves them alone."""

from __future__ import annotations

import torch

from tests.patterns import definitions, scores
from tests.patterns.cases import Arguments, Case, inputs

EXTENTS = {"b": 2, "h": 6, "g": 2, "q": 37, "k": 41, "d": 8, "e": 5, "m": 3, "r": 9, "j": 7}


def arguments(pattern: str, **other: int) -> Arguments:
    return inputs(Case(pattern, {**EXTENTS, **other}))


def same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_equal_scores() -> None:
    """Of `n` keys: an entropy of `log n`, weights of length 1 that sum to `sqrt(n)`, a share for nothing."""
    x = inputs(Case("entropy", {**EXTENTS, "q": 41}))
    x["Q"], x["V"] = 0 * x["Q"], torch.ones_like(x["V"])
    seen = torch.arange(1, 42, dtype=torch.float64)
    same(scores.entropy(**x)["entropy"], seen.log().expand(2, 6, 41))
    same(scores.z_loss(**x)["z"], seen.log().square().expand(2, 6, 41))
    same(scores.l2_softmax(**x)["O"], seen.sqrt()[:, None].expand(2, 6, 41, 5))
    same(scores.softmax1(**x)["O"], (seen / (seen + 1))[:, None].expand(2, 6, 41, 5))


def test_lengths_of_vectors_do_not_matter() -> None:
    for name in ("cosine", "lssa", "lssar"):
        x = arguments(name)
        define = getattr(scores, name)
        same(define(**{**x, "Q": 3 * x["Q"], "K": 0.2 * x["K"]})["O"], define(**x)["O"])


def test_only_weights_above_uniform_are_left() -> None:
    """LSSAR's weights are LSSA's in another measure: the order stays, those below the row's mean are 0."""
    x = inputs(Case("lssar", {**EXTENTS, "g": 6}))
    x["V"] = torch.eye(41, dtype=torch.float64).expand(2, 6, 41, 41)
    before, after = scores.lssa(**x)["O"], scores.lssar(**x, eps=0.0)["O"]
    seen = torch.arange(5, 42, dtype=torch.float64)[:, None]
    assert ((after > 0) == (before * seen > 1)).all()
    assert (before.argmax(-1) == after.argmax(-1)).all()


def test_standard_scores() -> None:
    """Without a shift weights sum to 0, and neither a shift nor a scale of the scores changes them."""
    x = arguments("nap")
    x["shift"] = 0 * x["shift"]
    ones = scores.nap(**{**x, "V": torch.ones_like(x["V"])})["O"]
    same(ones, torch.zeros_like(ones))
    moved = {**x, "Q": 5 * x["Q"], "K": x["K"] + 1}
    torch.testing.assert_close(
        scores.nap(**moved, eps=0.0)["O"][:, :, 1:], scores.nap(**x, eps=0.0)["O"][:, :, 1:]
    )


def test_temperatures_of_one() -> None:
    x = arguments("selective_self")
    plain = definitions.causal(x["Q"], x["K"], x["V"])["O"]
    x["Tq"], x["Tv"], x["alpha"] = 0 * x["Tq"], torch.ones_like(x["Tv"]), torch.full_like(x["alpha"], -1e9)
    same(scores.selective_self(**x)["O"], plain)


def test_what_lies_beyond_the_source() -> None:
    x = arguments("palm")
    y = {**x, "K": x["K"].clone(), "V": x["V"].clone()}
    for b, length in enumerate(x["source"]):
        for n in "KV":
            y[n][b, :, int(length) :] = torch.nan if n == "K" else 7.0
    same(scores.palm(**y)["O"].nan_to_num(), scores.palm(**x)["O"])


def test_neither_bias_nor_gate() -> None:
    x = arguments("evoformer")
    x["pair"], x["G"] = 0 * x["pair"], torch.full_like(x["G"], 1e9)
    plain = definitions.dense(*(x[n].flatten(0, 1) for n in "QKV"))["O"]
    same(scores.evoformer(**x)["O"].flatten(0, 1), plain)


def test_tables_of_distances() -> None:
    """A table of zeros is none; one of a constant for every row moves all scores of a query alike."""
    x = arguments("music")
    plain = definitions.causal(x["Q"], x["K"], x["V"])["O"]
    same(scores.music(**{**x, "E": 0 * x["E"]})["O"], plain)
    same(scores.music(**{**x, "E": x["E"][:, :1].expand_as(x["E"])})["O"], plain)


def test_pairs_with_one_key() -> None:
    """A sequence of one key and value of ones leaves plain attention, scaled twice."""
    x = arguments("kronecker", k=1)
    x["K2"], x["V2"] = torch.ones_like(x["K2"]), torch.ones_like(x["V2"])
    plain = definitions.dense(x["Q"] * 8**-0.5, x["K1"], x["V1"])["O"]
    same(scores.kronecker(**x)["O"], plain)
