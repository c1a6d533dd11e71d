"""Trains the small CLIP model that nca_fast ships, on procedural captioned pictures. `python -m bench.small_clip.train`

The model is open_clip's CLIP with a small ResNet and a small text transformer, trained with open_clip's ClipLoss on
`bench.small_clip.captions`. It has to guide: what an optimiser does to a picture must look like the words, too. So each
picture is first moved a step in the direction that the model likes least (adversarial training; Santurkar et al., Image
synthesis with a single (robust) classifier, 2019), and pictures come noisy, blurred and with other contrasts. In the
last quarter of the training it also learns from `bench.small_clip.negatives`: pictures that it likes too much.

`--begin-with FOLDER --words 400 --steps 0` teaches a model that was trained in this way, with fewer words, those of
today (`bench.small_clip.words`), in two minutes; its picture tower stays what it is.

One composition of attributes in ten is held out: it never occurs in training, and the accuracy that is written to
bench/results/train_small_clip.json is measured on those alone.
"""

import argparse
import gzip
import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save as serialize
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from bench.harness import RESULTS, header, write_result
from bench.small_clip import captions as patterns
from bench.small_clip import drawings, zero_shot
from bench.small_clip.kinds import SHARES
from bench.small_clip.negatives import SHAPED, Dreams, miscoloured, unshaped
from bench.small_clip.words import Seen, step_loss
from nca_fast.features.clip import SMALL_CLIP
from nca_fast.features.torchvision_compat import import_torchvision
from nca_fast.files import atomic_path

import_torchvision()

import open_clip  # noqa: E402 (it imports torchvision)

CONTEXT = 16
MERGES_FILE, WORDS_FILE = "merges.txt.gz", "words.txt"
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": drawings.SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": CONTEXT, "width": 128, "heads": 4, "layers": 2},
}
# What tells most pictures of a batch apart is all that it teaches. So of three batches one has few pairs of colours,
# and kinds, directions and scales have to be learned; one has few kinds of one group, and colours have to be.
PAIRS, KINDS = 2, 3
# Shares of the steps after which pictures are attacked and hard negatives are shown; earlier it slows learning down.
ATTACKED_FROM, DREAMS_FROM = 0.375, 0.75  # of a model that begins with another's weights: from the start
WORDS_BATCH, WORDS_RATE = 128, 2e-3
DREAMS, MISCOLOURED, UNSHAPED = 20, 12, 16  # hard negatives beside a batch; the captions are those of its pictures


def word_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order, after which each word is a single token: open_clip's tokenizer with a vocabulary of
    hundreds, not of 49,408, whose embeddings alone would be larger than the whole model."""
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while True:
        pairs = Counter(pair for letters in spelled.values() for pair in zip(letters, letters[1:], strict=False))
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for letters in spelled.values():
            i = 0
            while i < len(letters) - 1:
                if (letters[i], letters[i + 1]) == best:
                    letters[i : i + 2] = ["".join(best)]
                i += 1


def write_tokenizer(folder: Path) -> open_clip.tokenizer.SimpleTokenizer:
    """Writes merges and words, and returns open_clip's tokenizer that reads them."""
    words = patterns.vocabulary()
    text = "\n".join(["#version: nca_fast", *(" ".join(pair) for pair in word_merges(words))])
    with atomic_path(folder / MERGES_FILE) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
    with atomic_path(folder / WORDS_FILE) as temporary:
        temporary.write_text("\n".join(words) + "\n")
    tokenizer = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(folder / MERGES_FILE), context_length=CONTEXT)
    assert all(len(tokenizer.encode(word)) == 1 for word in words)
    return tokenizer


def disturbed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Noise, blur, contrast and brightness, each by a random amount that leaves the picture what it is."""
    count = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low

    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = pictures + (blurred - pictures) * uniform(-0.3, 1.0).clamp(min=0)
    pictures = (pictures - 0.5) * uniform(0.75, 1.05) + 0.5 + uniform(-0.05, 0.05)
    return pictures + torch.randn(pictures.shape, generator=generator) * uniform(-0.08, 0.15).clamp(min=0)


class Trainer:
    """The model, its optimizer and its data."""

    def __init__(self, folder: Path, steps: int, batch: int, rate: float, radius: float):
        self.folder, self.steps, self.batch, self.rate, self.radius = folder, steps, batch, rate, radius
        self.tokenizer = write_tokenizer(folder)
        self.config = MODEL | {"text_cfg": MODEL["text_cfg"] | {"vocab_size": self.tokenizer.vocab_size}}
        torch.manual_seed(0)
        self.model = open_clip.CLIP(**self.config).to(memory_format=torch.channels_last)
        self.loss = open_clip.ClipLoss()
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        self.draw = random.Random(0)
        self.generator = torch.Generator().manual_seed(0)
        self.dreams = None
        self.attacked_from, self.dreams_from = ATTACKED_FROM, DREAMS_FROM
        self.mean, self.std = (
            torch.tensor(values).reshape(1, 3, 1, 1)
            for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )

    def image_features(self, pictures: Tensor) -> Tensor:
        normalised = ((pictures - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.model.encode_image(normalised, normalize=True)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(texts), normalize=True)

    def contrast(self, pictures: Tensor, texts: Tensor) -> Tensor:
        return self.loss(self.image_features(pictures), texts, self.model.logit_scale.exp())

    def step(self, index: int) -> float:
        """One batch; returns its loss."""
        if index >= self.steps * self.dreams_from:
            loss = self.loss_with_hard_negatives(index)
        else:
            chosen, texts = self.captioned(self.batch, index)
            vectors = self.text_features(texts)
            pictures = disturbed(drawings.render(chosen, self.generator).clamp(0, 1), self.generator)
            if self.radius and index >= self.steps * self.attacked_from:
                pictures = self.attacked(pictures, vectors.detach())
            loss = self.contrast(pictures, vectors)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_at(index)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        return float(loss.detach())

    def rate_at(self, index: int) -> float:
        """A cosine to zero, and a second one, lower, for the part with hard negatives; both begin slowly."""
        first = round(self.steps * self.dreams_from)
        if index < first:
            return self.rate * min(1.0, (index + 1) / 100) * 0.5 * (1 + math.cos(math.pi * index / first))
        share = (index - first) / (self.steps - first)
        return 0.4 * self.rate * min(1.0, (index - first + 1) / 50) * (0.05 + 0.475 * (1 + math.cos(math.pi * share)))

    def captioned(self, count: int, index: int) -> tuple[list[patterns.Composition], list[str]]:
        """Compositions and a sentence for each."""
        pairs = kinds = None
        if index % 3 == 1:
            pairs = [self.draw.sample(tuple(patterns.COLOURS), 2) for _ in range(PAIRS)]
        elif index % 3 == 2:
            groups, shares = zip(*SHARES, strict=True)
            group = self.draw.choices(groups, shares)[0]
            kinds = self.draw.sample([name for name in group if not group[name].colourful], KINDS)
        chosen = zero_shot.compositions(count, self.draw, pairs=pairs, kinds=kinds)
        return chosen, [patterns.caption(what, self.draw, complete=self.draw.random() < 0.4) for what in chosen]

    def loss_with_hard_negatives(self, index: int) -> Tensor:
        """The contrastive loss, and that of finding a caption's drawing among drawings and hard negatives.

        Batch normalisation uses the averages that it has by now, as it will when the model guides: what is learned must
        not hang on how many of the pictures around are dreams.
        """
        if self.dreams is None:
            self.dreams = Dreams(self.draw, self.generator)
        indices = self.dreams.sample(DREAMS)
        chosen, texts = self.captioned(self.batch - DREAMS, index)
        chosen = [self.dreams.compositions[i] for i in indices] + chosen
        texts = [self.dreams.captions[i] for i in indices] + texts
        vectors = self.text_features(texts)
        self.model.eval()
        dreamt = self.dreams.go_on(indices, vectors[:DREAMS].detach(), self.image_features)
        drawn = drawings.render(chosen, self.generator).clamp(0, 1)
        coloured = [i for i, what in enumerate(chosen) if what.back][-MISCOLOURED:]
        shaped = [i for i, what in enumerate(chosen) if what.kind in SHAPED][:UNSHAPED]
        wrong = [miscoloured(drawn[coloured], self.draw, self.generator), unshaped(drawn[shaped], self.generator)]
        wrong = torch.cat([dreamt, *wrong])
        drawn = disturbed(drawn, self.generator)
        if self.radius and index % 2:
            drawn = self.attacked(drawn, vectors.detach())
            self.model.eval()
        images = self.image_features(torch.cat([drawn, disturbed(wrong, self.generator)]))
        self.model.train()
        scale = self.model.logit_scale.exp()
        found = F.cross_entropy(scale * vectors @ images.T, torch.arange(self.batch))
        return self.loss(images[: self.batch], vectors, scale) + found

    def attacked(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """Each picture moved by up to `radius` (L2 length over all pixels) to where the loss is higher."""
        self.model.eval()  # as it will be when it guides
        radius = self.radius * torch.rand(len(pictures), 1, 1, 1, generator=self.generator)
        noise = torch.randn(pictures.shape, generator=self.generator)
        start = (pictures + radius * 0.3 * _unit(noise)).requires_grad_()
        (gradient,) = torch.autograd.grad(self.contrast(start, texts), start)
        self.model.train()
        return (start + radius * _unit(gradient)).detach()

    def begin_with(self, folder: Path) -> None:
        """Takes the weights of a model of the same towers; a word's embedding follows the word to its new number."""
        old = open_clip.create_model(f"local-dir:{folder}", weights_only=True).state_dict()
        tokens = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(folder / MERGES_FILE), context_length=CONTEXT)
        new = self.model.state_dict()
        for word in (folder / WORDS_FILE).read_text().split():
            if self.tokenizer.encoder.get(f"{word}</w>") is not None:
                number = self.tokenizer.encode(word)[0]
                new["token_embedding.weight"][number] = old["token_embedding.weight"][tokens.encode(word)[0]]
        new["token_embedding.weight"][-2:] = old["token_embedding.weight"][-2:]  # where a text begins and ends
        self.model.load_state_dict(new | {name: t for name, t in old.items() if name != "token_embedding.weight"})
        self.attacked_from = self.dreams_from = 0.0

    def learn_words(self, steps: int) -> float:
        """Trains the text tower alone; returns the last loss."""
        self.model.eval()
        seen = Seen(lambda x: self.image_features(disturbed(x, self.generator)), self.draw, self.generator)
        learned = [p for name, p in self.model.named_parameters() if not name.startswith(("visual.", "logit_scale"))]
        optimizer = torch.optim.Adam(learned, lr=WORDS_RATE)
        for index in tqdm(range(steps), unit="word step", mininterval=5):
            loss = step_loss(
                seen, self.text_features, self.model.logit_scale.exp().detach(), WORDS_BATCH, index % 2 > 0
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.param_groups[0]["lr"] = WORDS_RATE * min(1, (index + 1) / 20) * (1 - index / steps)
            optimizer.step()
        self.model.train()
        return float(loss.detach())

    def checkpoint(self, path: Path, progress: dict) -> None:
        """Writes what `resume` needs."""
        with atomic_path(path) as temporary:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "progress": progress}
            torch.save(state, temporary)

    def resume(self, path: Path) -> dict:
        """Goes on from a checkpoint, with fresh random numbers; returns its progress."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        step = state["progress"]["step"]
        self.draw, self.generator = random.Random(step), torch.Generator().manual_seed(step)
        return state["progress"]

    def save(self) -> None:
        """Writes the configuration and the weights, the latter in half precision."""
        weights = {
            name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in self.model.state_dict().items()
        }
        preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
        with atomic_path(self.folder / "open_clip_config.json") as temporary:
            temporary.write_text(json.dumps({"model_cfg": self.config, "preprocess_cfg": preprocess}, indent=1) + "\n")
        with atomic_path(self.folder / "open_clip_model.safetensors") as temporary:
            temporary.write_bytes(serialize(weights, metadata={"format": "pt"}))

    def accuracy(self, attributes: Sequence[str] = zero_shot.ATTRIBUTES) -> dict:
        """What `zero_shot.accuracy` finds, with the weights as they are now."""
        self.model.eval()
        result = zero_shot.accuracy(
            self.image_features,
            self.text_features,
            attributes=attributes,
        )
        self.model.train()
        return result


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.flatten(1), dim=1).reshape(x.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SMALL_CLIP, help="folder for the model")
    parser.add_argument("--result", type=Path, default=RESULTS / "train_small_clip.json")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--radius", type=float, default=2.0, help="longest adversarial step; 0: none")
    parser.add_argument("--begin-with", type=Path, help="folder of an earlier model of the same towers")
    parser.add_argument("--words", type=int, default=0, help="steps before all others that train the text tower alone")
    parser.add_argument("--look-every", type=int, default=500, help="steps between two measurements")
    parser.add_argument("--checkpoint", type=Path, help="file; a run that was stopped goes on from it")
    arguments = parser.parse_args()
    if arguments.begin_with and arguments.out.resolve() == arguments.begin_with.resolve():
        parser.error(f"--out must be another folder than that of --begin-with, {arguments.begin_with}")
    if arguments.steps and arguments.batch <= DREAMS:
        parser.error(f"--batch must be above {DREAMS}, the dreams that stand in a batch, but got {arguments.batch}")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments.out, arguments.steps, arguments.batch, arguments.rate, arguments.radius)
    progress = {"step": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0, "resumed_at": [], "history": []}
    resumed = arguments.checkpoint is not None and arguments.checkpoint.exists()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    if arguments.begin_with:
        trainer.begin_with(arguments.begin_with)
    if resumed:
        progress = trainer.resume(arguments.checkpoint)
        progress["resumed_at"].append(progress["step"])
        begin, begin_cpu = begin - progress["wall_seconds"], begin_cpu - progress["cpu_seconds"]

    def look(loss: float) -> None:
        """Measures and saves; at the end also attribute by attribute."""
        trainer.save()
        at_the_end = progress["step"] == arguments.steps
        progress["held_out"] = measured = trainer.accuracy(zero_shot.ATTRIBUTES if at_the_end else ())
        progress["history"].append({"step": progress["step"], "loss": round(loss, 4), "top1": measured["top1"]})
        tqdm.write(json.dumps({"step": progress["step"]} | measured))
        progress["wall_seconds"] = time.perf_counter() - begin
        progress["cpu_seconds"] = time.process_time() - begin_cpu
        if arguments.checkpoint:
            trainer.checkpoint(arguments.checkpoint, progress)

    if arguments.words and not resumed:
        look(trainer.learn_words(arguments.words))
    smooth = None
    with tqdm(total=arguments.steps, initial=progress["step"], unit="step", mininterval=5) as bar:
        for step in range(progress["step"] + 1, arguments.steps + 1):
            loss = trainer.step(step - 1)
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            bar.set_postfix_str(f"loss {smooth:.3f}", refresh=False)
            bar.update()
            progress["step"] = step
            if step % arguments.look_every == 0 or step == arguments.steps:
                look(smooth)
    measured = progress["held_out"]
    record = {
        "header": header(),
        "settings": {key: getattr(arguments, key) for key in ("words", "steps", "batch", "rate", "radius")},
        "model": trainer.config,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "bytes": sum(path.stat().st_size for path in arguments.out.iterdir()),
        "pictures": arguments.steps * arguments.batch,
        **{key: round(value) if isinstance(value, float) else value for key, value in progress.items()},
    }
    write_result(arguments.result, record)
    print(f"top-1 among {measured['classes']} held-out compositions: {measured['top1']:.1%}")


if __name__ == "__main__":
    main()
