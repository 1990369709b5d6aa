"""The JSON of an exported program, reduced to what is needed and matched against what it may be."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from compressc.errors import CompresscError
from compressc.ir.ops import overload

#: Functions on sizes that torch.export writes beside operators.
_ARITHMETIC = r"add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_"
_FUNCTION = re.compile(
    rf"_operator\.({_ARITHMETIC}|getitem)"
    r"|torch\.sym_(int|float|max|min|not|ite|sum)"
    r"|math\.(ceil|floor|trunc)"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
)
_OPERATOR = re.compile(r"torch\.ops\.([a-z_]\w*\.[A-Za-z_]\w*\.[A-Za-z_]\w*)")
_IDENTIFIER = re.compile(r"([A-Za-z_]\w*)?")
_SYMBOL = re.compile(r"[a-z]{1,5}\d{1,6}|int_oo")
_MODULE_STACK = re.compile(r"[\w.,;@\[\]()<>' -]*")
_CALL = re.compile(
    r"(Floor|Clean|Ceil|FloatTrue|IntTrue)Div|(Python)?Mod|ModularIndexing|Where|Identity|Max|Min"
    r"|(Ceil|Floor|Trunc|Round)ToInt|(TruncTo|To)Float|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not"
    r"|ceiling|floor|Integer|Rational|Add|Mul|Pow(ByNatural)?|True|False"
    r"|(Greater|Less)Than|Strict(Greater|Less)Than|Equality|Unequality"
)
_ASSUMPTION = re.compile(r"positive|negative|nonnegative|nonpositive|nonzero|integer|real|finite")
_NODES = (
    ast.Expression | ast.Pow | ast.BinOp | ast.UnaryOp | ast.Compare | ast.BoolOp | ast.Load
    | ast.operator | ast.unaryop | ast.cmpop | ast.boolop
)  # fmt: skip
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def sanitize(program: Any, where: str) -> dict[str, Any]:
    """A copy of the JSON that is safe to give to torch.

    Guards (Python source that torch would run), the call graph of submodules, stack traces and all
    other metadata are left out; devices become the CPU.

    Raises:
        CompresscError: CC201 for a string that would make torch run, import or look up what is no
            operator; CC200 for JSON of another form.
    """
    try:
        module = program["graph_module"]
        kept = {
            "graph": _clean(module["graph"]),
            "signature": _clean(module["signature"]),
            "module_call_graph": [_root_call(module["module_call_graph"][0])],
        }
        ranges = {
            _symbol(name): _range(value) for name, value in program["range_constraints"].items()
        }
        return {
            "graph_module": kept,
            "opset_version": {},
            "range_constraints": ranges,
            "schema_version": program["schema_version"],
            "verifiers": [_match(_IDENTIFIER, v, "a dialect") for v in program["verifiers"]],
            "torch_version": str(program["torch_version"]),
        }
    except _Unsafe as error:
        raise CompresscError(
            "CC201",
            "the program would make torch run code while it is read",
            got=str(error),
            where=where,
            hint="it was not written by torch.export.save alone: do not trust it",
        ) from error
    except CompresscError as error:
        raise CompresscError("CC200", error.wanted, where=where, hint=error.hint) from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CompresscError(
            "CC200",
            "model.json has the form that torch.export.save writes",
            got=f"{type(error).__name__}: {error}"[:200],
            where=where,
        ) from error


class _Unsafe(Exception):
    """A string that torch would turn into code."""


def _clean(value: Any) -> Any:
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _RULES.get(key, _clean)(item) for key, item in value.items()}


def _match(pattern: re.Pattern[str], text: Any, what: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise _Unsafe(f"{what} {str(text)[:80]!r}")
    return text


def _symbol(name: Any) -> str:
    return _match(_SYMBOL, name, "a size symbol")


def _range(value: Any) -> dict[str, int | None]:
    low, high = value["min_val"], value["max_val"]
    if not all(end is None or type(end) is int for end in (low, high)):
        raise ValueError("a range has two whole numbers")
    return {"min_val": low, "max_val": high}


def _name(value: Any) -> Any:
    """Names of values are pasted into generated Python."""
    return _match(_IDENTIFIER, value, "a value named") if isinstance(value, str) else _clean(value)


def _target(value: Any) -> Any:
    if not isinstance(value, str):
        return _clean(value)
    if _FUNCTION.fullmatch(value):
        return value
    match = _OPERATOR.fullmatch(value)
    if not match:
        raise _Unsafe(f"a call of {value[:80]!r}")
    overload(match[1])  # CC402 for an operator that no known library has
    return value


def _refuse(value: Any) -> Any:
    raise _Unsafe("a custom object or a function as an argument")


def _device(value: Any) -> Any:
    return {"type": "cpu", "index": None} if value is not None else None


def _metadata(value: Any) -> dict[str, str]:
    stack = value.get("nn_module_stack") if isinstance(value, dict) else None
    if isinstance(stack, str) and _MODULE_STACK.fullmatch(stack):
        return {"nn_module_stack": stack}
    return {}


def _expression(text: Any) -> str:
    """sympy evaluates this text with Python's eval: only arithmetic on size symbols may pass."""
    try:
        if not isinstance(text, str) or len(text) > 10_000:
            raise ValueError
        for node in ast.walk(ast.parse(text, mode="eval")):
            _check_node(node)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _Unsafe(f"a size {str(text)[:80]!r}") from error
    return text


def _check_node(node: ast.AST) -> None:
    match node:
        case ast.Call(func=ast.Name(id="Pow" | "PowByNatural"), args=[base, exponent]):
            allowed = _is_small_power(base, exponent)
        case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
            allowed = _is_small_power(base, exponent)
        case ast.BinOp(op=ast.LShift() | ast.RShift() | ast.MatMult()):
            allowed = False
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str())]):
            allowed = True
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            allowed = bool(_CALL.fullmatch(name))
        case ast.keyword(arg=str(name), value=ast.Constant(value=bool())):
            allowed = bool(_ASSUMPTION.fullmatch(name))
        case ast.Constant(value=int() | float() as value):
            allowed = abs(value) < 2**64
        case ast.Constant(value=str(text)):
            allowed = bool(_SYMBOL.fullmatch(text))
        case ast.Name(id=name):
            allowed = bool(name == "Symbol" or _CALL.fullmatch(name) or _SYMBOL.fullmatch(name))
        case _:
            allowed = isinstance(node, _NODES)
    if not allowed:
        raise ValueError("not a size")


def _is_small_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A tower of powers would eat all memory: small exponents, and no power of a power."""
    numbers = [n.value for n in ast.walk(exponent) if isinstance(n, ast.Constant)]
    names = {n.id for n in ast.walk(exponent) if isinstance(n, ast.Name)}
    inner = {n.id for n in ast.walk(base) if isinstance(n, ast.Name)}
    nested = any(isinstance(n, ast.Pow) for n in [*ast.walk(base), *ast.walk(exponent)])
    small = all(isinstance(n, int) and abs(n) <= 16 for n in numbers) and names <= {"Integer"}
    return small and not nested and len(numbers) == 1 and not inner & {"Pow", "PowByNatural"}


def _root_call(entry: Any) -> dict[str, Any]:
    signature = entry["signature"]
    names = signature.get("forward_arg_names")
    return {
        "fqn": "",
        "signature": {
            "inputs": _clean(signature["inputs"]),
            "outputs": _clean(signature["outputs"]),
            "in_spec": _tree(signature["in_spec"]),
            "out_spec": _tree(signature["out_spec"]),
            "forward_arg_names": [_name(name) for name in names] if names else None,
        },
    }


def _tree(text: str) -> str:
    """A tree specification in tuples, lists and dicts.

    torch would import the modules that other containers name (a transformers ModelOutput, the
    user's dataclass). Their fields are written beside them, so they are read as dicts instead.
    """
    protocol, root = json.loads(text)
    pending = [root]
    while pending:
        node = pending.pop()
        if node["type"] not in _TREES:
            node |= _as_dict(node)
        if "__enum__" in str(node["context"]):
            raise _Unsafe("a tree specification with an enum")
        pending += node["children_spec"]
    return json.dumps([int(protocol), root])


def _as_dict(node: dict[str, Any]) -> dict[str, str]:
    """An unknown container as a dict of its fields; as a tuple where it has no names for them."""
    children = node["children_spec"]
    names = _field_names(_read_context(node["context"]), len(children))
    if names is None:
        return {"type": "builtins.tuple", "context": "null"}
    return {"type": "builtins.dict", "context": json.dumps(names)}


def _read_context(context: Any) -> Any:
    """A container writes its context as JSON in a string, or as it likes."""
    try:
        return json.loads(context) if isinstance(context, str) else context
    except ValueError:
        return None


def _field_names(context: Any, count: int) -> list[str] | None:
    """What pytree keeps of a ModelOutput (`[names]`), of a dataclass (`[[names], [fields that are
    None]]`), of a defaultdict (`{"dict_context": [names]}`)."""
    choices = [context]
    if isinstance(context, list):
        choices += context[:1]
    if isinstance(context, dict):
        choices += context.values()
    for names in choices:
        strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if strings and len(set(names)) == len(names) == count:
            return list(names)
    return None


_RULES: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "as_name": _name,
    "user_input_name": _name,
    "target": _target,
    "expr_str": _expression,
    "as_operator": _refuse,
    "as_custom_obj": _refuse,
    "custom_obj": _refuse,
    "device": _device,
    "as_device": _device,
    "metadata": _metadata,
}
