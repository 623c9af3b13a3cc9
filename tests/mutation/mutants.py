"""The mutants of a module: cosmic-ray's operators, without what cannot matter."""

import ast
import difflib
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

# Each operator of arithmetic or comparison has one or two partners. All pairs that
# cosmic-ray can form would be ten times as many mutants, caught by the same tests.
PAIRS = {
    "ReplaceBinaryOperator": (
        "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div Mod_Mul Pow_Mul "
        "BitOr_BitAnd BitAnd_BitOr"
    ),
    "ReplaceComparisonOperator": (
        "Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE "
        "Gt_LtE GtE_Gt GtE_Lt"
    ),
    "ReplaceUnaryOperator": "Delete_Not Delete_USub",
}
SINGLE = (
    "AddNot ExceptionReplacer NumberReplacer RemoveDecorator ReplaceAndWithOr "
    "ReplaceBreakWithContinue ReplaceContinueWithBreak ReplaceFalseWithTrue "
    "ReplaceOrWithAnd ReplaceTrueWithFalse ZeroIterationForLoop"
)


class RemoveKeywordArgument(Operator):
    """An operator that leaves `name=value` out of a call."""

    def mutation_positions(self, node):
        # A list, for cosmic-ray changes the node while it goes through the positions.
        if node.type not in ("arglist", "trailer"):
            return []
        arguments = [node.children[index] for index in self._keywords(node)]
        return [(argument.start_pos, argument.end_pos) for argument in arguments]

    def mutate(self, node, index):
        start = self._keywords(node)[index]
        # In a list a comma goes too: the next one, or that before the last argument.
        end = start + (2 if node.type == "arglist" else 1)
        if end > len(node.children):
            start, end = start - 1, end - 1
        del node.children[start:end]
        return node

    @staticmethod
    def _keywords(node) -> list[int]:
        return [
            index
            for index, child in enumerate(node.children)
            if child.type == "argument"
            and isinstance(child.children[0], parso.python.tree.Name)
            and child.children[1] == "="
        ]

    @classmethod
    def examples(cls):
        return (Example("f(x, y=1)", "f(x)"), Example("f(y=1)", "f()"))


class RemoveCall(Operator):
    """An operator that makes `pass` of a call whose value nobody takes."""

    def mutation_positions(self, node):
        if node.type != "simple_stmt" or node.children[0].type != "atom_expr":
            return []
        return [(node.children[0].start_pos, node.children[0].end_pos)]

    def mutate(self, node, index):
        call = node.children[0]
        node.children[0] = parso.python.tree.Keyword(
            "pass", call.start_pos, prefix=call.get_first_leaf().prefix
        )
        return node

    @classmethod
    def examples(cls):
        return (Example("f(x)\n", "pass\n"),)


@dataclass(frozen=True)
class Mutant:
    """One change of a module.

    Args:
        module: path of the module in the repository.
        operator: what was changed, in the words of cosmic-ray.
        line: number of the line.
        before: the lines as they are.
        after: the lines of the mutant.
        source: the whole source of the mutant.
        key: a name that it keeps while the function that it changes stays as it is,
            but for comments and docstrings.
    """

    module: str
    operator: str
    line: int
    before: str
    after: str
    source: str
    key: str

    def describe(self) -> dict:
        """All but the source, for a line of JSON."""
        return {k: value for k, value in asdict(self).items() if k != "source"}


def make_mutants(module: str, source: str) -> list[Mutant]:
    """The mutants of a module, from its first line to its last.

    Left out are type annotations, `raise` statements (the texts of errors), the
    `strict=True` of `zip` (a check that two lists are as long as they always are), what
    does not compile, and what compiles to the same as the module or another mutant.
    Strings, and with them docstrings and `__all__`, no operator changes.
    """
    tree = ast.parse(source)
    ignored = list(_ignored_spans(tree, source))
    sums = [_span(node, source) for node in ast.walk(tree) if _is_binary(node)]
    original = _normalize(source)
    seen = {original}
    mutants = []
    # In the order in which `mutate_code` counts.
    nodes = list(ast_nodes(get_ast(source)))
    for name, operator in _operators():
        positions = [at for node in nodes for at in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            if any(first <= start and end <= last for first, last in ignored):
                continue
            # cosmic-ray takes the star of keyword-only parameters for a product.
            if name.startswith("ReplaceBinaryOperator") and not any(
                first <= start and end <= last for first, last in sums
            ):
                continue
            mutated = mutate_code(source, operator, occurrence)
            normal = None if mutated is None else _normalize(mutated)
            if normal is None or normal in seen:
                continue
            seen.add(normal)
            line, before, after = _changed_lines(source, mutated)
            changed = "\n".join(part for part in normal if part not in original)
            key = hashlib.sha256(f"{module}\n{changed}".encode()).hexdigest()[:16]
            mutants.append(Mutant(module, name, line, before, after, mutated, key))
    return sorted(mutants, key=lambda mutant: (mutant.line, mutant.operator))


def _operators() -> Iterator[tuple[str, Operator]]:
    names = SINGLE.split()
    for kind, pairs in PAIRS.items():
        names += [f"{kind}_{pair}" for pair in pairs.split()]
    for name in names:
        yield name, get_operator(f"core/{name}")()
    for operator in (RemoveKeywordArgument(), RemoveCall()):
        yield type(operator).__name__, operator


def _ignored_spans(tree: ast.AST, source: str) -> Iterator[tuple]:
    for node in ast.walk(tree):
        is_strict = isinstance(node, ast.keyword) and node.arg == "strict"
        if isinstance(node, ast.Raise) or is_strict:
            yield _span(node, source)
        for name in ("annotation", "returns"):
            annotation = getattr(node, name, None)
            if isinstance(annotation, ast.AST):
                yield _span(annotation, source)


def _span(node: ast.AST, source: str) -> tuple:
    """Start and end as parso has them: `ast` counts bytes, parso counts characters."""
    lines = source.split("\n")

    def position(line: int, offset: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:offset].decode())

    return (
        position(node.lineno, node.col_offset),
        position(node.end_lineno, node.end_col_offset),
    )


def _is_binary(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp)


class _Normalizer(ast.NodeTransformer):
    """Leaves docstrings out, writes `not a == b` as `a != b`, `not not a` as `a`."""

    OPPOSITE = {
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.Is: ast.IsNot,
        ast.IsNot: ast.Is,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    }

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(
            node.value.value, str
        )
        return None if is_text else self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        inner = node.operand
        if not isinstance(node.op, ast.Not):
            return node
        if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
            return inner.operand
        if isinstance(inner, ast.Compare) and len(inner.ops) == 1:
            opposite = self.OPPOSITE.get(type(inner.ops[0]))
            if opposite is not None:
                inner.ops = [opposite()]
                return inner
        return node


def _normalize(source: str) -> tuple[str, ...] | None:
    """What sources have in common that do the same, function by function.

    None if the source is no Python.
    """
    try:
        with warnings.catch_warnings():
            # Some mutants are odd Python, which is no fault of ours.
            warnings.simplefilter("ignore")
            compile(source, "<mutant>", "exec")
    except SyntaxError:
        return None
    tree = _Normalizer().visit(ast.parse(source))
    parts = []
    for node in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        name = getattr(node, "name", "")
        functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        parts += [f"{name} {ast.dump(function)}" for function in functions]
        node.body = [part for part in node.body if part not in functions]
    return (*parts, ast.dump(tree))


def _changed_lines(source: str, mutated: str) -> tuple[int, str, str]:
    old, new = source.splitlines(), mutated.splitlines()
    codes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    changes = [code for code in codes if code[0] != "equal"]
    _, start, _, new_start, _ = changes[0]
    _, _, end, _, new_end = changes[-1]
    before = "\n".join(line.strip() for line in old[start:end])
    after = "\n".join(line.strip() for line in new[new_start:new_end])
    return start + 1, before, after
