"""The data inside the package: `glyphs` and `digits`.

`glyphs`: 100 characters in 14 faces, posed, colored, cluttered and blurred; made in seconds, no download.

The faces ship with matplotlib. Every image follows from (seed, split, index), and no two splits share a draw.

`digits`: scikit-learn's 1,797 real handwritten digits, inside the installed package.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from pldistill.data.dataset import TensorSplit
from pldistill.data.sampling import key, uniform
from pldistill.files import cache_folder, cached_tensors

GLYPHS_VERSION = 2  # part of the cache file's name: raise it when an image changes
GLYPHS_SIZE = 32
GLYPHS_MEAN = (0.498, 0.498, 0.500)  # of the default training split
GLYPHS_STD = (0.286, 0.287, 0.287)

# No two that only size, a turn of 25 degrees or an italic face would make alike: no o beside 0, no alpha beside a.
CLASSES = tuple("123456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghmnqrtβδζθλμξπφωΓΔΛΞΣΨΩБДЖИЦЧШЭЮЯЫЊ!?&@#%$+*={}§¶©€£¥∞√∫∇←↑→↓")
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol")),
)

_CANVAS, _EXTENT = 32, 24  # a mask's side, and the longest side of the character in it
_CHUNK = 1000
_DISTRACTORS, _STROKES = 2, 1


MOST = 10_000_000  # images that are drawn, and seeds; 8 GB at 16 pixels


def glyphs(train: int = 20_000, val: int = 4_000, seed: int = 0) -> tuple[TensorSplit, TensorSplit]:
    """Training and validation split of `train` and `val` images, from the cache where they were made before.

    Raises:
        ValueError: fewer images than classes in a split, a negative seed, or a damaged cache file.
    """
    for name, value, least in (("train", train, len(CLASSES)), ("val", val, len(CLASSES)), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"glyphs: {name}: expected at least {least}, got {value}")
        if value > MOST:
            raise ValueError(f"glyphs: {name}: expected at most {MOST:,}, got {value:,}")
    file = cache_folder() / "glyphs" / f"v{GLYPHS_VERSION}-train{train}-val{val}-seed{seed}.safetensors"

    def make() -> dict[str, Tensor]:
        masks = render_masks()
        return {"train": draw(masks, train, seed, "train"), "val": draw(masks, val, seed, "val")}

    images = cached_tensors(file, make)
    first, second = (TensorSplit(images[name], labels(len(images[name]))) for name in ("train", "val"))
    return first, second


def labels(count: int) -> Tensor:
    """`(count,)` int64: image i shows class i mod 100, so classes are balanced to within one image."""
    return torch.arange(count) % len(CLASSES)


def render_masks() -> Tensor:
    """`(classes, faces, 32, 32)` float32 in [0, 1]: each character in each face, upright, centered, longest side 24."""
    masks = np.empty((len(CLASSES), len(FACES), _CANVAS, _CANVAS), np.uint8)
    for column, face in enumerate(FACES):
        for row, character in enumerate(CLASSES):
            masks[row, column] = _mask(character, face)
    return torch.from_numpy(masks).float() / 255


def large(character: str, face: str) -> Image.Image:
    """A character as gray on black, cut at its edges: what is larger than any image needs."""
    font = _font(face)
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (round(right - left), round(bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font)
    return image


@lru_cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(str(file), 4 * _EXTENT, layout_engine=ImageFont.Layout.BASIC)


def _mask(character: str, face: str) -> np.ndarray:
    whole = large(character, face)
    scale = _EXTENT / max(whole.size)
    small = whole.resize(
        (max(1, round(whole.width * scale)), max(1, round(whole.height * scale))), Image.Resampling.BOX
    )
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    canvas.paste(small, ((_CANVAS - small.width) // 2, (_CANVAS - small.height) // 2))
    return np.asarray(canvas)


def draw(masks: Tensor, count: int, seed: int, split: str) -> Tensor:
    """`(count, 3, 32, 32)` uint8: the images 0 ... count - 1 of a split."""
    chunks = [
        _Chunk(masks, np.arange(first, min(first + _CHUNK, count)), seed, split) for first in range(0, count, _CHUNK)
    ]
    return torch.cat([chunk.images() for chunk in chunks])


class _Chunk:
    """Some images of a split, made together; `self.between` is the one source of their draws."""

    def __init__(self, masks: Tensor, ids: np.ndarray, seed: int, split: str) -> None:
        self._masks, self._ids, self._seed, self._split = masks, ids, seed, split

    def between(self, low: float, high: float, name: str) -> Tensor:
        """`(N,)` float32, uniform in [low, high)."""
        draws = uniform(self._seed, 0, self._ids, f"glyphs/{self._split}/{name}")
        return torch.from_numpy(low + (high - low) * draws).float()

    def spoilt(self, clean: float, worst: float) -> Tensor:
        """`(N,)` float32 from clean to worst, by the image's own hardness.

        One draw spoils an image's contrast, sharpness, noise and clutter together: from clean to all but unreadable,
        so that no model reads all images and a better one reads further.
        """
        return clean + (worst - clean) * self.between(0, 1, "hardness") ** 1.5

    def images(self) -> Tensor:
        canvas, clutter = self._background(), self.spoilt(0.2, 1.0)[:, None, None]
        contrast = self.spoilt(0.85, 0.08) * self.between(-1, 1, "polarity").sign()
        tint = torch.stack([self.between(-0.1, 0.1, f"tint{c}") for c in range(3)], 1)
        ink = canvas.mean((2, 3)) + contrast[:, None] + tint
        for k in range(_DISTRACTORS):
            canvas = self._paint(canvas, clutter * self._distractor(k), self._color(f"distractor{k}"))
        canvas = self._paint(canvas, self._character(), ink)
        for k in range(_STROKES):
            canvas = self._paint(canvas, clutter * self._stroke(k), self._color(f"stroke{k}"))
        canvas = _blur(canvas, self.spoilt(0.3, 1.5)) + self._noise()
        return (canvas * 255).round_().clamp_(0, 255).to(torch.uint8)

    def _color(self, name: str) -> Tensor:
        # The name of a stream of draws: another spelling would be other images.
        return torch.stack([self.between(0.1, 0.9, f"{name} colour{c}") for c in range(3)], 1)

    def _background(self) -> Tensor:
        """A plane of color: a middle and a slope in a random direction."""
        middle, slope = self._color("middle"), self.between(-0.2, 0.2, "slope")[:, None, None]
        angle = self.between(0, 2 * torch.pi, "slope angle")[:, None, None]
        plane = _across() * angle.cos() + _down() * angle.sin()
        return middle[:, :, None, None] + (slope * plane)[:, None]

    @staticmethod
    def _paint(canvas: Tensor, cover: Tensor, color: Tensor) -> Tensor:
        return torch.lerp(canvas, color[:, :, None, None].expand_as(canvas), cover[:, None])

    def _character(self) -> Tensor:
        face = self.between(0, len(FACES), "face").long()
        size, x, y = self.between(20, 27, "size"), self.between(-0.08, 0.08, "x"), self.between(-0.08, 0.08, "y")
        return self._place(self._masks[torch.from_numpy(self._ids % len(CLASSES)), face], "character", size, x, y)

    def _distractor(self, k: int) -> Tensor:
        """Part of another character, most of it beyond the edge."""
        name = f"distractor{k}"
        which = self.between(0, len(CLASSES), f"{name} class").long()
        face = self.between(0, len(FACES), f"{name} face").long()
        angle, away = self.between(0, 2 * torch.pi, f"{name} way"), self.between(1.0, 1.4, f"{name} away")
        size = self.between(12, 24, f"{name} size")
        return self._place(self._masks[which, face], name, size, away * angle.cos(), away * angle.sin())

    def _place(self, masks: Tensor, name: str, size: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The masks turned, sheared and stretched to about `size` pixels with their center at (x, y) in [-1, 1]."""
        angle, shear = self.between(-0.2, 0.2, f"{name} angle"), self.between(-0.16, 0.16, f"{name} shear")
        stretch = self.between(-0.12, 0.12, f"{name} stretch").exp()
        scale = size / GLYPHS_SIZE * (_CANVAS / _EXTENT)
        cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(shear), torch.zeros_like(shear)
        turn = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2)
        lean = torch.stack([one, shear, zero, one], 1).view(-1, 2, 2)
        inverse = lean @ turn / torch.stack([scale * stretch, scale / stretch], 1)[:, :, None]
        offset = -inverse @ torch.stack([x, y], 1)[:, :, None]
        grid = F.affine_grid(
            torch.cat([inverse, offset], 2), [len(masks), 1, GLYPHS_SIZE, GLYPHS_SIZE], align_corners=False
        )
        return F.grid_sample(masks[:, None], grid, mode="bilinear", align_corners=False)[:, 0]

    def _stroke(self, k: int) -> Tensor:
        """A thin straight line through the image."""
        angle = self.between(0, torch.pi, f"stroke{k} angle")[:, None, None]
        shift = self.between(-0.8, 0.8, f"stroke{k} shift")[:, None, None]
        width = self.between(-0.03, 0.03, f"stroke{k} width")[:, None, None]  # below 0: fainter than a pixel, or none
        distance = (_across() * angle.sin() - _down() * angle.cos() - shift).abs()
        return ((width - distance) * (GLYPHS_SIZE / 2) + 0.5).clamp(0, 1)

    def _noise(self) -> Tensor:
        seed = key(self._seed, int(self._ids[0]), f"glyphs/{self._split}/noise") >> 1
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(self._ids), 3, GLYPHS_SIZE, GLYPHS_SIZE, generator=generator)
        return noise * self.spoilt(0.01, 0.24)[:, None, None, None]


def _across() -> Tensor:
    return ((torch.arange(GLYPHS_SIZE) + 0.5) * (2 / GLYPHS_SIZE) - 1)[None, None, :]


def _down() -> Tensor:
    return ((torch.arange(GLYPHS_SIZE) + 0.5) * (2 / GLYPHS_SIZE) - 1)[None, :, None]


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of its own width for each image, five taps, rows then columns."""
    taps = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma[:, None]) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).T.reshape(5, -1, 1, 1, 1)
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    return _smooth(_smooth(padded, taps, 2), taps, 3)


def _smooth(images: Tensor, taps: Tensor, dim: int) -> Tensor:
    """Sums of products written out: a convolution's result could depend on the number of threads."""
    total = torch.zeros_like(images.narrow(dim, 0, GLYPHS_SIZE))
    for k, tap in enumerate(taps):
        total.addcmul_(images.narrow(dim, k, GLYPHS_SIZE), tap)
    return total


DIGITS_SIZE = 32
DIGITS_VAL = 360
DIGITS_MEAN = (0.3051, 0.3051, 0.3051)
DIGITS_STD = (0.3238, 0.3238, 0.3238)


def digits() -> tuple[TensorSplit, TensorSplit]:
    """1,437 training and 360 validation images: 8 x 8 gray values 0 ... 16, enlarged to 3 x 32 x 32 (bilinear).

    The division is fixed and stratified: in each class a fifth, drawn by hash, is for validation.
    """
    from sklearn.datasets import load_digits  # here: it takes seconds to import, and only this source needs it

    pixels, target = load_digits(return_X_y=True)
    classes = np.asarray(target, dtype=np.int64)
    labels = torch.from_numpy(classes)
    gray = torch.from_numpy(np.asarray(pixels, dtype=np.float32)).view(-1, 1, 8, 8) * (255 / 16)
    gray = F.interpolate(gray, (DIGITS_SIZE, DIGITS_SIZE), mode="bilinear", align_corners=False)
    images = gray.round().to(torch.uint8).expand(-1, 3, -1, -1)
    val = np.sort(np.argsort(_rank_in_class(classes), kind="stable")[:DIGITS_VAL])
    train = np.setdiff1d(np.arange(len(labels)), val)
    first, second = (TensorSplit(images[part].contiguous(), labels[part]) for part in (train, val))
    return first, second


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """`(N,)` in (0, 1): where each sample stands in a random order of its class, as a share of the class."""
    draw, rank = uniform(0, 0, np.arange(len(labels)), "digits"), np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members[np.argsort(draw[members])]] = (np.arange(len(members)) + 0.5) / len(members)
    return rank
