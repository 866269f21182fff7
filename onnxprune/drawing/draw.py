"""Draws a network: boxes for layers, one colour for what is tied together, grey hatching for what stays."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise

from onnxprune.drawing import colours, layers, layout, routing, svg
from onnxprune.drawing.families import STAYS, Families, Stripe
from onnxprune.drawing.folding import SMALL, Box, Picture, fold
from onnxprune.drawing.modules import common_prefix
from onnxprune.graph import explain
from onnxprune.graph.pins import pins
from onnxprune.graph.units import Channels

BOX, BOX_HEIGHT, BAR, CIRCLE = 248, 36, 150, 24
MARGIN, HEAD, BETWEEN = 28, 64, 34
LEGEND, LEGEND_ROWS, GAP = 320, 22, 40


def draw(channels: Channels, *, small: int = SMALL) -> str:
    """The network as an SVG document. Repeats of a block are folded where there are more than `small` layers."""
    families = Families(channels)
    picture = fold(layers.find(channels, families), families.stripe, small=small)
    return _Drawing(channels, families, picture).document()


class _Drawing:
    def __init__(self, channels: Channels, families: Families, picture: Picture):
        self.channels = channels
        self.families = families
        self.picture = picture
        self.prefix = common_prefix([box.layer.name for box in picture.boxes if box.layer.kind == "layer"])
        self.makers = self._makers()
        shared = [len(self.makers[family]) > 1 for family in range(families.count)]
        self.colours = colours.choose(shared)
        self.nodes = [_node(box) for box in picture.boxes]
        self.ends = [(edge.source, edge.target) for edge in picture.edges]

    def _short(self, name: str) -> str:
        """A name without the modules that all of them lie in."""
        return name.removeprefix(self.prefix)

    def _makers(self) -> dict[int, list[Box]]:
        """{family: the boxes that make its channels}."""
        found: dict[int, list[Box]] = defaultdict(list)
        for box in self.picture.boxes:
            if box.layer.kind == "layer" and box.layer.gives is not None:
                for family in box.layer.gives.families:
                    found[family].append(box)
        return found

    def document(self) -> str:
        placed = [routing.place(column, self.nodes, self._wire) for column in layout.columns(self.nodes, self.ends)]
        ports = [sum(n < 0 for n in column.spots) for column in placed]
        parts: list[str] = []
        x, self.tops = float(MARGIN), HEAD + 16 + 9 * max(ports, default=0)
        self.floor = self.tops + max(column.height for column in placed)
        offsets = []
        for column, count in zip(placed, ports, strict=True):
            offsets.append(x)
            x += column.width + BETWEEN + 9 * count
        parts += self._connections(placed, offsets)
        for column, offset in zip(placed, offsets, strict=True):
            parts += self._column(column, offset)
        legend = list(self._legend(x))
        width = x + LEGEND + MARGIN
        height = max(self.floor + 24 + 9 * max(ports, default=0), self.legend_end + 20)
        title = svg.text(self.channels.model.name)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {svg.number(width)} {svg.number(height)}" '
            f'width="{svg.number(width)}" height="{svg.number(height)}" role="img">'
        )
        start = [head, f"<title>{title}</title>", f"<style>{svg.STYLE}</style>", f"<defs>{svg.HATCH}</defs>"]
        ground = svg.rectangle(0, 0, width, height, fill="#ffffff")
        return "\n".join([*start, ground, *self._heading(), *parts, *legend, "</svg>", ""])

    def _wire(self, source: int, edge: int) -> Hashable:
        return source, self.picture.edges[edge].stripe.runs

    def _heading(self) -> Iterator[str]:
        total = explain.weights(self.channels)
        yield svg.label(MARGIN, 34, self.channels.model.name, "head")
        share = f"{explain.percent(self.channels.prunable)} of {total:,} weights can go"
        yield svg.label(MARGIN, 52, f"{share}, {self.families.count} families of tied channels", "detail")

    # ---- columns ------------------------------------------------------------------------------------------------

    def _column(self, column: routing.Placed, x: float) -> Iterator[str]:
        spots = {n: spot.moved(x, self.tops) for n, spot in column.spots.items()}
        lines = [line.moved(x, self.tops) for line in column.lines]
        framed = self._framed(spots)
        yield from self._frames(framed, spots, lines)
        labelled: dict[int, list[str]] = defaultdict(list)
        later: list[str] = []
        for line in lines:
            edge, seen = self.picture.edges[line.edge], labelled[line.source]
            yield from svg.edge(line.points, edge.stripe, self.colours, arrow=line.target >= 0)
            if edge.width not in seen:
                (x0, y0), (x1, _) = line.points[:2]
                at, style = (x0 - 6, "width end") if x1 > x0 and len(line.points) > 2 else (x0 + 6, "width")
                later.append(svg.label(at, y0 + 13 + 12 * len(seen), edge.width, style))
                seen.append(edge.width)
        for n, spot in spots.items():
            if n >= 0:
                box = self.picture.boxes[n]
                name = box.label(box.block) if box.block in framed else self._short(box.layer.name)
                yield from self._box(box, spot, name)
        yield from later

    def _framed(self, spots: dict[int, routing.Spot]) -> dict[str, tuple[list[int], tuple[float, ...]]]:
        """{block: its boxes, and (left, top, right, bottom)} of blocks that a frame holds with nothing else in it."""
        inside: dict[str, list[int]] = defaultdict(list)
        for n in spots:
            if n >= 0 and self.picture.boxes[n].block:
                inside[self.picture.boxes[n].block].append(n)
        found = {}
        for block, members in inside.items():
            left = min(spots[n].x - spots[n].width / 2 for n in members) - 10
            right = max(spots[n].x + spots[n].width / 2 for n in members) + 10
            top, bottom = min(spots[n].top for n in members) - 30, max(spots[n].bottom for n in members) + 9
            others = (s for n, s in spots.items() if n not in members and not self._is_input(n))
            strangers = (spot for spot in others if spot.touches(left, top, right, bottom))
            is_compact = (right - left) * (bottom - top) < 3 * len(members) * (BOX + 30) * (BOX_HEIGHT + GAP)
            repeats = len(self.picture.boxes[members[0]].layers)
            if is_compact and not any(strangers) and (len(members) > 1 or repeats > 1):
                found[block] = members, (left, top, right, bottom)
        return found

    def _is_input(self, n: int) -> bool:
        """Masks stand near what reads them, within a frame if need be."""
        return n >= 0 and self.picture.boxes[n].layer.kind == "input"

    def _frames(self, framed: dict, spots: dict[int, routing.Spot], lines: Sequence[routing.Line]) -> Iterator[str]:
        for block, (members, (left, top, right, bottom)) in framed.items():
            tracks = (px for line in lines if line.is_aside and line.target in members for px, _ in line.points[2:-1])
            left = min([left, *(px - 8 for px in tracks)])
            yield svg.rectangle(left, top, right - left, bottom - top, radius=8, style="block")
            start = min(spots[n].x - spots[n].width / 2 for n in members) + 1
            yield svg.label(
                start, top + 13, svg.shorten(self._short(self.picture.titles[block]), BOX / 2 - 2, 10, keep=0), "title"
            )
            if (repeats := len(self.picture.boxes[members[0]].layers)) > 1:
                yield svg.label(right - 9, top + 13, f"× {repeats}", "times end")

    def _box(self, box: Box, spot: routing.Spot, name: str) -> Iterator[str]:
        layer = box.layer
        left, top = spot.x - spot.width / 2, spot.top
        yield f'<g class="{layer.kind}"><title>{svg.text(self._tip(box))}</title>'
        gives, takes = layer.gives, layer.takes
        if layer.sign:
            colour = self.colours[gives.families[0]] if gives and gives.families else colours.GREY
            yield svg.circle(spot.x, spot.y, spot.width / 2, colour)
            yield svg.label(spot.x, spot.y + 5, layer.sign, "sign")
        else:
            is_end = layer.kind in ("input", "output")
            radius = spot.height / 2 if is_end else 5
            fill = svg.box_fill(gives or takes, self.colours)
            yield svg.rectangle(left, top, spot.width, spot.height, radius=radius, style="box", fill=fill)
            if layer.kind == "layer" and takes is not None:
                yield from svg.strip("takes", (left + 5, top + 0.5, spot.width - 10, 3.5), takes, self.colours)
            stripe = takes if layer.kind == "output" else gives
            if stripe is not None and not is_end:
                yield from svg.strip("gives", (left + 5, spot.bottom - 6.5, spot.width - 10, 6), stripe, self.colours)
            yield from self._words(layer, spot, name)
        yield "</g>"

    def _words(self, layer: layers.Layer, spot: routing.Spot, name: str) -> Iterator[str]:
        left, right = spot.x - spot.width / 2, spot.x + spot.width / 2
        if layer.kind == "merge":
            yield svg.label(spot.x, spot.y + 2, layer.operator, "detail middle")
        elif layer.kind == "layer":
            room = spot.width - 34 - svg.measure(layer.detail, 10.5)
            yield svg.label(left + 10, spot.y + 3, svg.shorten(name, room, 12, keep=0.2), "name")
            yield svg.label(right - 10, spot.y + 3, layer.detail, "detail end")
        else:
            yield svg.label(spot.x, spot.y + 4, svg.shorten(layer.name, spot.width - 20, 12), "name middle")

    def _tip(self, box: Box) -> str:
        layer = box.layer
        lines = [f"{layer.name}: {layer.operator or layer.kind} {layer.detail}".strip()]
        if len(box.layers) > 1:
            lines.append("and alike " + ", ".join(other.name for other in box.layers[1:]))
        lines += [f"{what} {self._described(s)}" for what, s in (("reads", layer.takes), ("gives", layer.gives)) if s]
        initializers = self.channels.model.ir.graph.initializers
        for name in layer.weights[:8]:
            lines.append(f"{name} {list(self.channels.trace.shape_of[initializers[name]])}")
        if layer.nodes:
            shown = [f"{node.op_type} '{node.name}'" for node in layer.nodes[:10]]
            lines.append("nodes: " + ", ".join(shown) + (" …" if len(layer.nodes) > len(shown) else ""))
        return "\n".join(lines)

    def _described(self, stripe: Stripe) -> str:
        stays = sum(size for family, size in stripe.runs if family == STAYS)
        words = [stripe.width, f"in {len(stripe.families)} families" if len(stripe.families) > 1 else ""]
        words.append("" if not stays else "all stay" if stays == stripe.size else f"{stays:,} of them stay")
        return ", ".join(word for word in words if word)

    def _connections(self, placed: Sequence[routing.Placed], offsets: Sequence[float]) -> Iterator[str]:
        """From the foot of each column to the head of the next."""
        for number, (column, after) in enumerate(pairwise(placed)):
            feet = sorted(n for n in column.spots if n < 0 and self._is_foot(n, placed))
            for place, foot in enumerate(feet):
                head = foot + self._ports(placed)
                start, end = column.spots[foot], after.spots[head]
                edge = next(line.edge for line in column.lines if line.target == foot)
                x1, x2 = start.x + offsets[number], end.x + offsets[number + 1]
                low, high = self.floor + 9 + 9 * place, self.tops - 9 - 9 * place
                turn = offsets[number] + column.width + 12 + 9 * place
                points = [(x1, start.top + self.tops), (x1, low), (turn, low), (turn, high), (x2, high)]
                points.append((x2, end.bottom + self.tops))
                yield from svg.edge(points, self.picture.edges[edge].stripe, self.colours, arrow=False)

    def _ports(self, placed: Sequence[routing.Placed]) -> int:
        """How many wires change columns."""
        return -min(min(column.spots, default=0) for column in placed) // 2

    def _is_foot(self, port: int, placed: Sequence[routing.Placed]) -> bool:
        return port < -self._ports(placed)

    # ---- legend -------------------------------------------------------------------------------------------------

    def _legend(self, x: float) -> Iterator[str]:
        y = float(HEAD) + 26
        yield svg.label(x, y, "Tied together, one colour each", "name")
        y += 10
        size = self.families.sizes()
        order = [family for family in range(self.families.count) if self.makers[family]]
        order.sort(key=lambda family: (len(self.makers[family]) < 2, family))
        for family in order[:LEGEND_ROWS]:
            yield svg.rectangle(x, y, 14, 26, radius=3, fill=self.colours[family])
            boxes = self.makers[family]
            own = sum(family in layer.gives.families for box in boxes for layer in box.layers if layer.gives)
            repeats = max(len(box.layers) for box in boxes) if own == len(boxes) else 1
            words = f"{size[family]:,} channels" + (f", {own} layers" if own > 1 else "")
            yield svg.label(x + 22, y + 11, words + (f", × {repeats} alike" if repeats > 1 else ""), "name")
            names = ", ".join(self._short(box.layer.name) for box in boxes)
            yield svg.label(x + 22, y + 24, svg.shorten(names, LEGEND - 22, 10), "detail")
            y += 34
        if len(order) > LEGEND_ROWS:
            yield svg.label(x, y + 8, f"and {len(order) - LEGEND_ROWS} more families", "detail")
            y += 20
        y += 12
        yield from self._signs(x, y)

    def _signs(self, x: float, y: float) -> Iterator[str]:
        yield svg.rectangle(x, y, 14, 14, radius=3, fill="url(#stays)")
        stuck = sum(pin.weights for pin in pins(self.channels))
        yield svg.label(x + 22, y + 11, f"stays: no unit can delete it ({stuck:,} weights)", "detail")
        y += 22
        for family, height, words in (
            (STAYS, 3.5, "at a box's top: what it reads"),
            (STAYS, 6, "below: what it gives"),
        ):
            yield svg.rectangle(x, y + 6 - height / 2, 14, height, fill=colours.GREY if family == STAYS else "")
            yield svg.label(x + 22, y + 10, words, "detail")
            y += 18
        signs = [("64", "number of channels that flow along")]
        if any(len(box.layers) > 1 for box in self.picture.boxes):
            signs.append(("× 3", "alike blocks, drawn once"))
        for sign, words in signs:
            yield svg.label(x + 7, y + 10, sign, "width middle")
            yield svg.label(x + 22, y + 10, words, "detail")
            y += 18
        self.legend_end = y


def _node(box: Box) -> layout.Node:
    layer = box.layer
    if layer.sign:
        return layout.Node(CIRCLE, CIRCLE, True, 1, box.block)
    if layer.kind == "merge":
        return layout.Node(BAR, 26, False, 1, box.block)
    if layer.kind == "layer":
        return layout.Node(BOX, BOX_HEIGHT, False, 3, box.block)
    return layout.Node(BAR, 28, False, 1, "")
