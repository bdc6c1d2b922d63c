"""Which compressed DICOM can be read here: the decoders that pydicom finds for each transfer syntax."""

from __future__ import annotations

from typing import Any

from pydicom.pixels import get_decoder
from pydicom.uid import AllTransferSyntaxes

from hepdist.doctor.check import Check

PACKAGES = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-rle pyjpegls python-gdcm"


def decoders() -> list[Check]:
    """One row for all that can be read, one for each transfer syntax that pydicom knows but nothing here decodes."""
    known = [(uid, _decoder(uid)) for uid in AllTransferSyntaxes if uid.is_compressed and _decoder(uid)]
    good = [(uid, decoder) for uid, decoder in known if decoder.is_available]
    plugins = sorted({plugin for _, decoder in good for plugin in decoder.available_plugins})
    readable = Check("DICOM decoders", f"{len(good)} of {len(known)} compressed transfer syntaxes, by {', '.join(plugins) or 'nothing'}")
    return [readable, *(_missing(uid, decoder) for uid, decoder in known if not decoder.is_available)]


def _decoder(uid: Any) -> Any:
    """None for video and other syntaxes that pydicom has no pixel decoder for; a hospital's images are not stored so."""
    try:
        return get_decoder(uid)
    except NotImplementedError:
        return None


def _missing(uid: Any, decoder: Any) -> Check:
    wanted = "; ".join(decoder.missing_dependencies)
    return Check(
        "DICOM decoders", f"none for {uid.name} ({uid}): {wanted}", "warning", f"{PACKAGES}; until then such files are quarantined"
    )
