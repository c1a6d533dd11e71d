"""The kinds of pictures that the small CLIP model knows, and the words for them.

Kinds of `FIRST` are patterns of lines and spots; `SURFACES` are materials, coats, weather and plants; `SHAPES` are
things and letters, one of them again and again on a lattice.
"""

import string
from dataclasses import dataclass

THICKNESS = {"thin": ("thin", "narrow", "fine"), "thick": ("thick", "wide", "broad")}
EXTENT = {"small": ("small", "tiny", "little"), "large": ("large", "big", "huge")}


@dataclass(frozen=True)
class Kind:
    """What a pattern is called, and which attributes it has.

    Args:
        nouns: Names in the plural or as a mass ("bricks", "noise").
        adjectives: As in "a striped pattern".
        scales: Names of small and large, with their synonyms; empty where scale has no meaning.
        oriented: It runs in one direction.
        symmetric: Both colours play the same part, so "on" tells nothing.
        dense: It can be sparse or dense.
        usual: Colours that it has when a caption names none, as zebras are black and white.
        colourful: It has many colours of its own, and a caption names none.
    """

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...] = ()
    scales: dict | None = None
    oriented: bool = False
    symmetric: bool = False
    dense: bool = False
    usual: tuple[tuple[str, str], ...] = ()
    colourful: bool = False


FIRST = {
    "plain": Kind(("colour", "color"), ("plain", "solid", "uniform")),
    "stripes": Kind(("stripes", "lines", "bars"), ("striped",), THICKNESS, oriented=True, symmetric=True),
    "waves": Kind(("waves", "wavy lines", "wavy stripes"), ("wavy",), THICKNESS, oriented=True, symmetric=True),
    "zigzags": Kind(("zigzags", "chevrons", "zigzag lines"), ("zigzag",), THICKNESS, oriented=True, symmetric=True),
    "checks": Kind(("checks", "squares", "checkerboard"), ("checkered",), EXTENT, symmetric=True),
    "grid": Kind(("grid", "grid lines", "mesh"), (), EXTENT),
    "honeycomb": Kind(("honeycomb", "hexagons"), (), EXTENT),
    "dots": Kind(("dots", "polka dots", "discs"), ("dotted",), EXTENT, dense=True),
    "rings": Kind(("rings", "circles"), (), EXTENT, dense=True),
    "target": Kind(("concentric rings", "concentric circles", "target"), ("concentric",), THICKNESS, symmetric=True),
    "spots": Kind(("spots", "blobs", "patches"), ("spotted",), EXTENT, dense=True),
    "maze": Kind(("maze", "labyrinth"), (), THICKNESS, symmetric=True),
    "zebra": Kind(
        ("zebra", "zebra stripes", "zebra skin", "zebra fur"),
        scales=THICKNESS,
        symmetric=True,
        usual=(("black", "white"),),
    ),
    "leopard": Kind(
        ("leopard", "leopard fur", "leopard spots", "leopard skin", "jaguar fur"),
        scales=EXTENT,
        usual=(("black", "orange"), ("black", "yellow"), ("black", "brown")),
    ),
    "bricks": Kind(
        ("bricks", "brick wall", "brick", "masonry"),
        scales=EXTENT,
        usual=(("red", "grey"), ("red", "white"), ("brown", "grey"), ("orange", "grey")),
    ),
    "clouds": Kind(("clouds", "smoke", "fog"), ("cloudy",), symmetric=True, usual=(("white", "blue"),)),
    "noise": Kind(("noise", "random noise", "static"), ("noisy", "random"), colourful=True),
}

SURFACES = {
    # Materials
    "wood": Kind(
        ("wood", "wood grain", "timber", "oak"), oriented=True, usual=(("brown", "beige"), ("brown", "orange"))
    ),
    "marble": Kind(("marble", "marble veins"), usual=(("grey", "white"), ("white", "black"), ("gold", "black"))),
    "cobbles": Kind(
        ("cobblestones", "pebbles", "stones"),
        scales=EXTENT,
        usual=(("grey", "black"), ("brown", "black"), ("beige", "brown")),
    ),
    "cracks": Kind(("cracks", "cracked mud", "cracked earth"), ("cracked",), EXTENT, usual=(("black", "brown"),)),
    "stained": Kind(("stained glass", "mosaic"), scales=EXTENT, colourful=True),
    "ice": Kind(("ice", "crystals", "frost"), ("icy", "frozen"), usual=(("cyan", "white"), ("blue", "white"))),
    "tiles": Kind(("tiles", "ceramic tiles"), ("tiled",), EXTENT, usual=(("white", "grey"), ("blue", "white"))),
    "weave": Kind(("weave", "basket", "wicker"), ("woven",), EXTENT, usual=(("beige", "brown"), ("brown", "black"))),
    "knit": Kind(("wool", "knitting", "knitted wool"), ("knitted",), EXTENT),
    "plaid": Kind(("plaid", "tartan", "gingham"), scales=EXTENT),
    "herringbone": Kind(("herringbone", "parquet"), scales=EXTENT, usual=(("brown", "black"), ("beige", "brown"))),
    "houndstooth": Kind(("houndstooth",), symmetric=True, usual=(("black", "white"),)),
    "denim": Kind(("denim",), usual=(("blue", "white"), ("navy", "white"))),
    "sand": Kind(("sand", "dunes", "desert"), ("sandy",), usual=(("beige", "brown"), ("gold", "brown"))),
    "granite": Kind(("granite", "gravel", "speckles"), ("speckled",), usual=(("black", "grey"), ("white", "grey"))),
    "rust": Kind(("rust",), ("rusty",), usual=(("brown", "orange"), ("orange", "grey"))),
    "camouflage": Kind(("camouflage",), usual=(("green", "brown"), ("olive", "beige"), ("olive", "brown"))),
    "bubbles": Kind(("bubbles", "foam", "soap bubbles"), usual=(("white", "blue"), ("white", "cyan"))),
    "holes": Kind(("holes", "sponge", "cheese"), usual=(("black", "yellow"), ("brown", "yellow"))),
    "confetti": Kind(("confetti", "sprinkles"), colourful=True),
    "net": Kind(("net", "fence", "lattice"), scales=EXTENT),
    "diamonds": Kind(("diamonds", "argyle", "rhombs"), scales=EXTENT, symmetric=True),
    "triangles": Kind(("triangles",), ("triangular",), EXTENT, symmetric=True),
    "spiral": Kind(("spiral", "swirl", "whirl"), scales=THICKNESS, symmetric=True),
    "sunburst": Kind(("sunburst", "rays"), symmetric=True, usual=(("orange", "yellow"), ("white", "yellow"))),
    "gradient": Kind(
        ("gradient", "sunset", "dawn"),
        symmetric=True,
        usual=(("orange", "purple"), ("navy", "orange"), ("blue", "pink")),
    ),
    "rainbow": Kind(("rainbow", "rainbow stripes"), colourful=True),
    # Coats
    "tiger": Kind(("tiger", "tiger fur", "tiger stripes", "tiger skin"), usual=(("black", "orange"),)),
    "cheetah": Kind(("cheetah", "cheetah fur"), scales=EXTENT, usual=(("black", "gold"), ("black", "beige"))),
    "giraffe": Kind(("giraffe", "giraffe skin", "giraffe fur"), scales=EXTENT, usual=(("brown", "beige"),)),
    "cow": Kind(("cow", "cow hide", "cow skin", "cattle"), usual=(("black", "white"), ("brown", "white"))),
    "dalmatian": Kind(("dalmatian", "dalmatian fur", "dog fur"), usual=(("black", "white"),)),
    "ladybird": Kind(("ladybird", "ladybug"), scales=EXTENT, usual=(("black", "red"),)),
    "snake": Kind(("snake", "snake skin", "python"), scales=EXTENT, usual=(("olive", "black"), ("brown", "beige"))),
    "scales": Kind(("scales", "fish scales", "shingles", "roof"), ("scaly",), EXTENT),
    "feathers": Kind(("feathers", "plumage"), ("feathered",), EXTENT),
    # Weather and water
    "rain": Kind(
        ("rain", "drizzle", "raindrops"), ("rainy",), dense=True, usual=(("white", "grey"), ("white", "blue"))
    ),
    "snow": Kind(
        ("snow", "snowfall", "blizzard"), ("snowy",), dense=True, usual=(("white", "grey"), ("white", "blue"))
    ),
    "night": Kind(("starry sky", "night", "night sky"), ("starry",), usual=(("white", "black"), ("white", "navy"))),
    "lightning": Kind(("lightning", "storm", "thunder"), ("stormy",), usual=(("white", "navy"), ("yellow", "black"))),
    "water": Kind(("water", "sea", "ocean", "pool"), usual=(("white", "cyan"), ("cyan", "blue"), ("white", "blue"))),
    "fire": Kind(("fire", "flames", "lava"), ("burning",), usual=(("orange", "black"), ("yellow", "red"))),
    # Plants
    "grass": Kind(("grass", "lawn", "meadow", "hay"), ("grassy",), usual=(("green", "olive"), ("green", "black"))),
    "moss": Kind(("moss",), ("mossy",), usual=(("green", "olive"), ("green", "black"))),
    "bark": Kind(("bark", "tree bark"), usual=(("brown", "black"), ("grey", "black"))),
    "leaves": Kind(("leaves", "foliage"), ("leafy",), EXTENT, usual=(("green", "olive"), ("green", "black"))),
    "flowers": Kind(("flowers", "daisies", "blossoms", "petals"), ("floral",), EXTENT),
}

THINGS = ("hearts", "stars", "crosses", "moons", "drops", "arrows", "fish", "butterflies", "trees", "mushrooms", "eyes")
NAMES = {
    "hearts": ("heart",),
    "stars": ("star",),
    "crosses": ("cross", "plus"),
    "moons": ("moon", "crescents"),
    "arrows": ("arrow",),
    "trees": ("tree", "pines"),
    "suns": ("sun",),
    "paws": ("paw prints",),
}
SHAPES = {name: Kind((name, *NAMES.get(name, ())), scales=EXTENT) for name in (*THINGS, "suns", "paws", "clover")}
LETTERS = {
    f"letter {letter}": Kind((f"letter {letter}", f"letters {letter}", f"letter {letter} shapes"), scales=EXTENT)
    for letter in string.ascii_lowercase
}

KINDS = FIRST | SURFACES | SHAPES | LETTERS
# How often each group is drawn: the first patterns must stay known, and there are many letters.
SHARES = ((FIRST, 0.42), (SURFACES, 0.36), (SHAPES, 0.11), (LETTERS, 0.11))
