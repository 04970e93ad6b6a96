"""Functions of values → PyTorch text: what a tensor's function is called, and what a number of Python's."""

from __future__ import annotations

from collections.abc import Sequence

from attncc.codegen.code import ATOM, LOOSE, OR, PRODUCT, UNARY
from attncc.codegen.reference_scope import Frame
from attncc.codegen.reference_values import Axes, Value, binary, call, negative, opposite
from attncc.ops import FUNCTIONS, Kind

TENSOR = {
    "/": "_divide",
    "//": "_floor_divide",
    "%": "_remainder",
    "exp": "torch.exp",
    "log": "_log",
    "sqrt": "_sqrt",
    "tanh": "torch.tanh",
    "sigmoid": "torch.sigmoid",
    "softplus": "_softplus",
    "silu": "torch.nn.functional.silu",
    "sin": "torch.sin",
    "cos": "torch.cos",
    "relu": "torch.relu",
    "abs": "torch.abs",
    "sign": "torch.sign",
    "through": "_through",
    "reciprocal": "_reciprocal",
}
"""What takes tensors and gives one; a name with `_` in front is a function that the module carries."""

NUMBER = {
    "exp": "math.exp({0})",
    "log": "math.log({0})",
    "sqrt": "math.sqrt({0})",
    "tanh": "math.tanh({0})",
    "sigmoid": "1 / (1 + math.exp(-({0})))",
    "softplus": "math.log1p(math.exp({0}))",
    "silu": "({0}) / (1 + math.exp(-({0})))",
    "sin": "math.sin({0})",
    "cos": "math.cos({0})",
    "relu": "max({0}, 0)",
    "abs": "abs({0})",
    "floor": "math.floor({0})",
    "round": "round({0})",
    "sign": "(({0}) > 0) - (({0}) < 0)",
}
"""The same of numbers of Python's."""

SYMBOL = {"and": "&", "or": "|"}


def applied(op: str, args: Sequence[Value], kind: Kind, order: Axes, frame: Frame) -> Value:
    """`op(*args)`, computed in the dtype of the inputs; integers alone stay integers."""
    if op == "not":
        return opposite(args[0])
    if op == "neg":
        return negative(args[0])
    if FUNCTIONS[op].result == "bool":
        return _compared(op, args, order)
    if all(a.host for a in args):
        return _number(op, args, kind, order)
    if kind == "float":
        args = floats(args, frame)
    match op, args:
        case "/", (a, b) if b.host:
            return binary("/", a, b, order, kind)
        case "through", (a, b) if b.host:
            return a
        case "/" | "through", (a, b):
            a = frame.filled((), a.text, "float") if a.host else a
            return call(TENSOR[op], (a, b), order)
        case "//" | "%", (a, b) if not b.host:
            a = frame.filled((), a.text, "int") if a.host else a
            return call(TENSOR[op], (a, b), order, kind)
        case "min" | "max", (a, b):
            return _extreme(op, a, b, order, kind)
        case "floor" | "round", (a,):
            return a if a.kind == "int" else Value(f"torch.{op}({a.text}).to(torch.int64)", a.axes, "int")
        case "relu", (a,) if kind == "int":
            return Value(a.method("clamp(min=0)"), a.axes, "int")
        case "finite", (a,):
            return Value(f"torch.where({a.within(OR)} == -math.inf, 0, {a.text})", a.axes)
        case _ if op.isalpha() and op in TENSOR:
            return call(TENSOR[op], args, order, kind)
        case _, (a, b):
            return binary(op, a, b, order, kind)
        case _:
            raise AssertionError(f"no such function: {op}")


def floats(args: Sequence[Value], frame: Frame) -> list[Value]:
    """Arguments of a real function; tensors of integers are converted where no real tensor is among them."""
    if any(a.kind == "float" and not a.host for a in args):
        return list(args)
    return [a if a.host else Value(a.method(f"to({frame.dtype})"), a.axes) for a in args]


def _compared(op: str, args: Sequence[Value], order: Axes) -> Value:
    if any(a.host and a.kind == "float" for a in args):
        # a real number must not be rounded to what integers are promoted to
        args = [Value(a.method("double()"), a.axes) if not a.host and a.kind == "int" else a for a in args]
    return binary(SYMBOL.get(op, op), args[0], args[1], order, "bool")


def _number(op: str, args: Sequence[Value], kind: Kind, order: Axes) -> Value:
    if op in ("min", "max"):
        return call(op, args, order, kind, host=True)
    if op in ("through", "finite"):
        return args[0]
    if op in NUMBER:
        binds = LOOSE if op in ("sigmoid", "silu", "sign") else ATOM
        return Value(NUMBER[op].format(args[0].text), (), kind, binds, True)
    return binary(op, args[0], args[1], order, kind)


def _extreme(op: str, a: Value, b: Value, order: Axes, kind: Kind) -> Value:
    """The larger or smaller of two; a tensor is clamped at a number of Python's."""
    if a.host or b.host:
        tensor, limit = (b, a) if a.host else (a, b)
        side = {"min": "max", "max": "min"}[op]
        return Value(tensor.method(f"clamp({side}={limit.text})"), tensor.axes, kind)
    return call({"min": "torch.minimum", "max": "torch.maximum"}[op], (a, b), order, kind)


def divided(value: Value, by: Value, order: Axes) -> Value:
    """A real value over another; 0 / 0 is 0, unless the divisor is a number of Python's."""
    if by.host:
        return Value(
            f"{value.within(PRODUCT)} / {by.within(UNARY)}", value.axes, "float", PRODUCT, value.host
        )
    return call("_divide", (value, by), order)
