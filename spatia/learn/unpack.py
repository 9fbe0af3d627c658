"""Stored cells -> patch tokens: the compiled loops of the dataset.

A stored cell is the packed bits of its mask box and, per stain, the mask's pixels in row order (docs/outputs.md).
Two passes: the first reads the mask once and notes its pieces, up to 8 pixels in a row of one patch, which tells how
many tokens the batch needs; the second copies the pixels of each piece to its token, in all stains. Pieces are moved
as words of 8 bytes: byte by byte, most of the time goes into mispredicted ends of short loops (2-3 times slower).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

from spatia.errors import SpatiaError

if TYPE_CHECKING:
    from spatia.learn.slides import Slide

Tokens = tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int16], NDArray[np.int32]]
MAX_SIDE = 256  # patches in a window and pixels in a patch, along one side: their numbers are kept in 16 bits

_BYTES = [f"{value:08b}" for value in range(256)]
_N_BITS = np.asarray([bits.count("1") for bits in _BYTES], np.int64)
_LEADING_ZEROS = np.asarray([8 - len(bits.lstrip("0")) for bits in _BYTES], np.uint64)
_LEADING_ONES = np.asarray([8 - len(bits.lstrip("1")) for bits in _BYTES], np.uint64)

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)

# without this the helpers of a loaded (cached) kernel stay calls, which makes it three times slower
_inline = numba.njit(nogil=True, boundscheck=False, inline="always")


@_jit
def find_pieces(
    masks: NDArray[np.uint8],
    mask_offset: NDArray[np.int64],
    box: NDArray[np.int64],
    first_pixel: NDArray[np.int64],
    patch_px: int,
    pieces: NDArray[np.uint16],
    n_pieces: NDArray[np.int64],
    touched: NDArray[np.bool_],
    n_tokens: NDArray[np.int64],
) -> int:
    """Cut the rows of n masks into pieces of at most 8 pixels of one patch; return the first bad cell or -1.

    Parameters
    ----------
    masks
        (bytes,) packed bits of all cells' mask boxes.
    mask_offset, box
        (n,) first byte of each cell; (n, 4) top, left, height, width of its mask box inside the window, px.
    first_pixel
        (n + 1,) number of mask pixels before each cell; a cell has no more pieces than pixels, so they start here.
    pieces
        (pixels, 3) written, for pieces with at least one pixel: patch (row-major in the grid), place of the first
        bit inside the patch, the bits (128 = first).
    n_pieces
        (n,) written.
    touched, n_tokens
        (n, grid, grid) written: patches with at least one pixel of the cell; (n,) their number. All 0 on entry.

    Returns
    -------
    The first cell whose mask does not hold as many pixels as ``first_pixel`` says, or -1.
    """
    grid = touched.shape[1]
    for cell in range(mask_offset.size):
        top, left, height, width = box[cell]
        byte, bit = mask_offset[cell], 0
        piece, missing = first_pixel[cell], first_pixel[cell + 1] - first_pixel[cell]
        end = left + width
        for y in range(top, top + height):
            row, y_in = y // patch_px, (y % patch_px) * patch_px
            column = left // patch_px
            x, patch_start = left, column * patch_px
            while x < end:
                n_bits = min(8, min(patch_start + patch_px, end) - x)
                two_bytes = np.int64(masks[byte]) << 8
                if byte + 1 < masks.size:
                    two_bytes |= np.int64(masks[byte + 1])
                bits = (two_bytes >> (8 - bit)) & (0xFF00 >> n_bits) & 0xFF
                if bits:
                    missing -= _N_BITS[bits]
                    if missing < 0:
                        return cell
                    n_tokens[cell] += not touched[cell, row, column]
                    touched[cell, row, column] = True
                    pieces[piece, 0] = row * grid + column
                    pieces[piece, 1] = y_in + x - patch_start
                    pieces[piece, 2] = bits
                    piece += 1
                x, bit = x + n_bits, bit + n_bits
                byte, bit = byte + (bit >> 3), bit & 7
                if x == patch_start + patch_px:
                    column, patch_start = column + 1, x
        if missing:
            return cell
        n_pieces[cell] = piece - first_pixel[cell]
    return -1


@_jit
def fill_tokens(
    pixels: NDArray[np.uint8],
    pixel_offset: NDArray[np.int64],
    stain_place: NDArray[np.int64],
    first_pixel: NDArray[np.int64],
    pieces: NDArray[np.uint16],
    n_pieces: NDArray[np.int64],
    touched: NDArray[np.bool_],
    first_token: NDArray[np.int64],
    tokens: NDArray[np.uint64],
    inside: NDArray[np.uint64],
    position: NDArray[np.int16],
    n_stains: int,
    patch_px: int,
) -> None:
    """Copy the pixels of n cells into their tokens.

    Parameters
    ----------
    pixels, pixel_offset
        (bytes,) all cells' pixels, at least 8; (n,) first byte of each cell, one block per stored stain from there.
    stain_place
        (stored stains,) which channel of ``tokens`` a stored stain becomes, -1 = none.
    first_pixel, pieces, n_pieces, touched
        As :func:`find_pieces` took and wrote them.
    first_token
        (n + 1,) first token of each cell.
    tokens, inside, position
        Written: (t, c, p, p) bytes of pixels and (t, p, p) bytes that are 1 inside the cell, both as words of 8
        bytes and all zero on entry; (t, 2) row and column of the patch. Tokens of a cell are in row order.
    """
    grid = touched.shape[1]
    token_bytes, stain_bytes = np.uint64(n_stains * patch_px * patch_px), np.uint64(patch_px * patch_px)
    token_of = np.zeros(grid * grid, np.uint64)
    for cell in range(touched.shape[0]):
        token = first_token[cell]
        for row in range(grid):
            for column in range(grid):
                if touched[cell, row, column]:
                    token_of[row * grid + column] = token
                    position[token, 0], position[token, 1] = row, column
                    token += 1
        start = first_pixel[cell]
        pixel, n_pixels = np.uint64(pixel_offset[cell]), np.uint64(first_pixel[cell + 1] - start)
        for k in range(start, start + n_pieces[cell]):
            patch_token, place, bits = token_of[pieces[k, 0]], np.uint64(pieces[k, 1]), np.int64(pieces[k, 2])
            while bits:
                n_skipped = _LEADING_ZEROS[bits]
                n_run = _LEADING_ONES[(bits << np.int64(n_skipped)) & 0xFF]
                bits = (bits << np.int64(n_skipped + n_run)) & 0xFF
                place += n_skipped
                only_run = ~np.uint64(0) >> ((np.uint64(8) - n_run) * np.uint64(8))
                _put(inside, patch_token * stain_bytes + place, np.uint64(0x0101010101010101) & only_run, n_run)
                source = pixel
                for stain in range(stain_place.size):
                    if stain_place[stain] >= 0:
                        target = patch_token * token_bytes + np.uint64(stain_place[stain]) * stain_bytes + place
                        _put(tokens, target, _load(pixels, source) & only_run, n_run)
                    source += n_pixels
                place += n_run
                pixel += n_run


@_inline
def _load(source: NDArray[np.uint8], at: np.uint64) -> np.uint64:
    """Return the 8 bytes from ``at`` on, the first in the lowest bits; 0 behind the end of at least 8 bytes.

    Unsigned indices keep numba from testing for negative ones, and the bytes are joined one after the other: only
    then does this compile to one load.
    """
    u = np.uint64
    start = min(at, u(source.size) - u(8))
    word = u(source[start])
    word |= u(source[start + u(1)]) << u(8)
    word |= u(source[start + u(2)]) << u(16)
    word |= u(source[start + u(3)]) << u(24)
    word |= u(source[start + u(4)]) << u(32)
    word |= u(source[start + u(5)]) << u(40)
    word |= u(source[start + u(6)]) << u(48)
    word |= u(source[start + u(7)]) << u(56)
    return word >> ((at - start) << u(3))


@_inline
def _put(words: NDArray[np.uint64], at: np.uint64, value: np.uint64, n_bytes: np.uint64) -> None:
    """Add ``n_bytes`` bytes at byte ``at``, which were 0 (the machine is little-endian, as all we run on)."""
    word, shift = at >> np.uint64(3), (at & np.uint64(7)) << np.uint64(3)
    words[word] |= value << shift
    if shift + (n_bytes << np.uint64(3)) > np.uint64(64):
        words[word + np.uint64(1)] |= value >> (np.uint64(64) - shift)


def unpack_tokens(
    cells: Sequence[tuple[Slide, NDArray[np.int64], NDArray[np.int64]]], n_stains: int, patch_px: int
) -> Tokens:
    """Read cells of one or more slides as patch tokens.

    Parameters
    ----------
    cells
        Per slide: the slide, rows of its crops, and the channel that each of its stains becomes (-1 = none).
    n_stains
        Channels of the tokens.
    patch_px
        Side of a patch. Where it does not divide the window, the last patches reach beyond it.

    Returns
    -------
    tokens (t, c, p, p) uint8, inside (t, p, p) bool, position (t, 2) int16, first_token (cells + 1,) int32.

    Raises
    ------
    SpatiaError
        If a mask holds more or fewer pixels than the index says.
    """
    found = [_find_pieces_of(slide, rows, patch_px) for slide, rows, _ in cells]
    first_token = np.concatenate([[0], np.cumsum(np.concatenate([n_tokens for *_, n_tokens in found]))])
    tokens, token_words = _zero_words((first_token[-1], n_stains, patch_px, patch_px))
    inside, inside_words = _zero_words((first_token[-1], patch_px, patch_px))
    position = np.empty((first_token[-1], 2), np.int16)
    start = 0
    for (slide, rows, stain_place), (first_pixel, pieces, n_pieces, touched, _) in zip(cells, found, strict=True):
        fill_tokens(
            _at_least_8(np.asarray(slide.crops.pixel_bytes)),
            slide.crops.columns["pixel_offset"][rows],
            stain_place,
            first_pixel,
            pieces,
            n_pieces,
            touched,
            first_token[start : start + len(rows) + 1],
            token_words,
            inside_words,
            position,
            n_stains,
            patch_px,
        )
        start += len(rows)
    return tokens, inside.view(np.bool_), position, first_token.astype(np.int32)


def _at_least_8(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels if pixels.size >= 8 else np.pad(pixels, (0, 8 - pixels.size))


def _zero_words(shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Return zero bytes of ``shape``, and the same memory, one word longer at most, as 8-byte words."""
    n_bytes = int(np.prod(shape))
    words = np.zeros(n_bytes // 8 + 1, np.uint64)
    return words.view(np.uint8)[:n_bytes].reshape(shape), words


def _find_pieces_of(
    slide: Slide, rows: NDArray[np.int64], patch_px: int
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    crops, grid = slide.crops, -(-slide.crops.window_px // patch_px)
    if max(grid, patch_px) > MAX_SIDE:
        raise ValueError(f"patch_px: expected {MAX_SIDE} or less and as many patches a side, found {patch_px}, {grid}")
    first_pixel = np.concatenate([[0], np.cumsum(crops.columns["n_pixels"][rows])])
    pieces, n_pieces = np.empty((first_pixel[-1], 3), np.uint16), np.zeros(len(rows), np.int64)
    touched, n_tokens = np.zeros((len(rows), grid, grid), np.bool_), np.zeros(len(rows), np.int64)
    masks, offset = np.asarray(crops.mask_bytes), crops.columns["mask_offset"][rows]
    bad = find_pieces(masks, offset, slide.boxes[rows], first_pixel, patch_px, pieces, n_pieces, touched, n_tokens)
    if bad >= 0:
        raise SpatiaError(
            f"{slide.files.crops}: expected a mask of {np.diff(first_pixel)[bad]} pixels for cell "
            f"{slide.cell_ids[rows[bad]]}, found another number; crop the slide again"
        )
    return first_pixel, pieces, n_pieces, touched, n_tokens
