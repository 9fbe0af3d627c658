"""Tiled, pyramidal OME-TIFF files as Xenium instruments write them.

One plane or z-stack per file, halved levels in SubIFDs, the OME-XML of the whole image set in every file. Bytes depend
on pixels and names alone: no dates, and UUIDs derived from names.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile

COMPRESSION = "deflate"
COMPRESSION_LEVEL = 6  # libdeflate; below 6 a slide's files grow by a tenth and are written hardly faster
Z_STEP_UM = 3.0

_NAMESPACE = uuid.UUID("5ba6a9f4-40a5-5d4b-9d2a-3a3f3f4f6c11")  # any fixed one
_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_PURPOSES = ("Nuclear", "Boundary", "Interior RNA", "Interior protein")


@dataclass(frozen=True)
class ImageSet:
    """The image that one or several linked files make together.

    Attributes
    ----------
    name : what the UUIDs are derived from
    channels : stain names, one file each (or one file for an RGB image)
    files : file names inside one folder, in the order of the channels
    shape : (y, x)
    """

    name: str
    channels: tuple[str, ...]
    files: tuple[str, ...]
    shape: tuple[int, int]
    pixel_size_um: float
    n_planes: int = 1
    samples: int = 1
    type: str = "uint16"

    def file_uuid(self, file: str) -> str:
        """Return the URN by which linked files name each other."""
        return f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{self.name}/{file}')}"


def ome_xml(image: ImageSet, file: str) -> str:
    """Return the OME-XML that ``file`` of ``image`` carries: all channels and, per channel, the file it is in."""
    schema = f'xmlns="{_SCHEMA}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    location = f'xsi:schemaLocation="{_SCHEMA} {_SCHEMA}/ome.xsd"'
    return "\n".join(
        [
            f'<OME {schema} {location} UUID="{image.file_uuid(file)}">',
            '  <Instrument ID="Instrument:0">',
            '    <Microscope Manufacturer="10x Genomics" Model="Xenium"/>',
            "  </Instrument>",
            '  <Image ID="Image:0">',
            '    <InstrumentRef ID="Instrument:0"/>',
            f"    <Pixels {_pixels_attributes(image)}>",
            *(_channel(index, name, image.samples) for index, name in enumerate(image.channels)),
            *_planes(image),
            "    </Pixels>",
            "  </Image>",
            "  <StructuredAnnotations>",
            *(_annotation(index) for index in range(len(image.channels))),
            "  </StructuredAnnotations>",
            "</OME>",
        ]
    )


def write_pyramid(path: Path, pixels: np.ndarray, xml: str, tile_px: int) -> None:
    """Write ``pixels`` and its halvings.

    Parameters
    ----------
    pixels : (y, x) or (z, y, x), or (y, x, 3) uint8 for an RGB image
    tile_px : edge of a tile, a multiple of 16
    """
    is_rgb = pixels.ndim == 3 and pixels.shape[-1] == 3
    levels = halvings(pixels, tile_px, is_rgb)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, level in enumerate(levels):
            tiff.write(
                level,
                subifds=len(levels) - 1 if index == 0 else None,
                subfiletype=0 if index == 0 else 1,
                description=xml.encode() if index == 0 else None,
                photometric="rgb" if is_rgb else "minisblack",
                tile=(tile_px, tile_px),
                compression=COMPRESSION,
                compressionargs={"level": COMPRESSION_LEVEL},
                predictor=True,
                metadata=None,
                software="tifffile.py",
            )


def halvings(pixels: np.ndarray, tile_px: int, is_rgb: bool = False) -> list[np.ndarray]:
    """Return ``pixels`` and its repeated halvings, down to half a tile."""
    levels = [pixels]
    y_axis = -3 if is_rgb else -2
    while max(levels[-1].shape[y_axis : y_axis + 2 or None]) > tile_px // 2:
        levels.append(halve(levels[-1], y_axis))
    return levels


def halve(pixels: np.ndarray, y_axis: int = -2) -> np.ndarray:
    """Return means of 2 x 2 pixels; an odd last row or column is left out, as in genuine files."""
    pixels = np.moveaxis(pixels, (y_axis, y_axis + 1), (0, 1))
    rows, columns = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    total = np.full((rows // 2, columns // 2, *pixels.shape[2:]), 2, np.uint32)  # 2: rounds to nearest
    for y in (0, 1):
        for x in (0, 1):
            total += pixels[y:rows:2, x:columns:2]
    return np.moveaxis((total // 4).astype(pixels.dtype), (0, 1), (y_axis, y_axis + 1))


def _pixels_attributes(image: ImageSet) -> str:
    height, width = image.shape
    size = f"{image.pixel_size_um:.10g}"
    text = (
        f'ID="Pixels:0" DimensionOrder="XYZCT" Type="{image.type}" SizeX="{width}" SizeY="{height}"'
        f' SizeZ="{image.n_planes}" SizeC="{len(image.channels) * image.samples}" SizeT="1"'
        f' PhysicalSizeX="{size}" PhysicalSizeXUnit="µm" PhysicalSizeY="{size}" PhysicalSizeYUnit="µm"'
    )
    depth = f' PhysicalSizeZ="{Z_STEP_UM}" PhysicalSizeZUnit="µm"' if image.n_planes > 1 else ""
    return text + depth


def _channel(index: int, name: str, samples: int) -> str:
    return (
        f'      <Channel ID="Channel:{index}" Name={quoteattr(name)} SamplesPerPixel="{samples}">'
        f'<AnnotationRef ID="Annotation:{index}"/></Channel>'
    )


def _annotation(index: int) -> str:
    purpose = _PURPOSES[min(index, len(_PURPOSES) - 1)]
    return f'    <MapAnnotation ID="Annotation:{index}"><Value><M K="Purpose">{purpose}</M></Value></MapAnnotation>'


def _planes(image: ImageSet) -> Sequence[str]:
    if image.n_planes > 1 or image.samples > 1:  # in one file, which names no other
        return [f'      <TiffData PlaneCount="{image.n_planes}"/>']
    return [
        f'      <TiffData FirstZ="0" FirstT="0" FirstC="{index}" IFD="0" PlaneCount="1">'
        f"<UUID FileName={quoteattr(file)}>{image.file_uuid(file)}</UUID></TiffData>"
        for index, file in enumerate(image.files)
    ]
