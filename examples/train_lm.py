"""Train a small language model whose layers name patterns, on the patterns of this repository, or on recall.

    python examples/train_lm.py                         # text: the files of patterns/, packed as documents
    python examples/train_lm.py --task mqar             # recall: which patterns find a value by its key?
    python examples/train_lm.py --patterns "mine.attn(window=32), alibi" --steps 100

Both are done within two minutes on two cores; a GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from curve import bar, picture, say
from language_model import PATTERNS, LanguageModel, Layer, layers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TEXT = "streaming(window=64, sinks=4), s2(block=16, local=2, stride=4), alibi, document"
"""The layers of the model of text, one after the other."""

RECALL = "causal, sigmoid(bias=-3.9), based, retnet, window(window=8), streaming(window=8, sinks=1)"
"""The patterns that recall is tried with: two layers of each."""

PAIRS, WORDS, NOT_ASKED = 16, 64, -100

Batch = tuple[Tensor, Tensor, Tensor]
"""Tokens, the number of the document that each is in, and the token to be foretold, all (batch, length)."""


@dataclass(frozen=True)
class Point:
    """What was measured after so many steps; the loss in training is the mean since the point before."""

    step: int
    trained: float
    held_out: float
    right: float


def documents(held_out: bool) -> list[Tensor]:
    """The bytes of every eighth file of `patterns/`, or of all others, each after a 0."""
    files = sorted(PATTERNS.glob("*.attn"))
    return [torch.tensor([0, *f.read_bytes()]) for n, f in enumerate(files) if (n % 8 == 0) == held_out]


def packed(texts: list[Tensor], rows: int, length: int, seed: int) -> Iterator[Batch]:
    """Documents in random order, one after the other, cut in rows: most rows hold parts of several."""
    random, stream = Random(seed), torch.empty(0, dtype=torch.long)
    while True:
        while len(stream) <= rows * length:
            stream = torch.cat([stream, *random.sample(texts, len(texts))])
        tokens = stream[: rows * length].view(rows, length)
        yield tokens, (tokens == 0).cumsum(1).int(), stream[1 : rows * length + 1].view(rows, length)
        stream = stream[rows * length :]


def recalled(rows: int, seed: int) -> Iterator[Batch]:
    """Multi-query associative recall (arXiv 2312.04927): pairs of a key and a value, then every key again, in
    another order, at which its value is asked for. Keys and values are drawn anew for every row.
    """
    random, half = torch.Generator().manual_seed(seed), WORDS // 2
    while True:
        keys = torch.rand(rows, half, generator=random).argsort(1)[:, :PAIRS]
        values = torch.randint(half, WORDS, (rows, PAIRS), generator=random)
        order = torch.rand(rows, PAIRS, generator=random).argsort(1)
        pairs = torch.stack((keys, values), dim=-1).flatten(1)
        tokens = torch.cat((pairs, keys.gather(1, order)), dim=1)
        targets = torch.cat((torch.full_like(pairs, NOT_ASKED), values.gather(1, order)), dim=1)
        yield tokens, torch.zeros_like(tokens, dtype=torch.int32), targets


def chance(seen: list[Tensor], held_out: list[Tensor]) -> dict[str, float]:
    """What counting foretells: the loss on held-out text from how often bytes, and pairs of them, were seen."""
    few = 0.05
    counts = torch.full((256, 256), few)
    for text in seen:
        counts.index_put_((text[:-1], text[1:]), torch.tensor(1.0), accumulate=True)
    before, byte = (torch.cat([t[at] for t in held_out]) for at in (slice(None, -1), slice(1, None)))
    alone, after = counts.sum(0) / counts.sum(), counts / counts.sum(1, keepdim=True)
    return {
        "single bytes": -alone[byte].log().mean().item(),
        "pairs of bytes": -after[before, byte].log().mean().item(),
    }


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    tests: list[Batch],
    args: argparse.Namespace,
    seconds: float,
    tell: Callable[[Point], str],
) -> list[Point]:
    """The points of a run that ends after `args.steps` steps or that many seconds, whichever is first."""
    run = torch.compile(model) if args.compile else model
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, betas=(0.9, 0.95), weight_decay=0.1)
    points, losses, start, done, step = [measured(run, tests, args.device, 0, [])], [], time.time(), 0.0, 0
    while done < 1:
        done = max((step + 1) / args.steps, (time.time() - start) / seconds)
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 30) * max(0.02, 1 - done)
        loss = loss_of(run, next(batches), args.device)[0]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        losses.append(loss.detach())
        bar(done, f"step {step}, loss {losses[-1]:.3f}, {time.time() - start:.0f} s")
        if done >= len(points) / args.points or done >= 1:
            points.append(measured(run, tests, args.device, step, losses))
            losses = []
            say(tell(points[-1]))
    return points


def loss_of(model: nn.Module, batch: Batch, device: str) -> tuple[Tensor, Tensor]:
    """The mean loss, and the part of the targets that is foretold; on a GPU in bfloat16 where that will do."""
    tokens, doc, targets = (x.to(device) for x in batch)
    with rounded(device):
        logits = model(tokens, doc).float()
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_ASKED)
    return loss, (logits.argmax(-1) == targets).sum() / (targets != NOT_ASKED).sum()


def rounded(device: str) -> AbstractContextManager[None]:
    """Matrix products in bfloat16 on a GPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


@torch.no_grad()
def measured(run: nn.Module, tests: list[Batch], device: str, step: int, losses: list[Tensor]) -> Point:
    """The loss on batches that are not trained on, beside those of training."""
    held_out, right = torch.tensor([loss_of(run, batch, device) for batch in tests]).mean(0).tolist()
    return Point(step, torch.stack(losses).mean().item() if losses else held_out, held_out, right)


@torch.no_grad()
def refuse_leaks(model: nn.Module, batch: Batch, device: str) -> None:
    """SystemExit where another last token changes what is foretold before it: such a model only copies."""
    tokens, doc, _ = (x.to(device) for x in batch)
    other = tokens.clone()
    other[:, -1] = (tokens[:, -1] + 1) % 256
    if not torch.allclose(model(tokens, doc)[:, :-1], model(other, doc)[:, :-1], atol=1e-4):
        raise SystemExit("a layer sees later tokens: text is foretold with causal patterns alone")


@torch.no_grad()
def written(model: nn.Module, count: int, device: str, seed: int) -> str:
    """A document's first bytes, as the model would have them."""
    random, tokens = torch.Generator().manual_seed(seed), torch.zeros(1, 1, dtype=torch.long)
    for _ in range(count):
        with rounded(device):
            logits = model(tokens.to(device), torch.zeros_like(tokens, dtype=torch.int32).to(device))
        odds = (logits[:, -1].float().cpu() / 0.7).softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(odds, 1, generator=random)), dim=1)
    return bytes(tokens[0, 1:].tolist()).decode(errors="replace")


def model_of(patterns: list[Layer], words: int, args: argparse.Namespace) -> nn.Module:
    """A model with heads of 32, two queries to a key."""
    torch.manual_seed(args.seed)
    heads = args.width // 32
    return LanguageModel(patterns, words, args.width, heads, heads // 2, args.backend).to(args.device)


def text(args: argparse.Namespace) -> str:
    """The model of text is trained, writes a little, and its curve is the picture."""
    patterns = layers(args.patterns or TEXT)
    model = model_of(patterns, 256, args)
    seen, held_out = documents(held_out=False), documents(held_out=True)
    batches = packed(seen, args.rows, args.length, args.seed)
    tests = list(islice(packed(held_out, args.rows, args.length, 0), 3))
    refuse_leaks(model, tests[0], args.device)
    levels = chance(seen, held_out)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters; layers: {', '.join(name for name, _ in patterns)}")
    print("held-out loss of counting: " + ", ".join(f"{name} {x:.3f}" for name, x in levels.items()))

    def tell(p: Point) -> str:
        return f"step {p.step:5}   loss {p.trained:.3f}   held out {p.held_out:.3f}   right {p.right:.0%}"

    points = train(model, batches, tests, args, args.seconds, tell)
    print("\n" + written(model, args.sample, args.device, args.seed) + "\n")
    curves = {
        "training": [(p.step, p.trained) for p in points],
        "held out": [(p.step, p.held_out) for p in points],
    }
    return picture("loss of the model of text", curves, levels, ("steps", "loss"))


def mqar(args: argparse.Namespace) -> str:
    """A model of two layers is trained for every pattern; what each recalls is the table and the picture."""
    patterns = layers(args.patterns or RECALL)
    curves, tests = {}, list(islice(recalled(256, args.seed + 1), 1))
    for pattern in patterns:
        name = pattern[0]
        batches = recalled(args.rows, args.seed)
        points = train(
            model_of([pattern] * 2, WORDS, args),
            batches,
            tests,
            args,
            args.seconds / len(patterns),
            lambda p, name=name: f"{name:12} step {p.step:5}   loss {p.trained:.3f}   recalled {p.right:.0%}",
        )
        curves[name] = [(p.step, p.right) for p in points]
    print(f"\n{PAIRS} pairs, {PAIRS} questions; a guess among the values of a row is right in {1 / PAIRS:.0%}")
    for name, curve in sorted(curves.items(), key=lambda item: -item[1][-1][1]):
        print(f"{name:12} {curve[-1][1]:6.1%}  {'#' * round(40 * curve[-1][1])}")
    return picture("what two layers of a pattern recall", curves, {}, ("steps", "recalled"))


TASKS = {
    "text": (text, {"steps": 500, "rows": 4, "width": 128, "rate": 3e-3}),
    "mqar": (mqar, {"steps": 300, "rows": 32, "width": 64, "rate": 3e-3}),
}
"""Every task, and what it does unless it is told otherwise."""


def main() -> None:
    """Read the command line, train, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    option = parser.add_argument
    option("--task", choices=TASKS, default="text")
    option("--patterns", help='the layers, or with mqar the models: "window(window=64), mine.attn"')
    option("--steps", type=int, help="at most so many, for mqar by pattern")
    option("--seconds", type=float, default=100.0, help="of training at most, all models together")
    option("--rows", type=int, help="of a batch")
    option("--length", type=int, default=512, help="of a row of text")
    option("--width", type=int, help="of the model; every head has 32 features")
    option("--rate", type=float, help="at which the optimiser starts to learn")
    option("--points", type=int, default=10, help="of the curve")
    option("--sample", type=int, default=240, help="bytes that the model of text writes in the end")
    option("--seed", type=int, default=0)
    option("--device", choices=("auto", "cpu", "cuda"), default="auto")
    option("--backend", choices=("torch", "triton", "reference"), help="unless given, the device's kernels")
    option("--compile", action="store_true", help="run the model through torch.compile")
    option("--out", type=Path, default=Path("curve.svg"), help="where the picture is written")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    task, usual = TASKS[args.task]
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.out.write_text(task(args))
    print(f"the curve: {args.out.resolve()}")


if __name__ == "__main__":
    main()
