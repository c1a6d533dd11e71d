"""The command that writes an automaton for other engines, one of its textures alone, or a smaller file of it."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from nca_fast.pretrained import check_model

if TYPE_CHECKING:
    from nca_fast.nca import NCA

MOST = 2**31 - 1  # of steps, and of a size, which engines hold in 32 bits
HELD = {
    "json": "In it: rule, layers (weight [outputs][inputs], bias), kernels of learned filters, start, shown_steps.",
    "onnx": "Inputs: state [batch, channels, height, width]; seed and first_step, where it draws. Output: new_state.",
}


@dataclass(frozen=True)
class Export:
    """Write an automaton for other engines, as JSON or ONNX, or as a smaller model of nca_fast.

    For example:
        nca-fast export zoo:bricks --to json --out bricks.json
        nca-fast export runs/ladybird --to onnx --steps 64 --out ladybird.onnx
        nca-fast export zoo:bricks --to safetensors --dtype float16 --out small.safetensors

    JSON holds rule and weights. ONNX holds steps, and draws the fire masks of nca_fast inside, from its inputs seed and
    first_step. Safetensors is what trainings write.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """model.safetensors of a training, its folder, zoo:NAME or hf:USER/NAME."""
    to: Literal["json", "onnx", "safetensors"]
    """What is written: rule and weights as one JSON object, steps as an ONNX model, or a model of nca_fast."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The file (.json, .onnx or .safetensors). An existing file is replaced."""
    texture: str | None = None
    """Of an automaton that knows several: one alone, or a blend such as brick:0.7,moss:0.3, as a smaller automaton."""
    dtype: Literal["float32", "float16"] | None = None
    """For safetensors: the numbers of its weights. float16 halves the file. None: float32."""
    steps: int | None = None
    """For ONNX: how many steps the model takes each time it is run. None: one."""
    batch: int | None = None
    """For ONNX: samples of the state. None: any number."""
    height: int | None = None
    """For ONNX: rows of the canvas, for engines that want to know them. None: any number."""
    width: int | None = None
    """For ONNX: columns of the canvas, likewise. None: any number."""

    main: ClassVar[tuple[str, ...]] = ("to", "out", "texture", "dtype", "steps", "batch", "height", "width")

    def check(self) -> None:
        """Raises ValueError, OSError or ImportError for what can be seen before the model is read."""
        if self.out.suffix.lower() != f".{self.to}":
            raise ValueError(f"out must end in .{self.to} with --to {self.to}, but got {str(self.out)!r}.")
        for name in ("steps", "batch", "height", "width"):
            value = getattr(self, name)
            if value is not None and self.to != "onnx":
                raise ValueError(f"{name} must be left out with --to {self.to}, but got {value}.")
            if value is not None and not 1 <= value <= MOST:
                raise ValueError(f"{name} must be from 1 to {MOST}, but got {value}.")
        if self.dtype is not None and self.to != "safetensors":
            raise ValueError(f"dtype must be left out with --to {self.to}, but got {self.dtype}.")
        check_model(self.model)
        if self.to == "onnx" and find_spec("onnx") is None:
            raise ImportError("onnx must be installed for --to onnx: pip install 'nca-fast[export]'.")

    def run(self, command: str) -> None:
        """Writes the file."""
        import torch

        from nca_fast import checkpoint
        from nca_fast.commands.ending import drawing, finish, page
        from nca_fast.files import atomic_path, check_writable
        from nca_fast.nca import NCA
        from nca_fast.pretrained import model_file

        check_writable(self.out.parent)
        path = model_file(self.model)
        nca, made = NCA.from_pretrained(path), checkpoint.facts_of(path)
        if self.texture is not None:
            nca, made = self._alone(nca, made, path)
        if self.to == "safetensors":
            dtype, count = self.dtype or "float32", sum(parameter.numel() for parameter in nca.parameters())
            nca.save_pretrained(self.out, made, getattr(torch, dtype))
            said = f"In it: rule, start, and {count:,} weights in {dtype}."
            finish([self.out], said=[said], then=[drawing(str(self.out)), page(str(self.out))])
            return
        content = self._json(nca, path) if self.to == "json" else self._onnx(nca)
        with atomic_path(self.out) as temporary:
            temporary.write_bytes(content)
        finish([self.out], said=[HELD[self.to]], then=[page(self.model), drawing(self.model)])

    def _alone(self, nca: "NCA", made: dict[str, Any], path: Path) -> tuple["NCA", dict[str, Any]]:
        """Makes an automaton of one texture or blend, and says how it came about as that of one texture would."""
        from nca_fast.code_biases import single_texture
        from nca_fast.textures import mixed, named, parse_shares

        if not nca.textures:
            raise ValueError(
                f"texture must be left out for {self.model}, which knows one alone, but got {self.texture!r}."
            )
        shares = parse_shares(self.texture, nca.textures)
        known = {texture["name"]: texture for texture in named(made, f"'provenance' of {path}")}
        made = {key: value for key, value in made.items() if key != "textures"}
        (name, *others) = (name for name, share in shares.items() if share)
        if not others and name in known:
            made |= {"image": known[name]["image"]}
            made |= {"config": made.get("config", {}) | {"image_crop": known[name]["crop"]}}
        return single_texture(nca, mixed(nca.textures, shares)), made

    def _json(self, nca: "NCA", path: Path) -> bytes:
        from nca_fast.export.pages import encoded
        from nca_fast.web.models import steps_of

        return encoded(nca, steps_of(path))

    def _onnx(self, nca: "NCA") -> bytes:
        from nca_fast.export.steps import model

        return model(nca, self.steps or 1, self.batch, self.height, self.width).SerializeToString()
