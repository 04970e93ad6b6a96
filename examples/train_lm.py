"""Train a small language model whose layers name patterns, on the patterns of this repository, or on recall.

    python examples/train_lm.py                         # text: the files of patterns/, packed as documents
    python examples/train_lm.py --task mqar             # recall: which patterns find a value by its key?
    python examples/train_lm.py --patterns "mine.attn(window=32), alibi" --steps 100

Each ends within two minutes on two cores; a GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from curve import bar, picture, say
from language_model import LanguageModel, Layer, layers
from tasks import NOT_ASKED, PAIRS, WORDS, Batch, counted, documents, packed, recall
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncc import PatternError

TEXT = "streaming(window=64, sinks=4), s2(block=16, local=2, stride=4), alibi, document"
"""The layers of the model of text, one after the other."""

RECALL = "causal, sigmoid(bias=-3.9), based, retnet, window(window=8), streaming(window=8, sinks=1)"
"""The patterns that are tried on recall: two layers of each."""


class Point(NamedTuple):
    """What was measured after so many steps; the loss of training is the mean since the point before."""

    step: int
    trained: float
    held_out: float
    right: float


def model_of(patterns: list[Layer], words: int, args: argparse.Namespace) -> nn.Module:
    """A model with heads of 32 features, two of queries to one of keys."""
    torch.manual_seed(args.seed)
    heads = args.width // 32
    return LanguageModel(patterns, words, args.width, heads, heads // 2, args.backend).to(args.device)


def logits_of(model: nn.Module, tokens: Tensor, doc: Tensor, device: str) -> Tensor:
    """What the model makes of tokens, in float32; on a GPU its matrix products are in bfloat16."""
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        return model(tokens.to(device), doc.to(device)).float()


def score(model: nn.Module, batch: Batch, device: str) -> tuple[Tensor, Tensor]:
    """The mean loss, and the part of the targets that is foretold."""
    tokens, doc, targets = batch
    logits, targets = logits_of(model, tokens, doc, device), targets.to(device)
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_ASKED)
    return loss, (logits.argmax(-1) == targets).sum() / (targets != NOT_ASKED).sum()


@torch.no_grad()
def measured(model: nn.Module, tests: list[Batch], device: str, step: int, losses: list[Tensor]) -> Point:
    """The loss on batches that are not trained on, beside those of training."""
    held_out, right = torch.tensor([score(model, batch, device) for batch in tests]).mean(0).tolist()
    return Point(step, torch.stack(losses).mean().item() if losses else held_out, held_out, right)


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    tests: list[Batch],
    args: argparse.Namespace,
    seconds: float,
    words: Callable[[Point], str],
) -> list[Point]:
    """The points of a run that ends after `args.steps` steps or that many seconds, whichever is first."""
    if args.compile:
        model = torch.compile(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.95), weight_decay=0.1)
    points, losses, start = [measured(model, tests, args.device, 0, [])], [], time.monotonic()
    step, done = 0, 0.0
    while done < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 30) * (1 - done)
        loss, _ = score(model, next(batches), args.device)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.detach())
        step += 1
        done = max(step / args.steps, (time.monotonic() - start) / max(seconds, 0.01))
        bar(done, f"step {step}, {time.monotonic() - start:.0f} s, {words(points[-1])}")
        if done >= min(1.0, len(points) / args.points):
            points.append(measured(model, tests, args.device, step, losses))
            losses = []
            say(f"step {step:5}   {words(points[-1])}")
    return points


@torch.no_grad()
def refuse_leaks(model: nn.Module, batch: Batch, device: str) -> None:
    """SystemExit where later tokens change what is foretold earlier: such a model would learn to copy."""
    tokens, doc, _ = batch
    half = tokens.shape[1] // 2
    other = torch.cat((tokens[:, :half], tokens[:, half:] ^ 1), dim=1)
    one, two = (logits_of(model, x, doc, device)[:, :half] for x in (tokens, other))
    if not torch.allclose(one, two, atol=1e-3):
        raise SystemExit("a layer sees later tokens: text is foretold by causal patterns alone")


@torch.no_grad()
def written(model: nn.Module, count: int, args: argparse.Namespace) -> str:
    """The beginning of a document, byte by byte, as the model would have it."""
    random, tokens = torch.Generator().manual_seed(args.seed), torch.zeros(1, 1, dtype=torch.long)
    for _ in range(count):
        logits = logits_of(model, tokens, torch.zeros_like(tokens, dtype=torch.int32), args.device)
        odds = (logits[:, -1].cpu() / 0.7).softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(odds, 1, generator=random)), dim=1)
    return bytes(tokens[0, 1:].tolist()).partition(b"\0")[0].decode(errors="replace")


def text(args: argparse.Namespace) -> str:
    """A model of text is trained and writes a little; its curve is the picture."""
    patterns = layers(args.patterns or TEXT)
    model = model_of(patterns, 256, args)
    seen, held_out = documents(held_out=False), documents(held_out=True)
    tests = list(islice(packed(held_out, args.rows, args.length, args.seed), 3))
    refuse_leaks(model, tests[0], args.device)
    levels = counted(seen, held_out)
    print(f"layers: {'; '.join(map(str, patterns))}")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {sum(map(len, seen)):,} bytes of text")
    print("held-out loss of counting: " + ", ".join(f"{name} {x:.3f}" for name, x in levels.items()))
    points = train(
        model,
        packed(seen, args.rows, args.length, args.seed),
        tests,
        args,
        args.seconds,
        lambda p: f"loss {p.trained:.3f}   held out {p.held_out:.3f}",
    )
    print(f"\n{written(model, args.sample, args)}\n")
    curves = {
        "training": [(p.step, p.trained) for p in points],
        "held out": [(p.step, p.held_out) for p in points],
    }
    return picture("A model of text", curves, levels, ("steps", "loss"))


def mqar(args: argparse.Namespace) -> str:
    """A model of two layers is trained for every pattern; what each recalls is the table and the picture."""
    patterns, end = layers(args.patterns or RECALL), time.monotonic() + args.seconds
    curves, tests = {}, list(islice(recall(256, args.seed + 1), 1))
    for n, pattern in enumerate(patterns):
        print(f"two layers of {pattern}")
        points = train(
            model_of([pattern] * 2, WORDS, args),
            recall(args.rows, args.seed),
            tests,
            args,
            (end - time.monotonic()) / (len(patterns) - n),
            lambda p: f"loss {p.trained:.3f}   recalled {p.right:.0%}",
        )
        curves[str(pattern)] = [(p.step, p.right) for p in points]
    wide = max(map(len, curves))
    print(f"\n{PAIRS} questions after {PAIRS} pairs; one of the {PAIRS} values is right in {1 / PAIRS:.1%}")
    for name, curve in sorted(curves.items(), key=lambda item: -item[1][-1][1]):
        print(f"{name:{wide}} {curve[-1][1]:6.1%}  {'#' * round(40 * curve[-1][1])}")
    return picture("What two layers of a pattern recall", curves, {}, ("steps", "recalled"))


TASKS = {"text": text, "mqar": mqar}

USUAL = {
    "text": {"steps": 400, "rows": 4, "width": 128, "points": 10},
    "mqar": {"steps": 200, "rows": 32, "width": 64, "points": 5},
}
"""What is done unless the command line says otherwise."""


def main() -> None:
    """Read the command line, train, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    option = parser.add_argument
    option("--task", choices=TASKS, default="text")
    option("--patterns", help='the layers, or with mqar the models: "window(window=64), mine.attn"')
    option("--steps", type=int, help="at most so many; with mqar for every model")
    option("--seconds", type=float, default=90.0, help="of training at most, all models together")
    option("--rows", type=int, help="of a batch")
    option("--length", type=int, default=512, help="of a row of text")
    option("--width", type=int, help="of the model, a multiple of 64: a head has 32 features")
    option("--rate", type=float, default=3e-3, help="of learning, at its highest")
    option("--points", type=int, help="of a curve")
    option("--sample", type=int, default=240, help="bytes that the model of text writes in the end")
    option("--seed", type=int, default=0)
    option("--device", choices=("auto", "cpu", "cuda"), default="auto")
    option("--backend", choices=("torch", "triton", "reference"), help="unless given, the device's kernels")
    option("--compile", action="store_true", help="run the model through torch.compile")
    option("--out", type=Path, default=Path("curve.svg"), help="where the picture is written")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, value in USUAL[args.task].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    try:
        args.out.write_text(TASKS[args.task](args))
    except (PatternError, OSError) as error:
        raise SystemExit(str(error)) from None
    print(f"the curve: {args.out.resolve()}")


if __name__ == "__main__":
    main()
