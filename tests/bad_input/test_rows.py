"""Whether each of the 88 rows of bad inputs has a test that names it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.bad_input.rows import raw_client, row
from tests.conftest import StartServer
from tests.fake_engine import FakeEngine

ROWS = range(1, 89)


def named_rows(file: Path) -> Iterator[int]:
    """The rows that a test module names: the first argument of each call of `row` and each mark of that name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        number = node.args[0]
        if name == "row" and isinstance(number, ast.Constant) and isinstance(number.value, int):
            yield number.value


def test_every_row_has_a_test() -> None:
    modules = Path(__file__).parents[1].rglob("test_*.py")
    found = {number for module in modules for number in named_rows(module)}
    assert found == set(ROWS)


def test_a_case_names_its_row() -> None:
    case = row(27, "arabic-digit", "٣")
    assert case.id == "row-27-arabic-digit"
    assert [mark.args for mark in case.marks if not isinstance(mark, str)] == [(27,)]


async def test_the_client_that_frames_by_hand_is_understood(start_server: StartServer) -> None:
    """Its frames of two lengths, and fragments; a test of row 7 has the third."""
    server = await start_server(FakeEngine())
    async with raw_client(server) as client:
        for padding in (0, 200, 60_000):
            await client.frame(1, b'{"command":', fin=False)
            await client.frame(0, b" " * padding + b'"info"}')
            opcode, payload = await client.receive() or (0, b"")
            assert opcode == 1
            assert b"available_models" in payload
