"""What people train an automaton for: one system a file, one row of this table each.

A new system is a file with a `training.system.System`, and its row here. Its command, its settings on the command line
and in the checkpoint, its run folder, resuming, previews, devices and several processes come with it.
"""

from nca_fast.systems.clip import Clip
from nca_fast.systems.growing import Growing
from nca_fast.systems.style import Style
from nca_fast.systems.texture import Texture
from nca_fast.systems.vae import VAE

SYSTEMS = {system.name: system for system in (Texture, Style, Clip, VAE, Growing)}
