"""The rules of the layout, as functions from source files to complaints.

Each takes parsed sources and what is allowed, and returns one line for each breach that says what
to do about it. `test_architecture.py` holds the tables and runs them over this project, and over
small sources that break each rule.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the project's root, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        return PurePosixPath(self.path).parts[0]

    @property
    def noun(self) -> str:
        return PurePosixPath(self.path).stem

    @property
    def module(self) -> str:
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Import:
    """One imported module, and the line that imports it."""

    module: str
    line: int

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def source(path: str, text: str) -> Source:
    return Source(path, text, ast.parse(text, filename=path))


def load(root: Path, folders: Iterable[str]) -> list[Source]:
    """Every Python file below the folders, in a stable order."""
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    return [source(path.relative_to(root).as_posix(), path.read_text("utf-8")) for path in paths]


def imports(of: Source) -> list[Import]:
    found = []
    for node in ast.walk(of.tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from events import runs` imports the module events.runs as well as events.
            found.append(Import(node.module, node.lineno))
            found += [Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def wrong_directions(
    sources: Iterable[Source],
    below: Mapping[str, Sequence[str]],
    wiring: Mapping[str, str],
) -> list[str]:
    """Imports of a package that does not lie below the importing one."""
    complaints = []
    for of in sources:
        if of.folder not in below or of.path in wiring:
            continue
        allowed = {of.folder, *below[of.folder]}
        known = {*below, "tests", "infra"}
        for found in imports(of):
            if found.top in known - allowed:
                complaints.append(
                    f"{of.path}:{found.line} imports {found.module}, but {of.folder} may import "
                    f"only {', '.join(below[of.folder]) or 'none of the packages'}"
                )
    return sorted(set(complaints))


def entities_that_meet(
    sources: Iterable[Source], nouns: Iterable[str], agreed: Mapping[tuple[str, str], str]
) -> list[str]:
    """Entity files of one folder that import each other, but for the pairs that were agreed."""
    nouns = set(nouns)
    complaints = []
    for of in sources:
        if of.noun not in nouns:
            continue
        others = {f"{of.folder}.{noun}" for noun in nouns - {of.noun}}
        complaints += [
            f"{of.path}:{found.line} imports {found.module}: entity files of a folder don't know "
            "each other; put what they share in a file named after the mechanism"
            for found in imports(of)
            if found.module in others and (of.path, found.module) not in agreed
        ]
    return complaints


def cycles(sources: Sequence[Source]) -> list[str]:
    """Modules that import each other in a circle."""
    known = {of.module for of in sources}
    graph = {of.module: {found.module for found in imports(of)} & known for of in sources}
    for module, targets in graph.items():
        targets.discard(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"These modules import each other: {' <- '.join(error.args[1])}"]
    return []


def unmatched_nouns(
    paths: Iterable[str],
    nouns: Iterable[str],
    folders: Iterable[str],
    missing: Mapping[tuple[str, str], str],
    mechanisms: Mapping[str, Sequence[str]],
) -> list[str]:
    """Nouns without their file in a folder, and files that are neither noun nor mechanism."""
    present = set(paths)
    nouns, folders = list(nouns), list(folders)
    complaints = []
    for folder in folders:
        for noun in nouns:
            path = f"{folder}/{noun}.py"
            if (folder, noun) in missing and path in present:
                complaints.append(f"{path} is there now: take it off the list of missing ones")
            if (folder, noun) not in missing and path not in present:
                complaints.append(f"{path} is missing: add it, or its reason to MISSING_NOUNS")
        declared = {*nouns, *mechanisms.get(folder, ()), "__init__"}
        complaints += [
            f"{path} is neither an entity nor a declared mechanism: add it to NOUNS or MECHANISMS"
            for path in sorted(present)
            if PurePosixPath(path).parts[0] == folder and PurePosixPath(path).stem not in declared
        ]
        complaints += [
            f"{folder}/{name}.py is declared in MECHANISMS but not there: remove it from the table"
            for name in mechanisms.get(folder, ())
            if f"{folder}/{name}.py" not in present
        ]
    return complaints


def strangers(sources: Iterable[Source], homes: Mapping[str, Sequence[str]]) -> list[str]:
    """Third-party imports outside their library's home."""
    own = {"events", "projections", "api", "workers"}
    complaints = []
    for of in sources:
        for top, line in sorted({(found.top, found.line) for found in imports(of)}):
            if top in own or top in sys.stdlib_module_names:
                continue
            if top not in homes:
                complaints.append(f"{of.path}:{line} imports {top}: give it a home in HOMES")
            elif not any(PurePosixPath(of.path).match(pattern) for pattern in homes[top]):
                complaints.append(
                    f"{of.path}:{line} imports {top}, whose home is {', '.join(homes[top])}"
                )
    return complaints


def empty_homes(sources: Iterable[Source], homes: Mapping[str, Sequence[str]]) -> list[str]:
    """Declared homes where the library no longer lives."""
    users: dict[str, list[PurePosixPath]] = {}
    for of in sources:
        for top in {found.top for found in imports(of)}:
            users.setdefault(top, []).append(PurePosixPath(of.path))
    return [
        f"No file of {pattern} imports {library} any more: take it out of HOMES"
        for library, patterns in homes.items()
        for pattern in patterns
        if not any(path.match(pattern) for path in users.get(library, []))
    ]


def forbidden_imports(sources: Iterable[Source], forbidden: Mapping[str, str]) -> list[str]:
    """Imports of modules that would make a fold's answer depend on more than its events."""
    return [
        f"{of.path}:{found.line} imports {found.module}: {forbidden[found.top]}"
        for of in sources
        for found in imports(of)
        if found.top in forbidden and found.module == found.top
    ]


def environment_readers(sources: Iterable[Source], allowed: Mapping[str, str]) -> list[str]:
    """Uses of the process's environment outside the command line."""
    names = {"environ", "environb", "getenv", "putenv"}
    complaints = []
    for of in sources:
        if of.path in allowed:
            continue
        for node in ast.walk(of.tree):
            if (isinstance(node, ast.Attribute) and node.attr in names) or (
                isinstance(node, ast.ImportFrom)
                and any(alias.name in names for alias in node.names)
            ):
                complaints.append(
                    f"{of.path}:{node.lineno} reads the environment: only the command line does; "
                    "take the value as an argument"
                )
    return complaints


def functions(of: Source) -> Iterator[FunctionNode]:
    for node in ast.walk(of.tree):
        if isinstance(node, FunctionNode):
            yield node


def function_lines(function: FunctionNode) -> int:
    """Lines of a function without its decorators and its docstring."""
    first = function.body[0]
    documented = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def ratchet(what: str, found: Mapping[str, int], limit: int, step: int, remedy: str) -> list[str]:
    """Things over the limit; or the limit itself, when it could come down by a whole step."""
    longest = max(found.values(), default=0)
    complaints = [
        f"{place} has {lines} lines; a {what} has at most {limit}. {remedy}"
        for place, lines in found.items()
        if lines > limit
    ]
    if longest <= limit - step:
        lower = -(-longest // step) * step
        complaints.append(f"The longest {what} has {longest} lines: lower the limit to {lower}")
    return complaints


def long_files(sources: Iterable[Source], limit: int, step: int = 50) -> list[str]:
    found = {of.path: len(of.text.splitlines()) for of in sources}
    return ratchet("file", found, limit, step, "Split it by what its parts are about.")


def long_functions(sources: Iterable[Source], limit: int, step: int = 10) -> list[str]:
    found = {
        f"{of.path}:{function.lineno} {function.name}": function_lines(function)
        for of in sources
        for function in functions(of)
    }
    return ratchet("function", found, limit, step, "Give its steps names of their own.")


def narrows(test: ast.expr) -> bool:
    """Whether an assert only tells the type checker what a value is."""
    if isinstance(test, ast.BoolOp):
        return all(narrows(value) for value in test.values)
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot)
    return isinstance(test, ast.Call) and getattr(test.func, "id", "") == "isinstance"


def unwanted_shapes(sources: Iterable[Source]) -> list[str]:
    """Mixins, metaclasses, files for leftovers, and asserts where an error belongs."""
    complaints = []
    for of in sources:
        if of.noun in {"utils", "util", "helpers", "common", "misc"}:
            complaints.append(f"{of.path}: name the file after what it does")
        for node in ast.walk(of.tree):
            if isinstance(node, ast.ClassDef):
                if node.name.endswith("Mixin"):
                    complaints.append(f"{of.path}:{node.lineno} is a mixin: pass the part instead")
                if any(keyword.arg == "metaclass" for keyword in node.keywords):
                    complaints.append(f"{of.path}:{node.lineno} has a metaclass: say it plainly")
            elif isinstance(node, ast.Assert) and not narrows(node.test):
                complaints.append(
                    f"{of.path}:{node.lineno} asserts: raise an error that says what was wrong "
                    "(python -O removes asserts)"
                )
    return complaints


def undescribed_modules(sources: Iterable[Source]) -> list[str]:
    return [
        f"{of.path}: say in a docstring what the file is for"
        for of in sources
        if not ast.get_docstring(of.tree)
    ]


def tests_of(of: Source) -> Iterator[FunctionNode]:
    for node in of.tree.body:
        if isinstance(node, FunctionNode) and node.name.startswith("test_"):
            yield node
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            for inner in node.body:
                if isinstance(inner, FunctionNode) and inner.name.startswith("test_"):
                    yield inner


def undescribed_tests(sources: Iterable[Source]) -> list[str]:
    return [
        f"{of.path}:{test.lineno} {test.name}: say in a docstring what is true when it passes"
        for of in sources
        for test in tests_of(of)
        if not ast.get_docstring(test)
    ]


def judges(node: ast.AST) -> bool:
    """Whether this statement or call can make a test fail on purpose."""
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = called_name(node)
    return name in {"raises", "fail"} or name.startswith(("check_", "assert_"))


def called_name(call: ast.Call) -> str:
    called = call.func
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def judging_functions(of: Source) -> set[str]:
    """The functions of a file that judge, or call one of the file that does."""
    judging: set[str] = set()
    while True:
        found = {
            function.name
            for function in functions(of)
            if any(
                judges(node) or (isinstance(node, ast.Call) and called_name(node) in judging)
                for node in ast.walk(function)
            )
        }
        if found == judging:
            return judging
        judging = found


def tests_without_judgement(sources: Iterable[Source]) -> list[str]:
    complaints = []
    for of in sources:
        judging = judging_functions(of)
        complaints += [
            f"{of.path}:{test.lineno} {test.name} asserts nothing: assert what is true, use "
            "pytest.raises, or call a helper named check_…"
            for test in tests_of(of)
            if test.name not in judging
        ]
    return complaints
