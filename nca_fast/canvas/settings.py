"""The settings of a canvas: memory, start, maps and growth. They are read before torch is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nca_fast.sizes import parse_bytes

MemoryOption = Annotated[
    str | None, tyro.conf.arg(metavar="SIZE")
]  # of commands that have no further settings of these
STARTS = ("zeros", "noise", "cell")
MOST_SCALE = 16  # a laplacian is multiplied by its square
WIDEST = 256  # border, in cells; a block of so many rows and as many around it are held while a canvas begins


@dataclass(frozen=True)
class CanvasConfig:
    """How a canvas is computed, what it begins with, and what lives where on it."""

    memory: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Memory that the canvas may take, such as 2GiB. A canvas that needs more is computed strip by strip, and its state
    lies in a file beside the output, which is removed at the end. The result is the same. None: what is free. What a
    GPU has no room for is brought there strip by strip, too."""
    resumable: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep the state in a file even where memory has room, so that a run which is interrupted can be resumed."""
    state_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which numbers the state is kept between passes. 16 bits take half the room and round once per pass, so that
    the result depends on steps_per_pass."""
    steps_per_pass: int | None = None
    """Steps that a strip takes before the next one does. None: what is fastest. It changes no float32 result."""
    start: Annotated[str | None, tyro.conf.arg(metavar="zeros|noise|cell|FILE")] = None
    """What the canvas begins with: zeros, noise, one cell, a picture (for automata with RGB channels), or a state that
    --save-state wrote, of whatever automaton with as many channels; its steps go on counting. None: what the automaton
    was made for."""
    graft: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="MODEL [...]")] = ()
    """Further automata that live on the canvas, where --map says, or --paint by the names of their folders."""
    map: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """Picture, stretched over the canvas: MODEL lives where it is black, the last of --graft where it is white, those
    before it at even greys between. At a grey between those of two automata, every step is a blend of both."""
    speed_map: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """Picture, stretched over the canvas, by which the fire rate is multiplied: white is as trained, black stands
    still."""
    angle: float | None = None
    """Degrees by which what is drawn is turned, counterclockwise. (Of filters that know directions as Sobel's do.)"""
    align: Literal["polar", "dipole"] | None = None
    """Turn each cell, too: in rings around the middle, or along the field lines from a pole in the left half to one in
    the right."""
    angle_map: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """Picture, stretched over the canvas, by which cells are turned further: black is 0 degrees, white 360."""
    scale: float | None = None
    """How large things become: 2 is twice as large. See --dt: twice as large takes four times as many steps."""
    scale_map: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """Picture, stretched over the canvas, by which that is multiplied: black is a half, middle grey 1, white 2."""
    dt: float | None = None
    """The share of its step that each step does, above 0 to 1; with 0.25 it takes four times as many to come as far.
    None: 1, or 1/s^2 where the largest scale s is above 1, because with more an automaton runs away."""
    texture: Annotated[str | None, tyro.conf.arg(metavar="NAME[:SHARE,NAME:SHARE ...]")] = None
    """What an automaton that knows several textures draws: one of them, or a blend, brick:0.7,grass:0.3, of which only
    the ratios count. None: the first, unless there is --paint."""
    texture_to: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME[:SHARE,...] [...]")] = ()
    """Film: textures or blends that --texture turns into, one after the other."""
    paint: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """Picture, stretched over the canvas, whose colours say which texture grows where: from dark to light the textures
    in their order, or what --legend says."""
    legend: Annotated[str | None, tyro.conf.arg(metavar="COLOUR=NAME,...")] = None
    """What the colours of --paint mean: red=brick,#0000ff=grass:0.7,gravel:0.3. A pixel takes the nearest colour."""
    soft: Annotated[int | None, tyro.conf.arg(metavar="CELLS")] = None
    """Width of the borders of --paint, in which textures turn into each other. None: none; they still grow together."""
    grow_every: int | None = None
    """The canvas grows after every so many steps, by grow_by cells at each of its four sides. It begins as small as it
    must to end with the size that was asked for. New cells are as the start state has them; old ones stay in the
    middle."""
    grow_by: int | None = None
    """See grow_every."""

    def check(self) -> None:
        """Raises ValueError for what cannot be."""
        for name in ("steps_per_pass", "grow_every", "grow_by"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}.")
        for name, most in (("scale", MOST_SCALE), ("dt", 1)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise ValueError(f"{name} must be above 0 and at most {most}, but got {value}.")
        if self.angle is not None and not abs(self.angle) < float("inf"):
            raise ValueError(f"angle must be a number of degrees, but got {self.angle}.")
        if self.paint is None and (self.legend is not None or self.soft is not None):
            raise ValueError(f"legend and soft must go with paint, but got {self.legend!r} and {self.soft} without.")
        if self.paint is not None and (self.texture is not None or self.texture_to):
            raise ValueError("texture and texture_to must be left out where paint says what grows where.")
        if self.soft is not None and not 1 <= self.soft <= WIDEST:
            raise ValueError(f"soft must be from 1 to {WIDEST} cells, but got {self.soft}.")
        if self.memory is not None:
            parse_bytes(self.memory)
        if (self.grow_every is None) != (self.grow_by is None):
            raise ValueError(
                f"grow_every and grow_by must be given together, but got {self.grow_every} and {self.grow_by}."
            )
        if (self.map is not None) != bool(self.graft) and not (self.graft and self.paint is not None):
            raise ValueError(
                f"map and graft must be given together, but got map={self.map} and {len(self.graft)} automata to graft."
            )
        if self.map is not None and self.paint is not None:
            raise ValueError("map and paint must not both say what lives where: leave one of them out.")

    @property
    def turns(self) -> bool:
        """Whether cells are turned or scaled."""
        fields = (self.angle, self.align, self.angle_map, self.scale, self.scale_map)
        return any(field is not None for field in fields)

    @property
    def start_file(self) -> Path | None:
        """Names the file to start from, where it is one."""
        return None if self.start is None or self.start in STARTS else Path(self.start)
