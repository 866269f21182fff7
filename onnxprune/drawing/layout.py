"""Where boxes stand: rows by depth, a straight main line, branches in lanes to its right, columns where it gets long.

Networks are nearly chains, and what makes a drawing of one readable is that the chain stays straight and repeats look
alike. General layouts of layered graphs (Graphviz's dot, say) give that up to save crossings and need a program
beside Python; the pure Python one, grandalf, has had no release since 2023.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

#: A column is at most about this high before a drawing gets another one.
COLUMN_HEIGHT = 1500
GAP = 26
TITLE = 28


@dataclass(frozen=True)
class Node:
    """What is placed: its size, whether it is a circle, whether it counts on the main line, and its block."""

    width: float
    height: float
    is_round: bool
    weight: int
    block: str


@dataclass(frozen=True)
class Column:
    """Some of the rows: {node: row} and {node: lane}, and the edges (source, target, number of the edge).

    Numbers below 0 are ports, to the column before (down to -`ports`) or to the next one (below that).
    """

    rank: Mapping[int, int]
    lane: Mapping[int, int]
    edges: tuple[tuple[int, int, int], ...]
    ports: int


def columns(nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> list[Column]:
    """Rows and lanes of all nodes, in one or more columns; edges are (source, target) in topological order.

    What leads to a later column ends in port -1 - ports - k at the foot of one and begins again in port -1 - k at the
    head of the next; the columns' edges carry the number of the edge they are part of.
    """
    rank = _ranks(nodes, edges)
    breaks = _breaks(nodes, edges, rank)
    found = []
    column_of = {n: sum(rank[n] >= b for b in breaks) for n in range(len(nodes))}
    wires = _wires(edges, column_of)
    for number in range(len(breaks) + 1):
        here = [n for n in range(len(nodes)) if column_of[n] == number]
        start = breaks[number - 1] - 1 if number else 0
        local = {n: rank[n] - start for n in here}
        last = max(local.values(), default=0) + 1
        inside: list[tuple[int, int, int]] = []
        for port, (source, targets) in wires.items():
            reach = max(column_of[edges[e][1]] for e in targets)
            if column_of[source] == number < reach:
                local[port - len(wires)] = last
                inside.append((source, port - len(wires), targets[0]))
            elif column_of[source] < number <= reach:
                local[port] = 0
                if number < reach:
                    local[port - len(wires)] = last
                    inside.append((port, port - len(wires), targets[0]))
                inside += [(port, edges[e][1], e) for e in targets if column_of[edges[e][1]] == number]
        inside += [(u, v, e) for e, (u, v) in enumerate(edges) if column_of[u] == number == column_of[v]]
        found.append(Column(local, _lanes(nodes, local, inside), tuple(inside), len(wires)))
    return found


def _wires(edges: Sequence[tuple[int, int]], column_of: Mapping[int, int]) -> dict[int, tuple[int, list[int]]]:
    """{port: (source, the edges to later columns)}, one port for each source."""
    leaving: dict[int, list[int]] = defaultdict(list)
    for number, (source, target) in enumerate(edges):
        if column_of[source] != column_of[target]:
            leaving[source].append(number)
    return {-1 - k: (source, found) for k, (source, found) in enumerate(sorted(leaving.items()))}


def _ranks(nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> list[int]:
    """The row of each node: below all that it reads; inputs stand just above their first reader."""
    rank = [0] * len(nodes)
    for source, target in sorted(edges, key=lambda edge: edge[0]):
        rank[target] = max(rank[target], rank[source] + 1)
    read = {target for _, target in edges}
    for source in range(len(nodes)):
        below = [rank[target] for s, target in edges if s == source] if source not in read else []
        if below:
            rank[source] = min(below) - 1
    lowest = min(rank, default=0)
    return [r - lowest for r in rank]


def _breaks(nodes: Sequence[Node], edges: Sequence[tuple[int, int]], rank: Sequence[int]) -> list[int]:
    """Rows at which a new column begins: where few edges cross and no block is torn, at about equal heights."""
    rows = max(rank, default=0) + 1
    height = [0.0] * rows
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for node, r in zip(nodes, rank, strict=True):
        height[r] = max(height[r], node.height + GAP)
        if node.block:
            first[node.block] = min(first.get(node.block, r), r)
            last[node.block] = max(last.get(node.block, r), r)
    for r in set(first.values()):
        height[r] += TITLE
    above = [0.0, *accumulate(height)]
    count = max(1, round(above[-1] / COLUMN_HEIGHT + 0.3))
    share = above[-1] / count
    crossing: list[set[int]] = [set() for _ in range(rows + 1)]
    for source, target in edges:
        for r in range(rank[source] + 1, rank[target] + 1):
            crossing[r].add(source)
    torn = [sum(first[block] < r <= last[block] for block in first) for r in range(rows + 1)]

    def cost(start: int, end: int) -> float:
        uneven = (above[end] - above[start]) / share - 1
        return 30 * uneven**2 + (len(crossing[end]) + 2 * min(torn[end], 2) if end < rows else 0)

    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] + [(float("inf"), ())] * rows
    for _ in range(count):
        best = [
            min(
                (
                    (best[start][0] + cost(start, end), (*best[start][1], end))
                    for start in range(end)
                    if best[start][0] < float("inf") and above[end] - above[start] < 1.7 * share
                ),
                default=(float("inf"), ()),
            )
            for end in range(rows + 1)
        ]
    return list(best[rows][1][:-1])


def _lanes(nodes: Sequence[Node], rank: Mapping[int, int], edges: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    """0 for the main line; chains of other nodes get the first lane that is free beside them."""
    after: dict[int, list[int]] = defaultdict(list)
    before: dict[int, list[int]] = defaultdict(list)
    for source, target, _ in edges:
        after[source].append(target)
        before[target].append(source)
    order = sorted(rank, key=lambda n: (rank[n], n < 0, n))
    length: dict[int, int] = {}
    for n in reversed(order):
        length[n] = (nodes[n].weight if n >= 0 else 0) + max((length[m] for m in after[n]), default=0)
    chains: list[tuple[list[int], range]] = []
    seen: set[int] = set()
    for head in sorted(order, key=lambda n: (-length[n], rank[n]))[:1] + order:
        if head in seen:
            continue
        chain = [head]
        while following := [m for m in after[chain[-1]] if m not in seen]:
            chain.append(max(following, key=lambda m: (length[m], -rank[m], -m)))
            seen.add(chain[-1])
        seen.add(head)
        start = min((rank[m] + 1 for m in before[head]), default=rank[head])
        end = max((rank[m] - 1 for m in after[chain[-1]]), default=rank[chain[-1]])
        chains.append((chain, range(min(start, rank[head]), max(end, rank[chain[-1]]) + 1)))
    # The main line is the first; of the others those that start last come first, so that long ways lie outside.
    lane = dict.fromkeys(chains[0][0], 0)
    taken: dict[int, set[int]] = defaultdict(set)
    for chain, rows in sorted(chains[1:], key=lambda found: -rank[found[0][0]]):
        free = next(k for k in range(1, len(rank) + 2) if taken[k].isdisjoint(rows))
        taken[free] |= set(rows)
        lane |= dict.fromkeys(chain, free)
    return lane
