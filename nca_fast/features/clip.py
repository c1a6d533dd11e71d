"""CLIP: pictures and sentences as vectors that can be compared. All models are open_clip's."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import TqdmWarning

from nca_fast.features.torchvision_compat import import_torchvision
from nca_fast.prompts import check_words
from nca_fast.suggestions import closest_ones

# A small model that this project trained (bench/small_clip/train.py), in the layout of open_clip's "local-dir:".
SMALL_CLIP = Path(__file__).parent / "small_clip"
_OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")  # of its published models, beside the weights
_OTHERWISE = "or leave the model out for the small one that comes with nca_fast"


class ClipModel(nn.Module):
    """A frozen CLIP model of open_clip, in float32.

    Args:
        model: A name of `open_clip.list_models()` ("ViT-B-32"), "local-dir:FOLDER" or "hf-hub:OWNER/NAME". None: the
            small model that comes with nca_fast, which knows 300 words about colours, patterns and what has them.
        pretrained: For a name: the tag of weights ("openai", "laion2b_s34b_b79k"), from open_clip's cache or its
            download, or a file of weights. Whether they were trained with QuickGELU open_clip knows of a tag, and of a
            file that it offers itself; of others the model's name says it (ViT-B-32-quickgelu).

    Attributes:
        size: (rows, columns) of the pictures that it takes.
        width: Length of its vectors.

    Raises:
        ValueError: Unknown model or tag; a file that does not fit the model.
        OSError: No weights at hand and none to be downloaded.
        ImportError: No torchvision.

    Source: Radford et al., Learning transferable visual models from natural language supervision, 2021.
    """

    def __init__(self, model: str | None = None, pretrained: str | os.PathLike | None = None):
        super().__init__()
        import_torchvision()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TqdmWarning)  # it asks for ipywidgets in a notebook; bars of text will do
            import open_clip

        self.small = model is None
        if self.small:
            if pretrained is not None:
                raise ValueError(f"pretrained must go with a model, but got {str(pretrained)!r} alone: name the model.")
            merges = str(SMALL_CLIP / "merges.txt.gz")
            self.network = open_clip.create_model(f"local-dir:{SMALL_CLIP}", weights_only=True)
            self.tokenizer = open_clip.get_tokenizer(f"local-dir:{SMALL_CLIP}", bpe_path=merges)
        else:
            pretrained = None if pretrained is None else os.fspath(pretrained)
            self.network = _create(open_clip, model, pretrained)
            self.tokenizer = open_clip.get_tokenizer(model.replace("/", "-") if ":" not in model else model)
        settings = open_clip.get_model_preprocess_cfg(self.network)
        size = settings["size"]
        self.size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        for name in ("mean", "std"):
            values = torch.tensor(settings[name]).reshape(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self.eval()
        with torch.no_grad():
            self.width = self.network.encode_text(self.tokenizer(["a"])).shape[1]

    def train(self, mode: bool = True) -> ClipModel:
        """Nothing here trains; the module stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, of any length (a text's direction is what it means). [N, width]

        Raises:
            ValueError: An empty text, a word that the small model does not know, a text longer than the model reads.
        """
        for text in texts:
            self._check(text)
        return self.network.encode_text(self.tokenizer(list(texts)).to(self.mean.device))

    def forward(self, pictures: Tensor, normalize: bool = True) -> Tensor:
        """One vector for each picture, of any length.

        Args:
            pictures: [N, 3, *size], nominally in [0, 1]; not clipped, because losses must feel values outside.
            normalize: Subtract the mean and divide by the deviation that the model was trained with.

        Returns:
            [N, width].
        """
        if pictures.shape[1:] != (3, *self.size):
            raise ValueError(
                f"pictures must be [N, 3, {self.size[0]}, {self.size[1]}], but got {list(pictures.shape)}."
            )
        if normalize:
            pictures = (pictures - self.mean) / self.std
        return self.network.encode_image(pictures.contiguous(memory_format=torch.channels_last))

    def _check(self, text: str) -> None:
        if not text.strip():
            raise ValueError(f"a prompt must say something, but got {text!r}.")
        if not hasattr(self.tokenizer, "encode"):  # tokenizers of Hugging Face cut long texts by themselves
            return
        if self.small:
            check_words(text)
        length = len(self.tokenizer.encode(text))
        longest = self.tokenizer.context_length - 2
        if length > longest:
            raise ValueError(
                f"a prompt must have at most {longest} tokens for this model, but {text!r} has {length}. Shorten it, "
                "or make several prompts of it."
            )


def _create(open_clip, model: str, pretrained: str | None) -> nn.Module:
    """open_clip's `create_model`, with errors that say what to do, and never with random weights."""
    if ":" in model:
        if pretrained is not None:
            raise ValueError(f"pretrained must be left out for model {model!r}, which brings its weights.")
        options = {}
    else:
        name = model.replace("/", "-")
        if name not in open_clip.list_models():
            near = closest_ones(name, open_clip.list_models(), 5)
            hint = f"did you mean {', '.join(near)}?" if near else "open_clip.list_models() lists them."
            raise ValueError(
                f"model must be a name of open_clip, local-dir:FOLDER or hf-hub:NAME, but got {model!r}; {hint}"
            )
        options = _weights(open_clip, name, pretrained)
    try:
        with _quiet():
            return open_clip.create_model(model, require_pretrained=True, weights_only=True, **options)
    except (FileNotFoundError, ValueError) as error:
        if model.startswith("local-dir:"):
            raise ValueError(f"model {model!r} must be a folder with open_clip_config.json: {error}.") from error
        raise _no_weights(model, pretrained, error) from error
    except Exception as error:  # open_clip, torch.load, safetensors and the hub each have their own kinds
        if pretrained is not None and os.path.isfile(pretrained):
            raise ValueError(
                f"the weights file {pretrained!r} must hold the weights of {model}, but open_clip cannot load it "
                f"({_first_line(error)}). Check the name of the model; remove a damaged file and fetch it again."
            ) from error
        raise _no_weights(model, pretrained, error) from error


def _weights(open_clip, name: str, pretrained: str | None) -> dict:
    """The options of `create_model` for a tag or a file of weights."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise ValueError(
            f"pretrained must name the weights of {name}: one of {', '.join(tags) or '(no tags)'}, or a file. Without "
            "weights it would be random."
        )
    settings = open_clip.get_pretrained_cfg(name, pretrained)
    if not settings:
        if not os.path.isfile(pretrained):
            raise ValueError(
                f"pretrained must be a tag of {name} ({', '.join(tags) or 'it has none'}) or a file, but "
                f"{pretrained!r} is neither."
            )
        return {"pretrained": pretrained, "force_quick_gelu": _quick_gelu_of_file(open_clip, name, pretrained)}
    quick = bool(settings.get("quick_gelu", False))
    _check_quick_gelu(open_clip, name, pretrained, quick)
    return {"pretrained": pretrained, "force_quick_gelu": quick}


def _check_quick_gelu(open_clip, name: str, pretrained: str, quick: bool) -> None:
    """Refuses a model with QuickGELU for weights without; the other way round it is mended."""
    if bool(open_clip.get_model_config(name).get("quick_gelu", False)) and not quick:
        raise ValueError(
            f"the weights {pretrained!r} must go with a model without QuickGELU, but {name} has it, and its vectors "
            f"would be wrong. Take model {name.removesuffix('-quickgelu')}."
        )


def _quick_gelu_of_file(open_clip, name: str, file: str) -> bool:
    """Says whether a file of weights wants QuickGELU; with a warning where only the model's name can tell.

    Raises:
        ValueError: The file is known, and wants the other; or it is of a kind of OpenAI's that open_clip does not load.
    """
    plain = name.removesuffix("-quickgelu")
    named = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    if not {plain, f"{plain}-quickgelu"} <= set(open_clip.list_models()):
        return named  # there is one kind only
    if _is_torchscript(file):
        raise ValueError(
            f"the weights file {file!r} must hold tensors, but is a TorchScript program, as OpenAI publishes: give "
            f"pretrained openai instead, or save its state_dict() with torch.save, without {', '.join(_OPENAI_ONLY)}."
        )
    if set(_OPENAI_ONLY) <= _tensor_names(file):
        raise ValueError(
            f"the weights file {file!r} must hold the weights of {plain} alone, but holds OpenAI's "
            f"{', '.join(_OPENAI_ONLY)} too: give pretrained openai instead, or save it without these."
        )
    known = _known_quick_gelu(open_clip, plain, file)
    if known is not None:
        _check_quick_gelu(open_clip, name, file, known)
        return known
    if not named:
        warnings.warn(
            f"the weights file {file!r} does not say whether it was trained with QuickGELU: model {plain} is without. "
            f"For OpenAI's weights, and others with it, take model {plain}-quickgelu, or the vectors are wrong.",
            stacklevel=2,
        )
    return named


def _known_quick_gelu(open_clip, plain: str, file: str) -> bool | None:
    """Compares a file with what open_clip offers: by its digest, and its place in the hub's cache."""
    with open(file, "rb") as opened:
        digest = hashlib.sha256()
        while piece := opened.read(2**20):
            digest.update(piece)
    for name in (plain, f"{plain}-quickgelu"):
        for tag in open_clip.list_pretrained_tags_by_model(name):
            settings = open_clip.get_pretrained_cfg(name, tag)
            # The address ends in NAME-DIGEST.pt, eight digits of it, or is OpenAI's .../DIGEST/NAME.pt.
            marks = re.findall(r"-([0-9a-f]{8})\.pt$|/([0-9a-f]{64})/", settings.get("url") or "")
            offered = any(digest.hexdigest().startswith(mark) for pair in marks for mark in pair if mark)
            hub = (settings.get("hf_hub") or "").strip("/").replace("/", "--")
            if offered or (hub and f"models--{hub}/" in os.path.abspath(file).replace(os.sep, "/")):
                return bool(settings.get("quick_gelu", False))
    return None


def _tensor_names(file: str) -> set[str]:
    """Lists the tensors of a file of weights; none where it cannot be read, which `create_model` will say better."""
    try:
        if file.endswith(".safetensors"):
            with safe_open(file, framework="pt") as opened:
                return set(opened.keys())
        content = torch.load(file, map_location="cpu", weights_only=True)
        return set(content.get("state_dict", content))
    except Exception:  # torch.load has many kinds
        return set()


def _is_torchscript(file: str) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _no_weights(model: str, pretrained: str | None, error: Exception) -> OSError:
    weights = f" with weights {pretrained!r}" if pretrained else ""
    arguments = f"{model!r}, {pretrained!r}" if pretrained else repr(model)
    return OSError(
        f"CLIP model {model}{weights} is not in the cache of open_clip and could not be downloaded "
        f'({_first_line(error)}). Run python -c "import open_clip; open_clip.create_model({arguments})" on a machine '
        f"with internet and copy its ~/.cache/huggingface (or ~/.cache/clip), or give a file of weights as pretrained, "
        f"{_OTHERWISE}."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's log lines and warnings about what is an error here, or mended."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logging.disable(disabled)
