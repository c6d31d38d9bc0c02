"""Packed pixels of DICOM that pydicom does not unpack by itself: JPEG of more than 8 bits, JPEG Lossless and JPEG-LS.

The form is that of a plugin of pydicom's decoders, which look for these names.
"""

from __future__ import annotations

from typing import Any

NAMES = {  # of the decoder of a transfer syntax
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",  # JPEG Extended, which pillow reads of 8 bits only
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",  # JPEG Lossless, Process 14
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",  # the same of first order prediction, what most archives hold
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
}
DECODER_DEPENDENCIES = dict.fromkeys(NAMES, ("imagecodecs",))


def is_available(uid: str) -> bool:
    """Whether frames of a transfer syntax can be decoded here."""
    return uid in NAMES


def decode_frame(src: bytes, runner: Any) -> bytes:
    """The pixels of a frame, of as many bits as its stream says, colours beside each other."""
    import imagecodecs

    decode = {"jpeg8_decode": imagecodecs.jpeg8_decode, "jpegls_decode": imagecodecs.jpegls_decode}
    pixels = decode[NAMES[runner.transfer_syntax]](src)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    if pixels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return pixels.tobytes()


def add(decoder: Any) -> None:
    """Lets a decoder of pydicom use this where all else fails."""
    if decoder.UID in NAMES and "imagecodecs" not in decoder.available_plugins:
        decoder.add_plugin("imagecodecs", (__name__, "decode_frame"))
