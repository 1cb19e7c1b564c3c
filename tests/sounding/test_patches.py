"""Pictures and masks to the patch grid, and patch tokens against open_clip's own outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, VisionTransformer
from PIL import Image

from sounding.config import PatchConfig
from sounding.encoders.patches import PatchEncoder, check_image, check_mask, mask_to_grid

VIT = PatchConfig()
TIMM = PatchConfig(tower="timm", model="test_efficientnet", width=16, grid=5, image_size=160, quick_gelu=False)
SIZE = (224, 224)
Geometry = Literal["squeeze", "crop", "pad"]


def block_means(picture: np.ndarray, grid: int) -> np.ndarray:
    height, width = picture.shape
    return picture.reshape(grid, height // grid, grid, width // grid).mean(axis=(1, 3)).reshape(-1)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (6, 6)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_one_patch_of_any_resolution_is_one_weight(row: int, column: int, scale: int) -> None:
    side = 8 * scale
    mask = torch.zeros(1, 7 * side, 7 * side)
    mask[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 1
    expected = torch.zeros(1, 49)
    expected[0, row * 7 + column] = 1
    assert torch.equal(mask_to_grid(mask, (480, 640), VIT), expected)


def test_soft_edges_are_area_averages() -> None:
    mask = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    grid = mask_to_grid(mask, SIZE, VIT)
    for row in range(2):
        np.testing.assert_allclose(grid[row].numpy(), block_means(mask[row].double().numpy(), 7), atol=1e-6)


def test_a_single_mask_needs_no_batch_axis() -> None:
    mask = torch.rand(*SIZE)
    assert torch.equal(mask_to_grid(mask, SIZE, VIT), mask_to_grid(mask[None], SIZE, VIT))


def overlap_means(picture: np.ndarray, grid: int) -> np.ndarray:
    """Exact area averages where pixels straddle cells."""

    def shares(length: int) -> np.ndarray:
        edges = np.arange(grid + 1) * length / grid
        pixels = np.arange(length)
        low = np.maximum(edges[:-1, None], pixels)
        return np.clip(np.minimum(edges[1:, None], pixels + 1) - low, 0, None) * grid / length

    return (shares(picture.shape[0]) @ picture @ shares(picture.shape[1]).T).reshape(-1)


@pytest.mark.parametrize("size", [(300, 500), (101, 97)])
def test_sizes_that_do_not_divide_are_off_by_a_pixel_at_most(size: tuple[int, int]) -> None:
    mask = np.zeros(size)
    mask[size[0] // 5 : size[0] // 2, size[1] // 3 :] = 1
    grid = mask_to_grid(torch.from_numpy(mask)[None], size, VIT)[0]
    # a cell of h x w pixels, of which one row and one column may be counted too many
    bound = 7 / size[0] + 7 / size[1]
    assert np.abs(grid.numpy() - overlap_means(mask, 7)).max() < bound


@pytest.mark.parametrize(("geometry", "size"), [("crop", (224, 320)), ("crop", (301, 224)), ("pad", (224, 112))])
def test_crop_and_pad_place_the_mask_by_hand(geometry: Geometry, size: tuple[int, int]) -> None:
    mask = torch.rand(size, generator=torch.Generator().manual_seed(1))
    pixels = mask.double().numpy()
    height, width = size
    if geometry == "crop":
        top, left = (height - 224) // 2, (width - 224) // 2
        square = pixels[top : top + 224, left : left + 224]
    else:
        square = np.zeros((224, 224))
        square[:, 56:168] = pixels
    grid = mask_to_grid(mask, size, replace(VIT, geometry=geometry))
    np.testing.assert_allclose(grid[0].numpy(), block_means(square, 7), atol=1e-6)


@pytest.fixture(scope="module")
def timm_encoder() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(TIMM).requires_grad_(False)


@pytest.mark.parametrize("mask_scale", [1, 0.5])
@pytest.mark.parametrize("size", [(200, 400), (410, 230), (160, 160), (61, 90)])
@pytest.mark.parametrize("geometry", ["squeeze", "crop", "pad"])
def test_picture_and_mask_go_through_the_same_transform(
    timm_encoder: PatchEncoder,
    monkeypatch: pytest.MonkeyPatch,
    geometry: Geometry,
    size: tuple[int, int],
    mask_scale: float,
) -> None:
    """A green object on black: where it lands in the encoder's pixels is where its mask lands."""
    config = replace(TIMM, geometry=geometry)
    monkeypatch.setattr(timm_encoder, "config", config)
    height, width = size
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    mask = (((rows - 0.35) / 0.3) ** 2 + ((columns - 0.6) / 0.2) ** 2 < 1).float()
    image = torch.zeros(1, height, width, 3)
    image[0, ..., 1] = mask
    pixels = timm_encoder.preprocess(image)[0, 1] * TIMM.std[1] + TIMM.mean[1]
    assert pixels.shape == (160, 160)
    small = torch.nn.functional.interpolate(mask[None, None], scale_factor=mask_scale, mode="area")[0]
    grid = mask_to_grid(small, size, config)[0]
    seen = block_means(pixels.double().numpy(), 5)
    assert seen.max() > 0.5
    np.testing.assert_allclose(grid.numpy(), seen, atol=0.08 if mask_scale < 1 or min(size) < 100 else 0.03)


def test_squeeze_keeps_objects_at_the_edge() -> None:
    mask = torch.zeros(1, 200, 800)
    mask[:, 50:150, :100] = 1
    squeezed = mask_to_grid(mask, (200, 800), VIT).view(7, 7)
    assert float(squeezed.mean()) == pytest.approx(float(mask.mean()), abs=0.01)
    assert squeezed[3, 0] > 0.8
    assert mask_to_grid(mask, (200, 800), replace(VIT, geometry="crop")).max() == 0


@pytest.mark.parametrize(
    ("geometry", "mode", "size"),
    [("squeeze", "squash", (300, 500)), ("crop", "shortest", (300, 500)), ("pad", "longest", (500, 300))],
)
def test_preprocessing_is_open_clips(geometry: Geometry, mode: str, size: tuple[int, int]) -> None:
    rows, columns = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 9, size[1]), indexing="ij")
    waves = np.stack([np.sin(rows), np.cos(columns), np.sin(rows * columns / 9)], axis=-1)
    picture = ((waves + 1) * 127.5).astype(np.uint8)
    transform = open_clip.image_transform(
        160, is_train=False, mean=TIMM.mean, std=TIMM.std, resize_mode=mode, interpolation="bilinear"
    )
    expected = transform(Image.fromarray(picture))
    encoder = PatchEncoder(replace(TIMM, geometry=geometry))
    ours = encoder.preprocess(torch.from_numpy(picture)[None] / 255)[0]
    # PIL rounds to whole numbers of 255 after each axis; open_clip rounds borders by half a pixel
    inner = slice(4, -4)
    difference = (ours - expected)[:, inner, inner].abs() * torch.tensor(TIMM.std).view(3, 1, 1)
    if geometry == "pad":
        content = slice(36, -36)
        difference = difference[:, :, content]
        assert expected[:, :, :20].std(dim=(1, 2)).max() < 1e-6  # open_clip's border is black as well
        torch.testing.assert_close(ours[:, :, :20], expected[:, :, :20])
    assert difference.max() < 3 / 255
    assert difference.mean() < 1 / 255


@pytest.fixture(scope="module")
def vit_encoder() -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(VIT).requires_grad_(False)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(4))


def test_vit_tokens_are_open_clips(vit_encoder: PatchEncoder, pixels: torch.Tensor) -> None:
    """Class token: what open_clip's own model returns. Patches: its own intermediates after the last norm."""
    visual = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).visual.eval().requires_grad_(False)
    visual.load_state_dict(vit_encoder.tower.state_dict())
    ours = vit_encoder.encode_pixels(pixels)
    assert ours.shape == (2, 49, 512)
    own = visual.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
    )
    torch.testing.assert_close(ours, own["image_intermediates"][-1] @ visual.proj, atol=1e-4, rtol=1e-4)
    class_token = own["image_intermediates_prefix"][-1][:, 0] @ visual.proj
    torch.testing.assert_close(class_token, visual(pixels), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours.mean(dim=1), class_token, atol=1e-2)


def test_mean_of_vit_tokens_is_open_clips_average_pool(vit_encoder: PatchEncoder, pixels: torch.Tensor) -> None:
    pooling = VisionTransformer(224, 32, 768, 12, 12, 4.0, output_dim=512, act_layer=QuickGELU, pool_type="avg").eval()
    pooling.load_state_dict(vit_encoder.tower.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(vit_encoder.encode_pixels(pixels).mean(dim=1), pooling(pixels), atol=1e-4, rtol=1e-4)


def test_mean_of_timm_tokens_is_open_clips_pooled_output(timm_encoder: PatchEncoder) -> None:
    peer = TimmModel(TIMM.model, TIMM.width, TIMM.image_size, pool="avg", proj="linear").eval().requires_grad_(False)
    peer.load_state_dict(timm_encoder.tower.state_dict())
    pixels = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(5))
    ours = timm_encoder.encode_pixels(pixels)
    assert ours.shape == (2, 25, 16)
    torch.testing.assert_close(ours.mean(dim=1), peer(pixels), atol=1e-5, rtol=1e-4)
    # row by row from the top left
    features = peer.trunk.forward_features(pixels)
    torch.testing.assert_close(ours[:, 5 * 1 + 3], peer.head(features[:, :, 1, 3]), atol=1e-5, rtol=1e-4)


def test_alpha_is_dropped(timm_encoder: PatchEncoder) -> None:
    image = torch.rand(1, 50, 70, 4)
    assert torch.equal(timm_encoder(image), timm_encoder(image[..., :3]))
    assert torch.equal(timm_encoder(image[0]), timm_encoder(image))


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 3, 8, 8), (8, 8), (1, 0, 8, 3), (2, 1, 8, 8, 3)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image has shape .* expected"):
        check_image(torch.zeros(shape))


@pytest.mark.parametrize("scale", [lambda x: x * 255, lambda x: x * 65535, lambda x: x * 4 - 2, lambda x: x * 2])
def test_pictures_of_other_ranges_are_refused(scale: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(
        ValueError, match=r"image has values .*, but 0\.\.1 is expected; divide pixels of 0\.\.255 by 255"
    ):
        check_image(scale(torch.linspace(0, 1, 48).view(1, 4, 4, 3)))


def test_ringing_of_a_resize_is_let_through() -> None:
    """A bicubic resize, which the host offers, overshoots a checkerboard as much as anything."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    ringing = torch.nn.functional.interpolate(board[None, None].float(), (33, 33), mode="bicubic")
    assert ringing.max() > 1.1
    assert ringing.min() < -0.1
    check_image(ringing.movedim(1, -1).expand(1, 33, 33, 3))


@pytest.mark.parametrize("mask_size", [(20, 30), (40, 60), (200, 300)])
def test_masks_that_are_turned_are_refused(mask_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"mask is .* and the image 20 x 30, so one of them is turned by 90 degrees"):
        mask_to_grid(torch.ones(1, *mask_size), (30, 20), VIT)


@pytest.mark.parametrize(("mask_size", "size"), [((64, 64), (30, 20)), ((30, 20), (30, 20)), ((101, 100), (100, 101))])
def test_masks_of_other_sizes_are_stretched(mask_size: tuple[int, int], size: tuple[int, int]) -> None:
    assert mask_to_grid(torch.ones(1, *mask_size), size, VIT).eq(1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pictures_and_masks_are_finite(value: float) -> None:
    image, mask = torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4)
    image[0, 1, 1, 1] = mask[0, 1, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        check_image(image)
    with pytest.raises(ValueError, match=r"mask has values .* 0\.\.1 is expected"):
        check_mask(mask)


@pytest.mark.parametrize("mask", [torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), -3.0), torch.zeros(1, 4, 4, 3)])
def test_what_is_no_mask_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^mask has .* expected"):
        check_mask(mask)


@pytest.mark.parametrize("changes", [{"model": "RN50"}, {"model": "no-such-model"}, {"width": 256}, {"grid": 14}])
def test_a_vit_must_be_what_its_name_says(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="patches"):
        PatchEncoder(replace(VIT, **changes))  # type: ignore[arg-type]
