"""The order in which clients take turns."""

from __future__ import annotations

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_provider.server.line import FairLine


def line_of(*items: str) -> FairLine[str]:
    """A line of items such as ``a1``, each of the client that its first letter names."""
    line: FairLine[str] = FairLine()
    for item in items:
        line.add(item[0], item)
    return line


def test_clients_take_turns() -> None:
    """However many items one has, and whenever it came."""
    line = line_of("a1", "a2", "a3", "b1", "c1", "c2")
    assert list(line) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert [line.pop() for _ in range(len(line))] == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_newcomer_stands_behind_one_turn_of_the_others() -> None:
    line = line_of("a1", "a2", "a3", "b1", "b2")
    assert (line.next_position("c"), line.next_position("b"), line.next_position("a")) == (3, 6, 6)
    line.pop()
    line.add("c", "c1")
    assert list(line) == ["b1", "a2", "c1", "b2", "a3"]


def test_one_that_leaves_makes_room_for_the_clients_next() -> None:
    line = line_of("a1", "a2", "b1")
    line.remove("a", "a1")
    assert list(line) == ["a2", "b1"]
    line.remove("a", "a2")
    assert (list(line), line.count("a"), len(line)) == (["b1"], 0, 1)


def test_the_longest_loses_its_last() -> None:
    line = line_of("a1", "b1", "b2", "c1", "c2")
    assert line.longest() == "b"
    assert line.pop_last("b") == "b2"
    assert list(line) == ["a1", "b1", "c1", "c2"]


def test_what_is_not_there_is_not_given() -> None:
    line = line_of("a1")
    with pytest.raises(KeyError):
        line.remove("b", "b1")
    with pytest.raises(ValueError, match="not in deque"):
        line.remove("a", "a2")
    assert line.pop() == "a1"
    with pytest.raises(KeyError):
        line.pop()


@given(st.lists(st.tuples(st.sampled_from(["add", "pop", "remove", "pop_last"]), st.sampled_from("abcd"), st.integers(0, 9))))
def test_it_is_what_a_plain_list_of_queues_would_be(steps: list[tuple[str, str, int]]) -> None:
    """The model is a list of clients with their queues; the order is read off round by round."""
    line: FairLine[int] = FairLine()
    queues: list[tuple[str, list[int]]] = []
    for number, (step, client, index) in enumerate(steps):
        own = next((queue for name, queue in queues if name == client), None)
        if step == "add":
            order = [item for round_ in zip_longest(*(queue for _, queue in queues)) for item in round_ if item is not None]
            expected = line.next_position(client)
            line.add(client, number)
            if own is None:
                queues.append((client, [number]))
            else:
                own.append(number)
            assert list(line).index(number) + 1 == expected <= len(order) + 1
        elif step == "pop" and queues:
            name, queue = queues.pop(0)
            assert line.pop() == queue.pop(0)
            if queue:
                queues.append((name, queue))
        elif step == "remove" and own:
            item = own.pop(index % len(own))
            line.remove(client, item)
        elif step == "pop_last" and own:
            assert line.pop_last(client) == own.pop()
        queues = [(name, queue) for name, queue in queues if queue]
        order = [item for round_ in zip_longest(*(queue for _, queue in queues)) for item in round_ if item is not None]
        assert list(line) == order
        assert len(line) == len(order)
