"""One colour for each family: strong ones for those that several layers must agree on, pale ones for the others."""

import colorsys
from collections.abc import Sequence

GREY = "#9aa3af"
#: The hue that is furthest from all before it, again and again.
GOLDEN = 0.618033988749895
STRONG = ((0.46, 0.68), (0.60, 0.62), (0.36, 0.60))
PALE = ((0.70, 0.38), (0.60, 0.26), (0.78, 0.50))


def choose(is_shared: Sequence[bool]) -> list[str]:
    """A colour for each family, no two the same: `#rrggbb`."""
    found: list[str] = []
    taken: set[str] = {GREY}
    numbers = {True: 0, False: 0}
    for shared in is_shared:
        while True:
            number = numbers[shared]
            numbers[shared] += 1
            tones = STRONG if shared else PALE
            lightness, saturation = tones[number // 8 % len(tones)]
            hue = (0.58 if shared else 0.1) + number * GOLDEN
            red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
            colour = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
            if colour not in taken:
                break
        taken.add(colour)
        found.append(colour)
    return found


def tint(colour: str, share: float) -> str:
    """A colour mixed with white; `share` of it is left."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - (255 - part) * share):02x}" for part in parts)
