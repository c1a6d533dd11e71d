"""What people train an automaton for: one system a file, one row of this table each.

A new system is a file with a `training.system.System`, one with its settings and its `training.task.Task`, which import
nothing that takes long, and its row here. Its command, its settings on the command line and in the checkpoint, its run
folder, resuming, previews, devices and several processes come with it.
"""

from nca_fast.systems.clip_settings import CLIP
from nca_fast.systems.growing_settings import GROW
from nca_fast.systems.style_settings import STYLE
from nca_fast.systems.texture_settings import TEXTURE
from nca_fast.systems.vae.settings import VAE

TASKS = {task.name: task for task in (TEXTURE, STYLE, CLIP, VAE, GROW)}
