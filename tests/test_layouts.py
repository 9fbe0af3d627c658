"""What a bundle is: from its files, whatever its version string says."""

from __future__ import annotations

import json

import breaking as b
import numpy as np
import pytest
import tifffile
import toy

from spatia import keys
from spatia.errors import SpatiaError
from spatia.xenium.layouts import describe_bundle
from spatia.xenium.ome import Ome, TiffData
from spatia.xenium.stack import choose_images
from spatia.xenium.stains import canonical_stain
from spatia.xenium.tiffs import PlaneReader

LAYOUTS = {"1.0": "1.0-1.2", "1.4": "1.3-1.9", "2.0": "2.x", "3.0": "3.x", "4.0": "4.x"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {layout: toy.toy_bundle(folder / layout, layout) for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", ["as written", "R&D", "xenium-9.9.9"])
def test_layout_comes_from_the_files(bundles, tmp_path, layout, version):
    bundle = bundles[layout]
    specs = json.loads((bundle / "experiment.xenium").read_text())
    links = tmp_path / "bundle"
    links.mkdir()
    for file in bundle.iterdir():
        (links / file.name).symlink_to(file)
    (links / "experiment.xenium").unlink()
    changed = {} if version == "as written" else {"analysis_sw_version": version}
    (links / "experiment.xenium").write_text(json.dumps(specs | changed))
    assert describe_bundle(links).layout == LAYOUTS[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stains_and_sizes(bundles, layout):
    found = describe_bundle(bundles[layout])
    n_stains = 1 if layout in ("1.0", "1.4") else 4
    assert tuple(image.stain for image in found.focus) == toy.STAINS[:n_stains]
    assert [(image.stain, len(image.pages)) for image in found.stack] == [(keys.DAPI, toy.N_PLANES)]
    assert (found.shape_px, found.dtype, found.pixel_size_um) == (toy.SHAPE, np.uint16, 0.2125)
    assert found.he.alignment.name == "toy_he_imagealignment.csv"
    assert not found.missing


def test_version_of_the_ranger_wins(bundles, tmp_path):
    bundle = toy.toy_bundle(tmp_path / "bundle")
    b.experiment(xenium_ranger={"version": "xenium-3.1.0.4"})(bundle)
    assert describe_bundle(bundle).software == "xenium-3.1.0.4"


def test_what_is_missing_is_listed_with_its_consequence(tmp_path):
    bundle = toy.toy_bundle(tmp_path / "bundle", with_he=False, with_stack=False, with_transcripts=False)
    b.remove("nucleus_boundaries.parquet", "cells.zarr.zip", "morphology_focus/morphology_focus_0002.ome.tif")(bundle)
    found = {part.part: part.consequence for part in describe_bundle(bundle).missing}
    assert set(found) == {
        "morphology_focus/morphology_focus_0002.ome.tif",
        "cells.zarr.zip",
        "nucleus_boundaries.parquet",
        "transcripts.parquet",
        "morphology.ome.tif",
        "H&E image",
    }
    assert "18S" in found["morphology_focus/morphology_focus_0002.ome.tif"]


def test_renamed_file_of_a_linked_set_keeps_its_stain(tmp_path):
    bundle = toy.toy_bundle(tmp_path / "bundle")
    focus = bundle / "morphology_focus"
    (focus / "morphology_focus_0002.ome.tif").rename(focus / "rna.ome.tif")
    found = describe_bundle(bundle)
    by_file = {image.file.name: image.stain for image in found.focus}
    assert by_file["rna.ome.tif"] == keys.INTERIOR_RNA_STAIN
    assert "18S" not in " ".join(part.consequence for part in found.missing)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("DAPI", keys.DAPI),
        ("dapi", keys.DAPI),
        ("atp1a1_cd45_e-cadherin", keys.BOUNDARY_STAIN),
        ("ATP1A1/CD45/E-Cadherin", keys.BOUNDARY_STAIN),
        ("18s", keys.INTERIOR_RNA_STAIN),
        ("alphasma_vimentin", keys.INTERIOR_PROTEIN_STAIN),
        ("αSMA/Vimentin", keys.INTERIOR_PROTEIN_STAIN),
        (" CD3E ", "CD3E"),
        ("PD-L1", "PD-L1"),
    ],
)
def test_spellings_of_stains(written, name):
    assert canonical_stain(written) == name


@pytest.mark.parametrize("file", ["morphology.ome.tif", "morphology_focus.ome.tif"])
def test_files_that_hold_dapi_by_definition(tmp_path, file):
    bundle = toy.toy_bundle(tmp_path / "bundle", "1.4")
    b.xml(file, 'Name="DAPI"', 'Name="Channel 0"')(bundle)
    found = describe_bundle(bundle)
    assert [image.stain for image in (*found.focus, *found.stack)] == [keys.DAPI, keys.DAPI]


def _ome(order: str, size_c: int, size_z: int, tiff_data: tuple[TiffData, ...] = ()) -> Ome:
    return Ome((None,) * size_c, size_c, size_z, order, tiff_data, None, size_c * size_z, None)


@pytest.mark.parametrize(
    ("order", "planes"),
    [
        ("XYZCT", [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 3), (1, 1, 4), (1, 2, 5)]),
        ("XYCZT", [(0, 0, 0), (1, 0, 1), (0, 1, 2), (1, 1, 3), (0, 2, 4), (1, 2, 5)]),
    ],
)
def test_planes_follow_the_dimension_order(order, planes):
    assert _ome(order, 2, 3).planes("a.tif") == planes
    assert _ome(order, 2, 3, (TiffData(0, 0, 0, None, None, None),)).planes("a.tif") == planes


def test_planes_of_linked_files_are_told_apart():
    linked = tuple(TiffData(c, 0, 0, 1, f"{c}.tif", None) for c in range(2))
    assert _ome("XYZCT", 2, 1, linked).planes("1.tif") == [(1, 0, 0)]
    assert _ome("XYZCT", 2, 1, linked).planes("other.tif") == []


def test_focus_falls_back_to_the_stack_and_says_so(tmp_path):
    bundle = toy.toy_bundle(tmp_path / "bundle")
    b.remove("morphology_focus")(bundle)
    choices, notes = choose_images(describe_bundle(bundle), "focus")
    assert [(choice.image.stain, choice.projection) for choice in choices] == [(keys.DAPI, "max")]
    assert "maximum over z" in notes[0]


def test_stains_without_a_stack_keep_their_focus_image_under_max(bundles):
    choices, notes = choose_images(describe_bundle(bundles["3.0"]), "max")
    assert [choice.projection for choice in choices] == ["max", "focus", "focus", "focus"]
    assert len(notes) == 3


def test_max_without_a_stack_is_refused(tmp_path):
    bundle = toy.toy_bundle(tmp_path / "bundle", with_stack=False)
    with pytest.raises(SpatiaError, match="morphology.ome.tif: expected the z-stack"):
        choose_images(describe_bundle(bundle), "max")


@pytest.mark.parametrize("tile", [(64, 48), (16, 16), None])
@pytest.mark.parametrize("cache_bytes", [0, 20_000])
def test_windows_of_a_plane(tmp_path, tile, cache_bytes):
    pixels = np.random.default_rng(1).integers(0, 60000, (150, 203)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=tile, rowsperstrip=None if tile else 7, compression="deflate")
    with PlaneReader(tmp_path / "a.tif", cache_bytes=cache_bytes) as plane:
        assert plane.shape == pixels.shape
        for y0, y1, x0, x1 in [(0, 150, 0, 203), (63, 65, 47, 49), (100, 150, 190, 203), (10, 11, 5, 6)]:
            np.testing.assert_array_equal(plane.read(y0, y1, x0, x1), pixels[y0:y1, x0:x1])


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_windows_of_a_colour_image(tmp_path, planarconfig):
    pixels = np.random.default_rng(2).integers(0, 255, (70, 90, 3)).astype(np.uint8)
    stored = pixels if planarconfig == "contig" else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, tile=(32, 16), photometric="rgb", planarconfig=planarconfig, compression="zlib"
    )
    with PlaneReader(tmp_path / "a.tif") as plane:
        np.testing.assert_array_equal(plane.read(20, 61, 7, 66), pixels[20:61, 7:66])
