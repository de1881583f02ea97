import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, Qwen2VLImageProcessorPil
from vlm_helpers import png

from digiq_ray.core.errors import InputError
from digiq_ray.vlm.images import MAX_PIXELS, Fit, ScreenTransform, decode, letterbox

# The last one cuts the middle out of what it has resized, as CLIP was trained.
PROCESSORS = {
    "to a size": CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False),
    "shortest edge": CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
    "with a margin": CLIPImageProcessorPil(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}),
}
EACH = pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
ANY_SHAPE = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})


def encoded(image, kind="PNG"):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def gradient(width, height):
    """White at the top, darker downwards; the first and the last row are red and blue."""
    image = Image.linear_gradient("L").rotate(180).resize((width, height)).convert("RGB")
    image.paste((255, 0, 0), (0, 0, width, max(1, height // 48)))
    image.paste((0, 0, 255), (0, height - max(1, height // 48), width, height))
    return image


def red(pixels):
    return (pixels[0] > 120) & (pixels[1] < 120) & (pixels[2] < 120)


def blue(pixels):
    return (pixels[2] > 120) & (pixels[0] < 120) & (pixels[1] < 120)


# ---- decoding


def test_decoding_gives_the_rgb_picture():
    image = gradient(30, 60)
    assert decode(encoded(image)).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode(encoded(Image.new(mode, (4, 8)), kind)).mode == "RGB"


@pytest.mark.parametrize(
    "screen", [b"", b"not an image", png()[:200], png()[:-40]], ids=["empty", "text", "head", "cut"]
)
def test_what_is_not_a_whole_image_is_an_input_error_on_one_line(screen):
    with pytest.raises(InputError, match="whole image") as raised:
        decode(screen)
    assert "\n" not in str(raised.value)


@given(st.data())
def test_damaged_images_are_read_or_are_input_errors(data):
    whole = bytearray(png(12, 20))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        assert decode(bytes(whole)).mode == "RGB"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8000, 20_000])
def test_a_huge_image_is_refused_before_it_is_unpacked(side):
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 1_000_000
    with pytest.raises(InputError, match=str(MAX_PIXELS)):
        decode(bomb)


# ---- fitting


@pytest.mark.parametrize("size", [(30, 90), (90, 30), (40, 40)])
def test_a_letterbox_is_a_square_with_the_picture_in_the_middle(size):
    image = Image.new("RGB", size, (9, 9, 9))
    boxed = letterbox(image, (1, 2, 3))
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    assert boxed.size == (side, side)
    assert boxed.crop((left, top, left + size[0], top + size[1])).tobytes() == image.tobytes()
    assert sum(count for count, colour in boxed.getcolors() if colour == (1, 2, 3)) == side * side - size[0] * size[1]


@EACH
@pytest.mark.parametrize("fit", list(Fit))
def test_the_first_and_the_last_row_of_a_tall_screenshot_are_kept(processor, fit):
    transform = ScreenTransform(processor, fit)
    pixels = transform.prepare(encoded(gradient(216, 480)))["pixel_values"]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 64, 64)
    middle = pixels[:, :, 32].int()
    assert red(middle[:, 0])
    assert blue(middle[:, -1])


@EACH
def test_stretching_fills_the_picture_and_a_letterbox_keeps_proportions(processor):
    screen = encoded(Image.new("RGB", (100, 200), (255, 255, 255)))
    stretched, boxed = (
        ScreenTransform(processor, fit).prepare(screen)["pixel_values"] for fit in (Fit.STRETCH, Fit.LETTERBOX)
    )
    assert (stretched == 255).all()
    assert abs((boxed[0, 32] > 128).sum().item() - 32) <= 1


@EACH
def test_a_batch_is_normalised_as_the_processor_would(processor):
    transform = ScreenTransform(processor, Fit.LETTERBOX)
    prepared = [transform.prepare(png(64, 64, shift=shift)) for shift in (0, 5)]
    pixels = transform.batch(prepared, torch.float32)["pixel_values"]
    assert pixels.shape == (2, 3, 64, 64)
    for got, one in zip(pixels, prepared, strict=True):
        picture = Image.fromarray(one["pixel_values"].permute(1, 2, 0).numpy())
        want = processor(images=[picture], do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(got, want[0], atol=1e-6, rtol=0)


def test_a_batch_has_the_models_precision():
    transform = ScreenTransform(PROCESSORS["to a size"], Fit.STRETCH)
    assert transform.batch([transform.prepare(png())], torch.bfloat16)["pixel_values"].dtype == torch.bfloat16


def test_preparing_changes_nothing_that_is_prepared_already():
    transform = ScreenTransform(PROCESSORS["to a size"], Fit.STRETCH)
    one = transform.prepare(png())
    before = one["pixel_values"].clone()
    transform.batch([one], torch.float32)
    assert torch.equal(one["pixel_values"], before)


# ---- processors that take any shape


@pytest.mark.parametrize("fit", list(Fit))
def test_a_processor_of_any_shape_gets_the_screenshot_as_it_is(fit):
    transform = ScreenTransform(ANY_SHAPE, fit)
    prepared = transform.prepare(png(56, 112))
    want = ANY_SHAPE(images=[decode(png(56, 112))], return_tensors="pt")
    assert prepared["screen_size"].tolist() == [56, 112]
    assert torch.equal(prepared["pixel_values"], want["pixel_values"])
    assert torch.equal(prepared["image_grid_thw"], want["image_grid_thw"])


def test_screens_of_different_sizes_share_a_batch():
    transform = ScreenTransform(ANY_SHAPE, Fit.LETTERBOX)
    prepared = [transform.prepare(png(56, 112)), transform.prepare(png(84, 56))]
    batch = transform.batch(prepared, torch.float32)
    assert set(batch) == {"pixel_values", "image_grid_thw"}
    assert batch["image_grid_thw"].prod(1).tolist() == [len(one["pixel_values"]) for one in prepared]
    assert len(batch["pixel_values"]) == sum(len(one["pixel_values"]) for one in prepared)


class Tiles:
    """A processor that cuts a picture into as many tiles as it is wide."""

    do_resize = do_rescale = do_normalize = True

    def __call__(self, images, return_tensors):
        tiles = images[0].width // 32
        return {"pixel_values": torch.ones(1, tiles, 3, 4, 4), "rows": torch.tensor([tiles])}


def test_fewer_tiles_are_filled_up_with_empty_ones_and_unknown_arguments_left_out():
    transform = ScreenTransform(Tiles(), Fit.STRETCH, {"pixel_values"})
    batch = transform.batch([transform.prepare(png(32, 32)), transform.prepare(png(96, 32))], torch.float32)
    assert set(batch) == {"pixel_values"}
    assert batch["pixel_values"].sum((2, 3, 4)).tolist() == [[48.0, 0.0, 0.0], [48.0, 48.0, 48.0]]


def test_a_screenshot_that_the_processor_refuses_is_an_input_error():
    transform = ScreenTransform(ANY_SHAPE, Fit.LETTERBOX)
    with pytest.raises(InputError, match="2 x 900"):
        transform.prepare(encoded(Image.new("RGB", (2, 900))))


# ---- fingerprint


def test_the_description_tells_transforms_apart():
    transforms = [ScreenTransform(processor, fit) for processor in PROCESSORS.values() for fit in Fit]
    transforms.append(ScreenTransform(ANY_SHAPE, Fit.STRETCH))
    larger = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 224 * 224})
    transforms.append(ScreenTransform(larger, Fit.STRETCH))
    assert len({transform.description for transform in transforms}) == len(transforms)


def test_equal_transforms_have_equal_descriptions():
    again = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    one, other = (ScreenTransform(p, Fit.STRETCH) for p in (PROCESSORS["to a size"], again))
    assert one.description == other.description
    assert np.array_equal(one.prepare(png())["pixel_values"], other.prepare(png())["pixel_values"])
