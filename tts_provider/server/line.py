"""A line in which clients take turns: each client's own items in order, and one item of each client in each round.

a: a1 a2 a3          the order of service: a1 b1 c1 a2 c2 a3
b: b1                a client that has had its turn goes behind the others,
c: c1 c2             and one that comes anew stands behind those who are there
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["FairLine"]

Item = TypeVar("Item")


class FairLine(Generic[Item]):
    """Items of clients, in the order of service. Items are told apart by ``==``; none may be in the line twice."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[Item]] = OrderedDict()
        """None is empty; the first has the next turn."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        """The items in the order of service. The line must not change meanwhile."""
        rounds = [iter(queue) for queue in self._queues.values()]
        while rounds:
            going_on = []
            for queue in rounds:
                for item in queue:
                    yield item
                    going_on.append(queue)
                    break
            rounds = going_on

    def count(self, client: Hashable) -> int:
        """How many items `client` has here."""
        queue = self._queues.get(client)
        return len(queue) if queue is not None else 0

    def next_position(self, client: Hashable) -> int:
        """The position, from 1, that a further item of `client` would get."""
        earlier = self.count(client)
        if earlier == 0:
            return len(self._queues) + 1
        ahead = sum(min(len(queue), earlier) for queue in self._queues.values())
        for other, queue in self._queues.items():
            if other == client:
                break
            ahead += len(queue) > earlier
        return ahead + 1

    def add(self, client: Hashable, item: Item) -> None:
        """Put `item` behind the others of `client`."""
        self._queues.setdefault(client, deque()).append(item)
        self._length += 1

    def pop(self) -> Item:
        """Remove and return the first item, and move its client behind the others.

        Raises:
            KeyError: there is none.
        """
        client, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        if queue:
            self._queues[client] = queue
        self._length -= 1
        return item

    def remove(self, client: Hashable, item: Item) -> None:
        """Remove an item of `client`, wherever it stands.

        Raises:
            KeyError, ValueError: it is not in the line.
        """
        self._queues[client].remove(item)
        self._removed(client)

    def longest(self) -> Hashable:
        """The client with the most items; of several, the one whose turn comes first.

        Raises:
            ValueError: there is none.
        """
        return max(self._queues, key=lambda client: len(self._queues[client]))

    def pop_last(self, client: Hashable) -> Item:
        """Remove and return the last item of `client`.

        Raises:
            KeyError: it has none.
        """
        item = self._queues[client].pop()
        self._removed(client)
        return item

    def _removed(self, client: Hashable) -> None:
        self._length -= 1
        if not self._queues[client]:
            del self._queues[client]
