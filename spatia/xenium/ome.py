"""The little of OME-XML that says which page of which file is which stain and which z plane."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from spatia.errors import SpatiaError
from spatia.xenium.tiffs import RESTORE

_UM_PER_UNIT = {"µm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3}


@dataclass(frozen=True)
class TiffData:
    """One ``<TiffData>``: planes from (``c``, ``z``) on lie in ``file`` (None: this one) from page ``ifd`` on.

    ``uuid`` names the same file, whatever it is called by now.
    """

    c: int
    z: int
    ifd: int
    count: int | None
    file: str | None
    uuid: str | None


@dataclass(frozen=True)
class Ome:
    """Header of an OME-TIFF.

    Attributes
    ----------
    channels : names, None where a channel has none
    size_c, size_z : planes
    order : ``XYZCT`` or similar: the faster axis comes first
    tiff_data : where the planes lie
    pixel_size_um : of the file, if it says so
    n_pages : pages the file really has
    uuid : of the file
    """

    channels: tuple[str | None, ...]
    size_c: int
    size_z: int
    order: str
    tiff_data: tuple[TiffData, ...]
    pixel_size_um: float | None
    n_pages: int
    uuid: str | None

    def linked_files(self) -> tuple[str, ...]:
        """Return the names of all files that the header speaks of, in channel order."""
        return tuple(dict.fromkeys(entry.file for entry in self.tiff_data if entry.file is not None))

    def planes(self, file: str) -> list[tuple[int, int, int]]:
        """Return (c, z, page) of every plane that lies in ``file`` itself."""
        planes = []
        entries = [entry for entry in self.tiff_data if entry.file in (None, file)]
        if not entries and self.uuid is not None:
            entries = [entry for entry in self.tiff_data if entry.uuid == self.uuid]
        for entry in entries:
            count = entry.count if entry.count is not None else self.size_c * self.size_z
            for step in range(count):
                c, z = self._advance(entry.c, entry.z, step)
                if c < self.size_c and z < self.size_z:
                    planes.append((c, z, entry.ifd + step))
        if not self.tiff_data:
            planes = [(*self._advance(0, 0, step), step) for step in range(self.size_c * self.size_z)]
        return planes

    def _advance(self, c: int, z: int, step: int) -> tuple[int, int]:
        if self.order.find("Z") < self.order.find("C"):
            start = c * self.size_z + z + step
            return start // self.size_z, start % self.size_z
        start = z * self.size_c + c + step
        return start % self.size_c, start // self.size_c


def read_ome(file: Path) -> Ome | None:
    """Return the OME header of a TIFF, or None where it has none.

    Raises
    ------
    SpatiaError
        If the file is no TIFF, or its header is broken.
    """
    text, n_pages = _description(file)
    if "<OME" not in text[:2000] and "<ome:OME" not in text[:2000]:
        return None
    try:
        root = ElementTree.fromstring(text.encode("utf-8"))
        pixels = root.find(".//{*}Pixels")
        if pixels is None:
            raise ValueError("no <Pixels>")
        return _parse_pixels(pixels, n_pages, root.get("UUID"))
    except (ElementTree.ParseError, ValueError, TypeError) as problem:
        raise SpatiaError(
            f"{file}: expected OME-XML in the image's header, found something broken ({problem}); {RESTORE}"
        ) from None


def count_pages(file: Path) -> int:
    """Return the number of full-resolution pages of a TIFF."""
    return _description(file)[1]


def _parse_pixels(pixels: ElementTree.Element, n_pages: int, uuid: str | None) -> Ome:
    size_c, size_z = int(pixels.get("SizeC", "1")), int(pixels.get("SizeZ", "1"))
    samples = [int(channel.get("SamplesPerPixel", "1")) for channel in pixels.findall("{*}Channel")]
    names = tuple(channel.get("Name") or None for channel in pixels.findall("{*}Channel"))
    is_colour = any(count > 1 for count in samples)
    return Ome(
        channels=names,
        size_c=1 if is_colour else size_c,
        size_z=size_z,
        order=pixels.get("DimensionOrder", "XYZCT"),
        tiff_data=tuple(_parse_tiff_data(entry) for entry in pixels.findall("{*}TiffData")),
        pixel_size_um=_parse_length(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")),
        n_pages=n_pages,
        uuid=uuid,
    )


def _parse_tiff_data(entry: ElementTree.Element) -> TiffData:
    uuid = entry.find("{*}UUID")
    count = entry.get("PlaneCount")
    if count is None and entry.get("IFD") is not None:
        count = "1"  # the OME schema's default once a page is named
    return TiffData(
        c=int(entry.get("FirstC", "0")),
        z=int(entry.get("FirstZ", "0")),
        ifd=int(entry.get("IFD", "0")),
        count=None if count is None else int(count),
        file=None if uuid is None else uuid.get("FileName"),
        uuid=None if uuid is None else (uuid.text or "").strip(),
    )


def _parse_length(text: str | None, unit: str) -> float | None:
    if text is None or unit not in _UM_PER_UNIT or not re.fullmatch(r"[0-9.eE+-]+", text):
        return None
    return float(text) * _UM_PER_UNIT[unit]


def _description(file: Path) -> tuple[str, int]:
    try:
        with tifffile.TiffFile(file) as tiff:
            return str(tiff.pages.first.description), len(tiff.pages)
    except FileNotFoundError:
        raise SpatiaError(f"{file}: expected a TIFF image, found none; {RESTORE}") from None
    except Exception as problem:  # tifffile raises struct, value, key ... errors on garbage
        raise SpatiaError(f"{file}: expected a TIFF image, found something else ({problem}); {RESTORE}") from None
