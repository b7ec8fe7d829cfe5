"""Images with masks: read from folders and refused, resized and cut together, drawn, replayed."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pldistill.tasks.segmentation.dataset import DrawnMasks, fit, make_mask_loader, read_mask, resize_labels
from pldistill.tasks.segmentation.shapes import CLASSES, SIZE, draw
from pldistill.tasks.segmentation.sources import open_masks
from pldistill.types import IGNORED

CPU = torch.device("cpu")


def picture(seed, size=(20, 24), most=3):
    """An image whose red channel holds ten times its mask's index, so that it shows where each pixel went."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, most, size).astype(np.uint8)
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = 10 * mask
    return image, mask


def write(root, part, name, image, mask, suffix=".png"):
    for folder in ("images", "masks"):
        (root / part / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / part / "images" / f"{name}{suffix}")
    Image.fromarray(mask).save(root / part / "masks" / f"{name}.png")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for part, count in (("train", 5), ("val", 2)):
        for number in range(count):
            write(root, part, f"p{number}", *picture(number + 10 * (part == "val")))
    return root


def test_a_folder_is_read_pixel_by_pixel(folder):
    (folder / "classes.txt").write_text("sky\nroad\ncar\n")
    data = open_masks(f"masks:{folder}")
    assert data.classes == ("sky", "road", "car")
    assert (len(data.train), len(data.val), data.image_size, data.frame) == (5, 2, 20, (20, 24))
    for place in range(5):
        image, mask = data.train.read(place)
        expected = picture(place)
        assert (image.permute(1, 2, 0).numpy() == expected[0]).all()
        assert (mask.numpy() == expected[1]).all()
    assert data.train.names == ("p0", "p1", "p2", "p3", "p4")
    assert data.notes() == []


def test_without_names_the_classes_are_the_numbers_that_are_there(folder):
    image, mask = picture(3, most=2)
    mask[:2] = IGNORED
    write(folder, "train", "more", image, mask)
    assert open_masks(f"masks:{folder}").classes == ("0", "1", "2")
    (folder / "classes.txt").write_text("\n".join("abcdef"))
    data = open_masks(f"masks:{folder}")
    assert data.unseen == {"train": ("d", "e", "f"), "val": ("d", "e", "f")}
    assert "no pixel of train is of 3 of the 6 classes: d; e; f" in data.notes()[0]


def test_parts_of_the_training_images(folder):
    data = open_masks(f"masks:{folder},train=2,validation=1")
    assert (data.train.ids.tolist(), data.holdout.ids.tolist()) == ([0, 2], [4])
    for bad, says in (("train=6", "train: expected 1 to 5 images, got 6"), ("validation=5", "expected 1 to 4")):
        with pytest.raises(ValueError, match=says):
            open_masks(f"masks:{folder},{bad}")


def test_evaluation_reads_the_validation_part_alone(folder, tmp_path):
    for file in sorted((folder / "train").rglob("*.png")):
        file.unlink()
    data = open_masks(f"masks:{folder}", evaluation=True)
    assert (len(data.train), len(data.val)) == (0, 2)


def test_images_of_several_sizes_are_squares(folder):
    write(folder, "train", "large", *picture(7, size=(60, 30)))
    assert open_masks(f"masks:{folder}").frame == (256, 256)
    data = open_masks(f"masks:{folder}", image_size=20)
    assert (data.image_size, data.frame) == (20, (20, 20))


def test_the_size_that_a_run_was_scored_with_is_asked_for_again(folder):
    """A run records the short side; with it the same images are seen whole again."""
    first = open_masks(f"masks:{folder}")
    again = open_masks(f"masks:{folder}", image_size=first.image_size, evaluation=True)
    assert again.frame == first.frame == (20, 24)
    assert open_masks(f"masks:{folder}", image_size=10).frame == (10, 10)


def test_classes_are_matched_by_name(folder):
    (folder / "classes.txt").write_text("sky\nroad\ncar\n")
    data = open_masks(f"masks:{folder}", evaluation=True).among(("car", "tree", "sky", "road"), [2, 3, 0])
    assert data.classes == ("car", "tree", "sky", "road")
    _, mask = picture(10)
    mask = torch.from_numpy(mask)
    expected = torch.tensor([2, 3, 0], dtype=torch.uint8)[mask.long()]
    assert torch.equal(data.val.read(0)[1], expected)
    assert data.val.relabelled(torch.arange(256).to(torch.uint8)).subset([0]).read(0)[1].equal(expected)


def bad_sizes(root):
    Image.fromarray(picture(0, size=(5, 6))[1]).save(root / "train" / "masks" / "p1.png")


def bad_mode(root):
    Image.fromarray(picture(0)[0]).save(root / "train" / "masks" / "p1.png")


def bad_index(root):
    (root / "classes.txt").write_text("a\nb\n")


def bad_file(root):
    (root / "val" / "masks" / "p1.png").write_bytes(b"\x89PNG\r\n")


def bad_names(root):
    (root / "classes.txt").write_text("a\nb\na\n")


def no_mask(root):
    (root / "train" / "masks" / "p3.png").unlink()


def no_image(root):
    (root / "train" / "images" / "p3.png").unlink()


def no_part(root):
    (root / "val" / "masks").rename(root / "elsewhere")


def twice(root):
    Image.fromarray(picture(0)[0]).save(root / "train" / "images" / "p1.jpg")


def empty(root):
    for file in (root / "val").rglob("*.png"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (bad_sizes, r"1 of 5 files .* are bad: .*p1.png: expected the size of its image, 24x20 pixels, got 6x5"),
        (bad_mode, "p1.png: expected a mask of one channel of 8 bits, an index a pixel, got mode 'RGB'"),
        (bad_index, "expected indices below 2, one a class, or 255 of no class, got 2"),
        (bad_file, "p1.png: cannot be read as a mask"),
        (bad_names, "expected 1 to 255 names, each once, in .*classes.txt', got 3"),
        (no_mask, "expected a file for each in the other folder of .*train', got no mask for 1: p3.png"),
        (no_image, "expected a file for each in the other folder of .*train', got no image for 1: p3.png"),
        (no_part, r"masks: expected the folder .*val/masks', got none"),
        (twice, "masks: expected one file a name in .*, got 'p1' twice"),
        (empty, r"masks: expected images in .*val/images' \(.*\), got none"),
    ],
)
def test_what_does_not_fit_is_refused(folder, spoil, says):
    spoil(folder)
    with pytest.raises(ValueError, match=says):
        open_masks(f"masks:{folder}")


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    for spec, says in (
        ("masks:", "masks: expected masks:PATH, got no path"),
        (f"masks:{tmp_path}/no", "expected a folder with train/ and val/"),
        ("shapes:size=3", "unknown option of shapes 'size'"),
    ):
        with pytest.raises(ValueError, match=says):
            open_masks(spec)


def test_bad_files_can_be_skipped(folder):
    bad_sizes(folder)
    data = open_masks(f"masks:{folder}", on_bad_image="skip")
    assert data.train.ids.tolist() == [0, 2, 3, 4]
    assert "p1.png" in data.skipped["train"][0]
    assert "1 images of train are left out" in data.notes()[0]


def test_palettes_and_bits_are_indices(tmp_path):
    mask = picture(1)[1]
    image = Image.fromarray(mask)
    image.putpalette([7] * 768)
    image.save(tmp_path / "palette.png")
    assert (read_mask(str(tmp_path / "palette.png")).numpy() == mask).all()
    Image.fromarray(mask > 0).save(tmp_path / "bits.png")
    assert (read_mask(str(tmp_path / "bits.png")).numpy() == (mask > 0)).all()


def test_labels_at_another_size_are_those_under_the_centers():
    masks = torch.arange(64).view(1, 8, 8)
    assert resize_labels(masks, (2, 2)).tolist() == [[[18, 22], [50, 54]]]
    assert torch.equal(resize_labels(masks, (16, 16))[0, ::2, ::2], masks[0])
    assert resize_labels(masks, (8, 8)) is masks


def test_fit_resizes_the_short_side_and_cuts_the_middle():
    image = torch.zeros(3, 8, 12, dtype=torch.uint8)
    mask = torch.arange(96, dtype=torch.uint8).view(8, 12)
    image[0] = mask
    frame, classes = fit(image, mask, (4, 4))
    assert torch.equal(classes, mask[1::2, 1::2][:, 1:5])
    wide = torch.nn.functional.interpolate(image[None].float(), (4, 6), mode="bilinear", antialias=True)[0]
    assert torch.equal(frame, wide.round().to(torch.uint8)[:, :, 1:5])
    same = fit(image, mask, (8, 12))
    assert same[0] is image
    assert same[1] is mask


def loader(count=9, seed=3, **options):
    pairs = [picture(number, size=(16, 16)) for number in range(count)]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in pairs])
    split = DrawnMasks(images, torch.stack([torch.from_numpy(mask) for _, mask in pairs]))
    return make_mask_loader(
        split, **{"batch_size": 4, "frame": (16, 16), "seed": seed, "shuffle": True, "device": CPU, **options}
    ), split


def test_crops_and_flips_take_image_and_mask_together():
    batches, split = loader(crop=8, hflip=True)
    seen = list(batches.epoch(2))
    assert sorted(torch.cat([batch.ids for batch in seen]).tolist()) == list(range(9))
    mirrored = []
    for batch in seen:
        assert batch.images.shape[2:] == batch.masks.shape[1:] == (8, 8)
        assert torch.equal(batch.images[:, 0].long(), 10 * batch.masks)
        for number, mask in zip(batch.ids.tolist(), batch.masks, strict=True):
            whole = split.masks[number].long()
            places = [(top, left, flip) for top in range(9) for left in range(9) for flip in (False, True)]
            (flip,) = [
                flip
                for top, left, flip in places
                if torch.equal(whole[top : top + 8, left : left + 8].flip([-1] if flip else []), mask)
            ]
            mirrored.append(flip)
    assert 0 < sum(mirrored) < 9


def test_a_view_is_a_function_of_seed_view_and_image_alone():
    def masks(batches, view, start=0):
        return {
            number: mask
            for batch in batches.epoch(view, start)
            for number, mask in zip(batch.ids.tolist(), batch.masks.tolist(), strict=True)
        }

    first, _ = loader(crop=8, hflip=True)
    again, split = loader(crop=8, hflip=True, batch_size=2)
    assert masks(first, 1) == masks(again, 1)
    assert masks(first, 1) != masks(first, 2)
    assert masks(loader(crop=8, seed=4)[0], 1) != masks(loader(crop=8)[0], 1)
    assert masks(loader(crop=8, seed=4, view_seed=3)[0], 1) == masks(loader(crop=8)[0], 1)
    rest = masks(first, 1, start=1)
    assert rest == {number: mask for number, mask in masks(first, 1).items() if number in rest}
    assert len(rest) == 5
    few = make_mask_loader(
        split.subset([7, 2]), batch_size=2, frame=(16, 16), crop=8, hflip=True, seed=3, shuffle=True, device=CPU
    )
    assert masks(few, 1) == {number: mask for number, mask in masks(first, 1).items() if number in (2, 7)}


def test_workers_change_no_number(folder):
    data = open_masks(f"masks:{folder}")
    how = {"batch_size": 2, "frame": data.frame, "crop": 12, "hflip": True, "seed": 0, "shuffle": True, "device": CPU}
    alone, helped = (list(make_mask_loader(data.train, **how, workers=count).epoch(0)) for count in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)


def test_a_loader_refuses_what_it_cannot_show():
    for options, says in (
        ({"crop": 17}, "task option crop: expected at most 16, the images' short side, got 17"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"count": 1, "world": 2}, "split: expected at least 2 images, one for each process, got 1"),
    ):
        with pytest.raises(ValueError, match=says):
            loader(**options)


def test_shapes_are_drawn_the_same_each_time_and_their_edges_are_of_no_class():
    one, some = draw(6, 0, "train"), draw(3, 0, "train")
    assert torch.equal(one["images"][:3], some["images"])
    assert torch.equal(one["masks"][:3], some["masks"])
    assert not torch.equal(draw(3, 0, "val")["images"], some["images"])
    assert not torch.equal(draw(3, 1, "train")["images"], some["images"])
    many = draw(40, 0, "train")["masks"]
    assert set(many.unique().tolist()) == {*range(len(CLASSES)), IGNORED}
    shares = torch.bincount(many.flatten().long(), minlength=256) / many.numel()
    assert 0.01 < shares[IGNORED] < 0.1
    assert 0.5 < shares[0] < 0.8
    assert (shares[1:5] > 0.02).all()
    assert many.shape == (40, SIZE, SIZE)
    sides = (many[:, :, :-1] != many[:, :, 1:]) & (many[:, :, :-1] != IGNORED) & (many[:, :, 1:] != IGNORED)
    assert sides.float().mean() < 0.002  # an outline that runs between two pixels alone is rare


def test_what_is_no_index_a_pixel_is_refused(folder, tmp_path):
    """Gray of 4 bits is spread over 8 by decoders, and JPEG changes values."""
    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes([0, 0x12]))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    (tmp_path / "four.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(ValueError, match="expected a mask as a PNG of 8 bits, an index a pixel, got 4 bits of gray"):
        read_mask(str(tmp_path / "four.png"))
    Image.new("L", (4, 4)).save(tmp_path / "jpeg.png", format="JPEG")
    with pytest.raises(ValueError, match="an index a pixel, got no PNG"):
        read_mask(str(tmp_path / "jpeg.png"))


def test_a_line_without_a_name_and_masks_without_a_class_are_refused(folder):
    (folder / "classes.txt").write_text("sky\n\nroad\ncar\n")
    with pytest.raises(ValueError, match=r"expected a name in each line of .*classes\.txt', got none in line 2"):
        open_masks(f"masks:{folder}")
    (folder / "classes.txt").unlink()
    for mask in (folder / "train" / "masks").iterdir():
        with Image.open(mask) as image:
            size = image.size
        Image.new("L", size, 255).save(mask)
    with pytest.raises(ValueError, match=r"expected a pixel of a class in the masks of .*train', got 255 alone"):
        open_masks(f"masks:{folder}")
