"""Twelve sentences in words of the small CLIP model, none of those of bench.clip_prompts, and what must be seen."""

from bench.clip_prompts import Promise

SENTENCES = (
    Promise("thick orange horizontal stripes", ("orange",), "horizontal", (10, 32)),
    Promise("thin green vertical lines on white", ("green",), "vertical", (3, 10)),
    Promise("thick yellow and blue diagonal stripes", ("yellow", "blue"), "diagonal", (10, 32)),
    Promise("cyan vertical waves", ("cyan",), "vertical", share=0.15),
    Promise("purple dots on yellow", ("purple", "yellow"), None),
    Promise("small pink spots on black", ("pink",), None, (3, 16)),
    Promise("large red and white checks", ("red",), None, (10, 40)),
    Promise("blue zigzags on a white background", ("blue",), None),
    Promise("black and white labyrinth", (), None),
    Promise("orange hexagons", ("orange",), None),
    Promise("green concentric circles", ("green",), None),
    Promise("brown bricks", ("orange",), None),  # brown is a dark orange
)
