"""Prints the size and the SHA-256 of what an independent reader finds in an image.

usage: readers.py libyal|dissect|file vhd|vhdx|vmdk|qcow2|vdi|raw IMAGE [OFFSET:LENGTH ...]

With ranges only those bytes are hashed, one range after the other. Ranges past the end are cut there.
"""

import hashlib
import os
import sys
from pathlib import Path

STEP = 1 << 20


def libyal(kind, path):
    if kind == "vmdk":
        import pyvmdk

        image = pyvmdk.handle()
        image.open(path)
        image.open_extent_data_files()
    elif kind == "qcow2":
        import pyqcow

        image = pyqcow.file()
        image.open(path)
    else:
        image = vhdi(path)
    return image.get_media_size(), image.read_buffer_at_offset


PARENTS = []


def vhdi(path):
    """The image at path over its parents, which stand beside it: found by their ids."""
    import pyvhdi

    image = pyvhdi.file()
    image.open(str(path))
    wanted = image.get_parent_identifier()
    if wanted:
        for beside in sorted(Path(path).parent.glob("*" + Path(path).suffix)):
            known = pyvhdi.file()
            known.open(str(beside))
            if known.get_identifier() == wanted:
                parent = vhdi(beside)
                image.set_parent(parent)
                PARENTS.append(parent)
                break
    return image


def dissect(kind, path):
    if kind == "vhd":
        from dissect.hypervisor.disk.vhd import VHD

        stream = VHD(open(path, "rb"))
    elif kind == "vhdx":
        from dissect.hypervisor.disk.vhdx import VHDX

        stream = VHDX(Path(path))
    elif kind == "vmdk":
        # It reads whole units, and fails when the last one of the disk is none: let a unit be a sector.
        os.environ["DISSECT_STREAM_BUFFER_SIZE"] = "512"
        from dissect.hypervisor.disk.vmdk import VMDK

        stream = VMDK(Path(path))
    elif kind == "vdi":
        from dissect.hypervisor.disk.vdi import VDI

        stream = VDI(Path(path)).open()
    else:
        from dissect.hypervisor.disk.qcow2 import QCow2

        stream = QCow2(Path(path)).open()
    return stream.size, seeking(stream)


def file(_kind, path):
    return Path(path).stat().st_size, seeking(open(path, "rb"))


def seeking(stream):
    def read(length, offset):
        stream.seek(offset)
        return stream.read(length)

    return read


def main(reader, kind, path, *ranges):
    size, read = {"libyal": libyal, "dissect": dissect, "file": file}[reader](kind, path)
    digest = hashlib.sha256()
    for offset, length in [map(int, r.split(":")) for r in ranges] or [(0, size)]:
        end = min(offset + length, size)
        for at in range(offset, end, STEP):
            wanted = min(STEP, end - at)
            data = read(wanted, at)
            if len(data) != wanted:
                sys.exit(f"{reader}: {len(data)} bytes of {wanted} at {at}")
            digest.update(data)
    print(size, digest.hexdigest())


main(*sys.argv[1:])
