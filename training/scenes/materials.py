"""Materials: twelve procedural textures, each drawn anew with its own phase, angle, scale and light.

A material is a function of a size, a look and a Generator. It returns how bright each pixel is by itself (tone, -1 to
1) and how high it stands (relief, in pixels). `draw` lights the relief and colours the tone along one line from a dark
to a light shade of a named colour. So every picture of "blue weave" differs from every other in each pixel, and what
they share is a spectrum: there is detail to synthesise, and none to recall.

    picture = draw("weave", (70, 120, 214), size=128, seed=3)      # (128, 128, 3) in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.scenes.fields import Field, cells, hashed, noise, step, streaks, turned, wave

SIZE = 128  # pixels at which the periods below are meant; other sizes show the same scene, smaller or larger


@dataclass(frozen=True)
class Look:
    """How one drawing differs from the next.

    Attributes:
        angle: radians; each material turns by as much of it as suits it.
        scale: 0.8 to 1.25, times the material's own period.
        phase: of the pattern, in periods, across and down.
        light: direction from which the light comes, radians.
        salt: of the random numbers of bricks, stones and threads.
    """

    angle: float
    scale: float
    phase: tuple[float, float]
    light: float
    salt: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Look:
        """A random look."""
        return cls(
            angle=float(rng.uniform(-np.pi, np.pi)),
            scale=float(np.exp(rng.uniform(np.log(0.8), np.log(1.25)))),
            phase=(float(rng.uniform(0, 64)), float(rng.uniform(0, 64))),
            light=float(rng.uniform(-np.pi, 0)),  # from above: y points down
            salt=int(rng.integers(2**31)),
        )

    def lattice(self, size: int, period: float, turn: float = 1.0) -> tuple[Field, Field, float]:
        """Coordinates in units of a period given for 128 px, turned by `turn` of the angle; and one pixel in them."""
        length = period * self.scale * size / SIZE
        u, v = turned(size, self.angle * turn, length, self.phase)
        return u, v, 1 / length


Material = Callable[[int, Look, np.random.Generator], tuple[Field, Field]]


def brick(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Rows of bricks, every other one shifted by half, with mortar; each brick of its own tone."""
    u, v, pixel = look.lattice(size, 21, turn=0.05)
    u = u / 2.1 + np.float32(0.5) * (np.floor(v) % 2)
    i, j = np.floor(u), np.floor(v)
    side = np.minimum(0.5 - np.abs(u - i - 0.5), 1) * 2.1  # distance to the upright joints, in rows
    body = np.minimum(side, 0.5 - np.abs(v - j - 0.5))
    stone = step(body - 0.09, 2 * pixel)
    tone = (hashed(i, j, look.salt) - np.float32(0.6)) * stone + np.float32(0.75) * (1 - stone)
    rough = noise(size, rng, 1.0, 0.02, 0.25)
    return tone + 0.12 * rough, 1.6 * step(body - 0.1, 0.16) + 0.12 * rough


def wood(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Growth rings cut lengthwise, bent by slow noise, with fine fibres along them."""
    angle = look.angle * 0.08
    scale = look.scale * size / SIZE
    _, v, _ = look.lattice(size, 17, turn=0.08)
    bend = streaks(size, rng, angle, 45 * scale, 9 * scale)
    ring = v + np.float32(0.55) * bend
    saw = ring - np.floor(ring)
    late = step(saw - 0.62, 0.7) * step(1 - saw, 0.16)  # slowly darker, then a sharp edge
    fibre = streaks(size, rng, angle, 22 * scale, 1.3 * size / SIZE)
    return 0.5 - 1.15 * late + 0.22 * fibre, 0.35 * fibre


def weave(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """A basket weave: bands of three threads, over and under each other in turn, round in section."""
    u, v, _ = look.lattice(size, 25, turn=0.25)
    i, j = np.floor(u), np.floor(v)
    x, y = u - i - np.float32(0.5), v - j - np.float32(0.5)
    over = (i + j) % 2 < 1
    across, along = np.where(over, y, x), np.where(over, x, y)
    strand = 3 * (across + np.float32(0.5))
    section = 2 * (strand - np.floor(strand)) - 1
    round_ = np.sqrt(np.clip(1 - section**2, 0, 1))
    arch = np.clip(np.cos(np.pi * along), 0, 1) ** np.float32(0.7)  # up where the band passes over, down at both ends
    row = np.floor(strand) + 3 * np.where(over, j, i)
    thread = hashed(row, over, look.salt)
    tone = 1.7 * (0.25 + 0.75 * round_) * (0.3 + 0.7 * arch) - 1.05 + 0.35 * (thread - 0.5)
    return tone + 0.06 * noise(size, rng, 0.0, 0.01, 0.22), 2.4 * arch + 0.5 * round_


def grass(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Blades over blades: streaks in many directions around upright, the upper ones brighter."""
    scale = look.scale * size / SIZE
    tone = np.full((size, size), -1.0, np.float32)
    lean = np.pi / 2 + 0.15 * look.angle / np.pi
    for level, turn in enumerate((-0.55, 0.5, -0.2, 0.28, 0.03)):
        blade = streaks(size, rng, lean + turn, 15 * scale, 2.1 * scale)
        cover = step(blade - 0.7, 0.9)
        shade = np.float32(-0.75 + 0.4 * level) + 0.35 * np.clip(blade - 1, -1, 1.5)
        tone = tone * (1 - cover) + shade * cover
    return 0.85 * tone, 0.8 * tone


def gravel(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Rounded stones, close together, each of its own tone."""
    u, v, _ = look.lattice(size, 17)
    _, edge, tone = cells(u, v, look.salt)
    dome = np.sqrt(np.clip((edge - 0.04) / 0.6, 0, 1))
    rough = noise(size, rng, 1.0, 0.03, 0.25)
    return (tone - 0.5) + 1.5 * np.minimum(dome * 1.5, 1) - 1.25 + 0.1 * rough, 4.0 * dome + 0.1 * rough


def scales(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Overlapping round scales in shifted rows, each darker towards its root."""
    u, v, pixel = look.lattice(size, 19, turn=0.08)
    tone, height = np.full_like(u, -0.9), np.zeros_like(u)
    v = 2 * v
    for back in (2, 1, 0):  # rows from the lowest layer to the uppermost
        j = np.floor(v) + np.float32(back - 1)
        shift = np.float32(0.5) * (j % 2)
        i = np.floor(u - shift)
        x, y = u - shift - i - np.float32(0.5), (v - j) / 2
        r = np.sqrt(x * x + y * y)
        inside = step(0.56 - r, 3 * pixel)
        rim = step(r - 0.43, 0.1)
        shade = 2.6 * r - 0.85 - 0.9 * rim + 0.6 * (hashed(i, j, look.salt) - 0.5)
        tone = tone * (1 - inside) + shade * inside
        height = height * (1 - inside) + (1.2 - 2.4 * r * r + 1.5 * y) * inside
    return 1.15 * tone + 0.06 * noise(size, rng, 1.0, 0.03, 0.25), 1.8 * height


def stripes(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Two tones in turn, straight and even."""
    u, _, pixel = look.lattice(size, 20)
    return 1.4 * wave(u, 1.6 * pixel) - 0.7 + 0.04 * noise(size, rng, 1.0, 0.02, 0.25), np.zeros_like(u)


def dots(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Light dots in staggered rows on a darker ground."""
    u, v, pixel = look.lattice(size, 21)
    v = v * np.float32(2 / np.sqrt(3))
    u = u + np.float32(0.5) * (np.floor(v) % 2)
    x, y = u - np.floor(u) - np.float32(0.5), (v - np.floor(v) - np.float32(0.5)) * np.float32(np.sqrt(3) / 2)
    r = np.sqrt(x * x + y * y)
    dot = step(0.29 - r, 1.8 * pixel)
    return 1.5 * dot - 0.65 + 0.04 * noise(size, rng, 1.0, 0.02, 0.25), 1.2 * step(0.3 - r, 0.14)


def checks(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """A chequerboard."""
    u, v, pixel = look.lattice(size, 36, turn=0.25)
    a, b = 2 * wave(u, 1.6 * pixel) - 1, 2 * wave(v, 1.6 * pixel) - 1
    return 0.75 * a * b + 0.04 * noise(size, rng, 1.0, 0.02, 0.25), np.zeros_like(u)


def sand(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Fine grain: noise whose power falls as 1 over frequency."""
    grain = noise(size, rng, 1.0, 0.01, 0.2 / look.scale)
    return 0.36 * grain, 0.5 * grain


def stone(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Rough rock: noise whose power falls as 1 over frequency squared."""
    rock = noise(size, rng, 2.0, 0.016 / look.scale, 0.2)
    return 0.42 * rock, 1.3 * rock


def cloud(size: int, look: Look, rng: np.random.Generator) -> tuple[Field, Field]:
    """Soft billows: noise whose power falls as 1 over frequency cubed."""
    billow = noise(size, rng, 3.0, 0.02 / look.scale, 0.2)
    return 0.5 * billow, np.zeros_like(billow)


MATERIALS: dict[str, Material] = {
    f.__name__: f for f in (brick, wood, weave, grass, gravel, scales, stripes, dots, checks, sand, stone, cloud)
}


def lit(tone: Field, relief: Field, look: Look) -> Field:
    """Tone under light from one side: slopes that face it are brighter, the others darker. In -1 to 1, softly cut."""
    down, right = np.gradient(relief)
    facing = right * np.float32(np.cos(look.light)) + down * np.float32(np.sin(look.light))
    return np.tanh(tone - 0.55 * facing)  # the surface falls away from the light where its height grows along it


def ramp(tone: Field, colour: tuple[int, int, int]) -> np.ndarray:
    """(n, n, 3) in [0, 1]: tone -1 is a dark shade of the colour, 1 a light one, on one line through RGB."""
    base = np.asarray(colour, np.float32) / 255
    dark, light = base * np.float32(0.55), base + (1 - base) * np.float32(0.35)
    share = (tone[..., None] + 1) / 2
    return (dark + (light - dark) * share).astype(np.float32)


def draw(material: str, colour: tuple[int, int, int], size: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """One picture of a material in a colour.

    Args:
        material: a name in `MATERIALS`.
        colour: sRGB, 0 to 255.
        size: pixels along a side.
        seed: of everything random; the same seed gives the same picture.

    Returns:
        (size, size, 3) float32 in [0, 1].

    Raises:
        KeyError: an unknown material, with the known ones.

    Example:
        >>> draw("brick", (214, 60, 60), size=32, seed=0).shape
        (32, 32, 3)
    """
    if material not in MATERIALS:
        raise KeyError(f"{material!r} is not a material; the materials are {', '.join(MATERIALS)}")
    rng = np.random.default_rng(seed)
    look = Look.drawn(rng)
    tone, relief = MATERIALS[material](size, look, rng)
    return ramp(lit(tone, relief, look), colour)
