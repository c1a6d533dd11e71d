"""A film with a map: three automata of the shelf on one canvas, where a picture says which of them lives where.

python examples/film.py [STEPS]        ends with map.png and film.mp4
"""

import sys

import torch

from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.media.images import save_image
from nca_fast.rendering.film import film

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 480
height, width = 180, 320
y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, height), torch.linspace(-0.9, 0.9, width), indexing="ij")
river = ((y - 0.12 * torch.sin(7 * x)).abs() < 0.13).float()  # 1 is white
island = ((x - 0.3).square() + (y - 0.1).square() < 0.03).float()
map_of_places = torch.maximum(river, island).mul(0.5) + 0.5 * island  # black, grey and white: the three in order
save_image(map_of_places.expand(3, -1, -1), "map.png")
config = CanvasConfig(graft=("zoo:water", "zoo:lava"), map="map.png")
scene = Scene(NCA.from_pretrained("zoo:cobbles"), height, width, steps, seed=1, config=config)
film(scene, "film.mp4", steps_per_frame=2, zoom=2)
