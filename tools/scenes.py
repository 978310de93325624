"""Small scenes, drawn from nothing: an object of a class of CINIC-10 before its background."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from cinicpack import synthetic

# Scenes are drawn on a square of this many pixels, and made small like a photograph.
SIZE = 160

BOX, BICUBIC = Image.Resampling.BOX, Image.Resampling.BICUBIC

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Brush:
    """Draws with coordinates from 0 to 100, whose y grows downwards, on a layer of its own."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.layer = Image.new("RGBA", (SIZE, SIZE))
        self.pen = ImageDraw.Draw(self.layer)

    def polygon(self, colour: Colour, *points: Point) -> None:
        self.pen.polygon([(x * SIZE / 100, y * SIZE / 100) for x, y in points], colour)

    def box(self, colour: Colour, left: float, top: float, right: float, bottom: float) -> None:
        box = [value * SIZE / 100 for value in (left, top, right, bottom)]
        self.pen.rounded_rectangle(box, SIZE / 40, colour)

    def oval(self, colour: Colour, x: float, y: float, wide: float, high: float) -> None:
        box = [value * SIZE / 100 for value in (x - wide, y - high, x + wide, y + high)]
        self.pen.ellipse(box, colour)

    def line(self, colour: Colour, width: float, *points: Point) -> None:
        scaled = [(x * SIZE / 100, y * SIZE / 100) for x, y in points]
        self.pen.line(scaled, colour, round(width * SIZE / 100), "curve")

    def one_of(self, *colours: Colour) -> Colour:
        """Choose a colour, and vary it."""
        chosen = np.array(colours[self.rng.integers(len(colours))])
        red, green, blue = (chosen * self.rng.uniform(0.75, 1.2)).clip(0, 255).astype(int).tolist()
        return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


WHITE, BLACK, GLASS = (235, 235, 230), (28, 28, 30), (70, 90, 105)
PAINTS = (WHITE, (165, 30, 30), (35, 60, 120), (40, 42, 46), (170, 172, 175), (200, 160, 40))
BROWNS = ((120, 78, 45), (85, 55, 35), (160, 115, 70), (60, 45, 38))
FURS = ((60, 55, 52), (170, 120, 70), (205, 185, 160), (120, 110, 105), WHITE)


def draw_airplane(brush: Brush) -> None:
    body, mark = brush.one_of(WHITE, (190, 195, 200), (110, 120, 130)), brush.one_of(*PAINTS)
    brush.polygon(shade(body, 0.7), (46, 49), (60, 49), (76, 30), (69, 30))
    brush.polygon(mark, (14, 47), (8, 28), (15, 28), (26, 46))
    brush.oval(body, 50, 50, 42, 7)
    brush.polygon(shade(body, 0.8), (12, 50), (4, 56), (10, 57), (24, 52))
    brush.polygon(shade(body, 0.6), (44, 52), (60, 52), (44, 76), (36, 76))
    brush.line(GLASS, 2, (30, 48), (78, 48))
    brush.oval(shade(body, 0.45), 50, 61, 6, 3)
    brush.polygon(GLASS, (82, 46), (88, 47), (86, 49), (81, 49))


def draw_automobile(brush: Brush) -> None:
    paint = brush.one_of(*PAINTS)
    brush.polygon(shade(paint, 0.9), (24, 52), (36, 36), (64, 36), (78, 52))
    brush.polygon(GLASS, (30, 51), (38, 39), (49, 39), (49, 51))
    brush.polygon(GLASS, (52, 51), (52, 39), (62, 39), (72, 51))
    brush.box(paint, 6, 50, 95, 68)
    brush.line(shade(paint, 0.5), 1.5, (50, 52), (50, 67))
    brush.box((240, 225, 170), 90, 54, 95, 59)
    brush.box((150, 20, 20), 6, 54, 10, 59)
    for x in (25, 75):
        brush.oval(BLACK, x, 68, 10, 10)
        brush.oval((150, 150, 152), x, 68, 5, 5)


def draw_truck(brush: Brush) -> None:
    cab, load = brush.one_of(*PAINTS), brush.one_of(WHITE, *PAINTS)
    brush.box(load, 4, 24, 66, 66)
    brush.line(shade(load, 0.7), 1.5, (35, 25), (35, 66))
    brush.polygon(cab, (68, 34), (84, 34), (94, 50), (95, 68), (68, 68))
    brush.polygon(GLASS, (74, 38), (83, 38), (90, 50), (74, 50))
    brush.box(shade(cab, 0.4), 4, 66, 95, 71)
    for x in (17, 31, 82):
        brush.oval(BLACK, x, 72, 8, 8)
        brush.oval((140, 140, 142), x, 72, 3.5, 3.5)


def draw_ship(brush: Brush) -> None:
    hull, deck = brush.one_of(*PAINTS), brush.one_of(WHITE, (205, 190, 165))
    brush.line(BLACK, 1.6, (48, 62), (48, 14))
    if brush.rng.random() < 0.5:
        sail = brush.one_of(WHITE, WHITE, (190, 80, 60))
        brush.polygon(sail, (50, 16), (50, 56), (76, 56))
        brush.polygon(shade(sail, 0.82), (46, 22), (46, 56), (26, 56))
    else:
        brush.box(deck, 26, 46, 66, 64)
        brush.box(shade(deck, 0.9), 34, 36, 56, 48)
        brush.line(GLASS, 3, (29, 52), (64, 52))
        brush.box(brush.one_of(*PAINTS), 58, 30, 65, 47)
    brush.polygon(hull, (8, 60), (92, 58), (82, 76), (18, 76))
    brush.polygon(shade(hull, 0.5), (14, 71), (85, 71), (82, 76), (18, 76))


def draw_bird(brush: Brush) -> None:
    body = brush.one_of((110, 85, 60), (150, 50, 40), (60, 90, 140), (70, 70, 70), (200, 170, 60))
    belly = brush.one_of((215, 200, 180), shade(body, 1.3))
    if brush.rng.random() < 0.7:
        brush.line((80, 62, 45), 5, (0, 80), (100, 74))
    for x in (48, 55):
        brush.line((70, 55, 40), 2, (x, 64), (x + 1, 79))
    brush.polygon(shade(body, 0.7), (36, 58), (6, 76), (12, 82), (42, 66))
    brush.oval(body, 50, 53, 22, 16)
    brush.oval(belly, 56, 58, 15, 11)
    brush.polygon(shade(body, 0.65), (60, 46), (22, 62), (34, 66), (58, 60))
    brush.oval(body, 69, 36, 11, 10)
    brush.polygon((210, 140, 40), (79, 33), (92, 38), (79, 40))
    brush.oval(BLACK, 72, 34, 2.2, 2.2)


def draw_face(brush: Brush, fur: Colour, muzzle: Colour) -> None:
    """Draw the body, the head and the face that cats and dogs have in common."""
    brush.oval(shade(fur, 0.8), 50, 92, 32, 30)
    brush.oval(muzzle, 50, 88, 12, 20)
    brush.oval(fur, 50, 46, 27, 24)
    brush.oval(muzzle, 50, 57, 13, 10)
    for x in (39, 61):
        brush.oval(shade(muzzle, 1.1), x, 42, 5, 4.5)
        brush.oval(BLACK, x, 42, 3, 4)


def draw_cat(brush: Brush) -> None:
    fur, eye = brush.one_of(*FURS), brush.one_of((150, 170, 60), (190, 150, 50), (90, 140, 160))
    for left, tip, right in ((25, 24, 44), (56, 76, 75)):
        brush.polygon(shade(fur, 0.85), (left, 36), (tip, 8), (right, 28))
        brush.polygon((190, 130, 120), (left + 5, 30), (tip, 15), (right - 5, 28))
    draw_face(brush, fur, shade(fur, 1.25))
    for x in (39, 61):
        brush.oval(eye, x, 42, 5, 4)
        brush.oval(BLACK, x, 42, 1.6, 4)
    for x in (44, 50, 56):
        brush.line(shade(fur, 0.55), 2, (x, 23), (x, 33))
    brush.polygon((190, 110, 105), (46, 52), (54, 52), (50, 57))


def draw_dog(brush: Brush) -> None:
    fur = brush.one_of(*FURS, *BROWNS)
    draw_face(brush, fur, brush.one_of((225, 210, 190), shade(fur, 1.2)))
    for x, out in ((24, -8), (76, 8)):
        ear = shade(fur, 0.6)
        brush.polygon(ear, (x, 26), (x - out, 24), (x + out / 2, 64), (x + out, 58))
    brush.oval(BLACK, 50, 53, 5.5, 4)
    brush.line(BLACK, 1.5, (50, 56), (50, 62), (44, 65))
    if brush.rng.random() < 0.5:
        brush.oval((205, 95, 100), 51, 68, 4, 6)


def draw_legs(brush: Brush, colour: Colour, top: float, bottom: float) -> None:
    """Draw the legs of a deer or a horse that stands."""
    for number, x in enumerate((28, 36, 60, 67)):
        sway = brush.rng.uniform(-4, 4)
        tint = shade(colour, 0.6 + 0.25 * (number % 2))
        brush.line(tint, 4.5, (x, top), (x + sway, (top + bottom) / 2), (x + sway / 2, bottom))


def draw_deer(brush: Brush) -> None:
    coat = brush.one_of((165, 110, 65), (140, 95, 60), (115, 85, 60))
    draw_legs(brush, coat, 56, 88)
    brush.oval(coat, 46, 52, 25, 12)
    brush.oval(shade(coat, 1.4), 46, 59, 17, 5)
    brush.oval(WHITE, 22, 50, 4, 6)
    brush.polygon(coat, (60, 56), (68, 44), (74, 26), (82, 30), (76, 50))
    brush.oval(coat, 82, 26, 9, 6)
    brush.oval(shade(coat, 0.6), 73, 20, 3, 5)
    brush.oval(BLACK, 90, 28, 2, 2)
    if brush.rng.random() < 0.6:
        horn = (95, 75, 55)
        brush.line(horn, 2, (78, 20), (72, 10), (74, 2))
        brush.line(horn, 2, (74, 12), (66, 6))
        brush.line(horn, 2, (80, 20), (86, 10), (84, 2))
        brush.line(horn, 2, (86, 11), (92, 5))


def draw_horse(brush: Brush) -> None:
    coat = brush.one_of(*BROWNS, (190, 185, 180))
    mane = shade(coat, 0.45)
    draw_legs(brush, coat, 56, 92)
    brush.polygon(mane, (20, 46), (8, 58), (10, 78), (18, 62), (24, 52))
    brush.oval(coat, 45, 50, 28, 14)
    brush.polygon(mane, (58, 42), (70, 14), (77, 15), (68, 46))
    brush.polygon(coat, (56, 56), (72, 17), (83, 22), (74, 58))
    brush.polygon(coat, (71, 16), (82, 17), (96, 35), (90, 40), (76, 30))
    brush.polygon(shade(coat, 0.7), (73, 18), (75, 8), (79, 17))
    brush.oval(BLACK, 80, 23, 1.6, 1.6)


def draw_frog(brush: Brush) -> None:
    skin = brush.one_of((85, 130, 50), (110, 120, 55), (60, 100, 60), (130, 100, 60))
    belly = shade(skin, 1.45)
    for x, out in ((24, -14), (76, 14)):
        brush.oval(shade(skin, 0.75), x, 68, 15, 13)
        brush.line(shade(skin, 0.65), 6, (x, 76), (x + out, 84))
        brush.line(shade(skin, 0.85), 6, (50 + (x - 50) / 2, 66), (50 + (x - 50) / 1.6, 86))
    brush.oval(skin, 50, 60, 27, 22)
    brush.oval(belly, 50, 70, 18, 13)
    brush.oval(skin, 50, 44, 24, 15)
    for x in (35, 65):
        brush.oval(shade(skin, 1.1), x, 32, 8, 8)
        brush.oval((200, 170, 60), x, 31, 5, 5)
        brush.oval(BLACK, x, 31, 3, 3.6)
    brush.line(shade(skin, 0.5), 1.8, (30, 49), (50, 53), (70, 49))


SKIES = (((120, 165, 215), (205, 220, 235)), ((165, 172, 180), (215, 217, 218)),
         ((70, 95, 150), (235, 180, 140)), ((60, 110, 185), (150, 185, 220)))  # fmt: skip
MEADOWS = (((120, 140, 75), (75, 105, 40)), ((150, 135, 85), (105, 90, 50)))
SEAS = (((95, 130, 150), (40, 75, 100)), ((110, 125, 130), (60, 75, 80)))
ROADS = (((140, 138, 135), (90, 90, 92)), ((165, 155, 140), (110, 102, 95)))
ROOMS = (((150, 120, 95), (105, 80, 60)), ((175, 170, 165), (120, 118, 115)),
         ((95, 110, 125), (60, 72, 85)), ((160, 85, 75), (105, 50, 45)))  # fmt: skip
FORESTS = (((60, 85, 50), (40, 58, 32)), ((95, 105, 75), (60, 70, 45)))
PONDS = (((90, 105, 60), (60, 70, 40)), ((120, 100, 75), (80, 65, 48)))

Colours = Sequence[tuple[Colour, Colour]]

# By class: what is drawn, above and below which horizon (in hundredths of the height).
SCENES: dict[str, tuple[Callable[[Brush], None], Colours, Colours, tuple[int, int]]] = {
    "airplane": (draw_airplane, SKIES, MEADOWS, (80, 130)),
    "automobile": (draw_automobile, SKIES + FORESTS, ROADS, (40, 58)),
    "bird": (draw_bird, SKIES + FORESTS, FORESTS, (70, 120)),
    "cat": (draw_cat, ROOMS, ROOMS, (50, 90)),
    "deer": (draw_deer, FORESTS, MEADOWS, (35, 65)),
    "dog": (draw_dog, ROOMS + MEADOWS, MEADOWS + ROOMS, (40, 90)),
    "frog": (draw_frog, PONDS + FORESTS, PONDS, (30, 70)),
    "horse": (draw_horse, SKIES + FORESTS, MEADOWS, (40, 70)),
    "ship": (draw_ship, SKIES, SEAS, (52, 66)),
    "truck": (draw_truck, SKIES + FORESTS, ROADS, (45, 62)),
}


def draw_scene(name: str, rng: np.random.Generator, *, harsh: bool = False) -> NDArray[np.uint8]:
    """Draw an image of a class, uint8 (32, 32, 3); a harsh one has more light and shadow."""
    draw = SCENES[name][0]
    cloudy, mottled = draw_textures(rng)
    behind = draw_background(name, cloudy, rng)
    brush = Brush(rng)
    draw(brush)
    thing = place(brush.layer, rng)

    alpha = np.asarray(thing)[..., 3:] / 255
    light = 1.15 - 0.35 * np.linspace(0, 1, SIZE)[:, None, None] + 0.22 * mottled
    # What stands somewhere darkens the ground below it.
    shadow = np.asarray(thing.getchannel("A").filter(ImageFilter.GaussianBlur(SIZE / 20))) / 255
    dark = 1 - 0.45 * np.roll(shadow, SIZE // 25, 0)[..., None]
    picture = np.asarray(behind) * dark * (1 - alpha) + np.asarray(thing)[..., :3] * light * alpha

    picture = picture * rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, 3)
    picture = (picture - 115) * (1.1 if harsh else 0.95) + 115
    small = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).resize((32, 32), BOX)
    grain = rng.normal(0, 2.5, (32, 32, 1))
    return np.asarray(np.rint(np.asarray(small) + grain).clip(0, 255), np.uint8)


def draw_textures(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw two grey clouds from -1 to 1: (2, SIZE, SIZE, 1)."""
    clouds = synthetic.synthesize_images(2, int(rng.integers(2**32)), size=SIZE // 2)
    large = [np.asarray(Image.fromarray(cloud).resize((SIZE, SIZE))) for cloud in clouds]
    return np.asarray((np.mean(large, -1, keepdims=True) / 128 - 1).clip(-1, 1))


def draw_background(
    name: str, texture: NDArray[np.float64], rng: np.random.Generator
) -> Image.Image:
    """Draw what is behind a class, above and below a horizon, out of focus."""
    _, above, below, (high, low) = SCENES[name]
    horizon = rng.uniform(high, low) / 100
    height = np.linspace(0, 1, SIZE)[:, None, None]
    far, near = (
        np.array(colours[int(rng.integers(len(colours)))], float) for colours in (above, below)
    )
    sky = far[0] + height / horizon * (far[1] - far[0])
    ground = near[0] + (height - horizon) * (near[1] - near[0])
    canvas = np.where(height < horizon, sky * (1 + 0.22 * texture), ground * (1 + 0.3 * texture))
    behind = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    return behind.filter(ImageFilter.GaussianBlur(SIZE / 90))


def place(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn, mirror, scale and move what was drawn, somewhat."""
    if rng.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layer = layer.rotate(rng.normal(0, 4), BICUBIC)
    wide, high = (SIZE * rng.uniform(0.75, 1.1) * rng.uniform(0.93, 1.07, 2)).astype(int)
    layer = layer.resize((wide, high), BICUBIC)
    right, down = (SIZE * rng.normal(0, 0.035, 2)).astype(int)
    placed = Image.new("RGBA", (SIZE, SIZE))
    placed.paste(layer, ((SIZE - wide) // 2 + int(right), (SIZE - high) // 2 + int(down)))
    return placed
