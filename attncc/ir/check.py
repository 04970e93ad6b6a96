"""ast.File → Cascade: what was said becomes what is meant, and every mistake in it is reported at once."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.diagnostics import Diagnostic, PatternError
from attncc.ir.cascade import Cascade, Index, Origin, Tensor
from attncc.ir.demands import demands
from attncc.ir.equations import Equations, equations
from attncc.ir.indices import scope_of
from attncc.ir.kinds import Kinds, check_kinds, kind_named, kinds_of, wanted
from attncc.ir.lengths import lengths, statics
from attncc.ir.said import Mistakes, listed, near, parts
from attncc.ir.scope import Scope, statements
from attncc.source import Source
from attncc.syntax import ast
from attncc.syntax.definitions import expand, known_names


def check(file: ast.File, source: Source, outputs: tuple[str, ...] = ()) -> Cascade:
    """What a file's pattern means; `outputs`, if given, names the equations wanted instead.

    Raises PatternError with every mistake found. An expression with a mistake in it is taken to be of any
    kind and over any indices, so that one mistake is reported once. Mistakes in the use of definitions come
    first, and alone.
    """
    if file.pattern is None:
        help = "begin one with `pattern name(Q[b,h,q,d]) -> O[b,h,q,d]:`"
        raise PatternError(source, [Diagnostic("no-pattern", "there is no pattern here", (), help)])
    pattern = expand(file.pattern, file.definitions, source)
    mistakes = Mistakes(source)
    said = statements(pattern, mistakes)
    scope = scope_of(said, known_names(file.definitions), mistakes)
    kinds = kinds_of(scope)
    _check_kinds(scope, kinds, mistakes)
    inputs = _inputs(scope)
    sizes = lengths(scope, inputs, mistakes)
    found = equations(scope, kinds, inputs, mistakes)
    declared = [t for o in said.outputs if (t := _output(o, found, mistakes)) is not None]
    chosen = _asked(outputs, declared, found, mistakes) if outputs else declared
    required = tuple(demands(pattern, scope, found.tensors, mistakes))
    if mistakes.found:
        raise PatternError(source, tuple(mistakes.found))
    return Cascade(
        name=pattern.name,
        doc=pattern.doc or file.doc,
        inputs=tuple(inputs.values()),
        defaults=tuple(_defaults(scope)),
        lengths=sizes,
        equations=tuple(found.equations.values()),
        outputs=tuple(chosen),
        demands=required,
    )


def _check_kinds(scope: Scope, kinds: Kinds, mistakes: Mistakes) -> None:
    sizes: dict[ast.Expr, str] = {}
    for known in scope.indices.values():
        if known.parent is not None:
            sizes[known.parent.by] = "a split"
        elif known.value is not None:
            sizes[known.value] = "a batched index"
        if known.declare is not None:
            sizes[known.declare.extent] = "an extent"
        if known.align is not None and known.align.start is not None:
            sizes[known.align.start] = "a position"
    for e, what in sizes.items():
        wanted("int", e, what, kinds, mistakes)
        check_kinds(e, kinds, mistakes)
    for equation in scope.equations.values():
        check_kinds(equation.body, kinds, mistakes)
        _check_roots(equation.body, scope, mistakes)


def _check_roots(e: ast.Expr, scope: Scope, mistakes: Mistakes) -> None:
    """A root of a feature's position, where that of its extent is meant."""
    match e:
        case ast.Call("sqrt", (ast.Name(name),)) if name in scope.indices:
            if scope.indices[name].role == "feature":
                message = f"`sqrt({name})` is the root of every position of `{name}`, 0 at the first"
                mistakes.add("position-root", message, e.span, "", f"`sqrt(|{name}|)` is that of its extent")
    for part in parts(e):
        _check_roots(part, scope, mistakes)


def _inputs(scope: Scope) -> dict[str, Tensor]:
    static = statics(scope)
    found = {}
    for name, param in scope.params.items():
        indices: tuple[Index, ...] = ()
        origin: Origin = "static" if name in static else "scalar"
        if isinstance(param, ast.TensorParam):
            indices = tuple(scope.indices[i.name].index for i in param.indices)
            origin = "input" if param.kind == "float" else "table"
        found[name] = Tensor(name, indices, kind_named(param.kind), origin)
    return found


def _defaults(scope: Scope) -> Iterator[tuple[str, int | float | bool]]:
    for name, param in scope.params.items():
        if isinstance(param, ast.ScalarParam) and param.default is not None:
            yield name, float(param.default) if param.kind == "float" else param.default


def _output(said: ast.OutputParam, found: Equations, mistakes: Mistakes) -> Tensor | None:
    """A declared output: an equation's own indices in any order, and any batched ones besides."""
    scope, name = found.scope, said.name
    if name not in scope.equations:
        what = "it is a parameter" if name in scope.params else "no equation defines it"
        help = (
            near(name, scope.equations)
            or f"define it: `{name}[{','.join(i.name for i in said.indices)}] = …`"
        )
        mistakes.add("unknown-output", f"`{name}` is an output, and {what}", said.span, "", help)
        return None
    tensor = found.tensors[name]
    own, wished = [i.name for i in tensor.indices], [i.name for i in said.indices]
    indices = [scope.indices[n] for n in wished]
    missing = [n for n in own if n not in wished]
    strange = [k.name for k in indices if k.name not in own and k.role != "batch"]
    if name not in found.doubtful and not any(k.unknown for k in indices) and (missing or strange):
        message = f"`{name}` is over `{','.join(own)}`, and an output over `{','.join(wished)}`"
        help = f"declare it as `{name}[{','.join(own)}]`, in any order"
        if missing and all(scope.indices[n].role == "batch" for n in missing):
            help += f"; its equation depends on the batched {listed(missing)}"
        mistakes.add("output-mismatch", message, said.span, "declared here", help)
    return Tensor(name, tuple(k.index for k in indices), tensor.kind, "equation")


def _asked(
    names: tuple[str, ...], declared: list[Tensor], found: Equations, mistakes: Mistakes
) -> list[Tensor]:
    """The equations asked for by name: as declared where they are, otherwise over their own indices."""
    outputs = {t.name: t for t in declared}
    for name in names:
        if name not in found.scope.equations:
            help = near(name, found.scope.equations) or f"the equations are {listed(found.scope.equations)}"
            mistakes.found[
                Diagnostic("unknown-output", f"no equation defines `{name}`, which is asked for", (), help)
            ] = None
    return [outputs.get(n, found.tensors[n]) for n in dict.fromkeys(names) if n in found.scope.equations]
