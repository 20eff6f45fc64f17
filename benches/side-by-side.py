#!/usr/bin/env python3
"""side-by-side.py FOLDER [--rounds N] [--only WORD]: times diskferry against qemu-img and sha256sum on the same images in one run.

Needs qemu-img, mkfs.ext4, tar, about 30 GiB free in FOLDER and `cargo build --release`. The image is 8 GiB raw, ext4 filled from
/usr, in the page cache. A run counts until its target is on stable storage: both sides are synced before the clock stops.
Programs take turns; the best of the rounds counts. Prints seconds, the ratio to diskferry, the peak memory, and what
the target occupies.
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

DISKFERRY = Path(__file__).resolve().parent.parent / "target/release/diskferry"
FAST = ["-W", "-m", "16"]
VPC = ["-O", "vpc", "-o", "force_size=on"]
VMDK = ["-O", "vmdk", "-o"]


def parts(target):
    """The target and the extents beside it."""
    return list(target.parent.glob(target.stem + "*"))


def run(command, target):
    """Seconds until `command` is done and `target` durable, and its peak memory in MiB."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    stderr = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command}: {stderr.decode()}")
    for file in parts(target):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return time.monotonic() - start, usage.ru_maxrss / 1024


def warm(path):
    """Reads a file, so that it is in the page cache; a huge one is all holes."""
    if path.stat().st_size > 1 << 40:
        return
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def race(title, contestants, source, target, rounds):
    """Runs all contestants in turns and prints a line for each."""
    best = {name: (1e9, 0) for name in contestants}
    sizes = {}
    for _ in range(rounds):
        for name, command in contestants.items():
            for file in parts(target):
                file.unlink()
            os.sync()
            warm(source)
            best[name] = min(best[name], run(command, target))
            sizes[name] = sum(file.stat().st_blocks * 512 for file in parts(target))
    for file in parts(target):
        file.unlink()
    ours = best["diskferry"][0]
    print(f"\n{title}")
    for name, (seconds, memory) in best.items():
        size = sizes[name] / 1e6
        print(f"  {name:<32} {seconds:8.2f} s  {seconds / ours:6.2f} x  {memory:6.0f} MiB  {size:8.1f} MB", flush=True)


def prepare(folder, wanted):
    """The image, and the copies of it that are wanted, made once by qemu-img; the package by diskferry."""
    raw = folder / "bench.raw"
    if not raw.exists():
        part = folder / "bench.part"
        part.unlink(missing_ok=True)
        subprocess.run(["truncate", "-s", "8G", part], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", "/usr", part], check=True)
        part.rename(raw)
    copies = {
        "bench.qcow2": ["-O", "qcow2"],
        "bench.vhd": VPC,
        "bench.vhdx": ["-O", "vhdx"],
        "bench.vmdk": ["-O", "vmdk"],
        "bench-stream.vmdk": [*VMDK, "subformat=streamOptimized"],
        "bench-zlib.qcow2": ["-c", "-O", "qcow2"],
        "bench-zstd.qcow2": ["-c", "-O", "qcow2", "-o", "compression_type=zstd"],
    }
    for name, options in copies.items():
        if name in wanted and not (folder / name).exists():
            part = folder / (name + ".part")
            subprocess.run(["qemu-img", "convert", *FAST, *options, raw, part], check=True)
            part.rename(folder / name)
    for name, command in {
        "empty.qcow2": ["qemu-img", "create", "-q", "-f", "qcow2", folder / "empty.qcow2", "64T"],
        "empty.vhdx": ["qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=2M", folder / "empty.vhdx", "64T"],
        "empty.raw": ["truncate", "-s", "2040G", folder / "empty.raw"],
        "bench.ova": [DISKFERRY, "convert", raw, folder / "bench.ova", "--name", "bench"],
    }.items():
        if name in wanted and not (folder / name).exists():
            subprocess.run(command, check=True)


def vmdk_cases(folder):
    out = folder / "out.vmdk"
    stream = "subformat=streamOptimized"
    for source, source_format, ours, theirs in [
        ("bench.raw", "raw", ["subformat=monolithicSparse"], [*VMDK, "subformat=monolithicSparse"]),
        ("bench.raw", "raw", ["subformat=monolithicFlat"], [*VMDK, "subformat=monolithicFlat"]),
        ("bench.vmdk", "vmdk", None, ["-O", "raw"]),
        ("bench.vmdk", "vmdk", None, ["-O", "qcow2"]),
        ("bench-stream.vmdk", "vmdk", None, ["-O", "raw"]),
        ("bench-stream.vmdk", "vmdk", None, ["-O", "qcow2"]),
        ("bench.raw", "raw", [stream], [*VMDK, stream]),
        ("bench.raw", "raw", [stream + ",level=1"], [*VMDK, stream]),
        ("bench-stream.vmdk", "vmdk", [stream], [*VMDK, stream]),
    ]:
        path = folder / source
        options = ["-O", "vmdk", "-o", *ours] if ours else theirs
        contestants = {"diskferry": [DISKFERRY, "convert", path, out, "-f", source_format, *options]}
        peer = ["qemu-img", "convert", "-f", source_format, *theirs]
        contestants["qemu-img"] = [*peer, path, out]
        # It deflates on one core whatever it is told, and takes minutes for it.
        if stream not in theirs:
            contestants["qemu-img -W -m 16"] = [*peer, *FAST, path, out]
            contestants["qemu-img -W -m 16 -t none"] = [*peer, *FAST, "-t", "none", path, out]
        yield f"{source} -> {' '.join(options[1:])}", contestants, path, out


def convert_cases(folder):
    out = folder / "out"
    for source, source_format, ours, theirs in [
        ("bench.raw", "raw", "qcow2", ["-O", "qcow2"]),
        ("bench.raw", "raw", "vhd", VPC),
        ("bench.qcow2", "qcow2", "raw", ["-O", "raw"]),
        ("bench.vhd", "vpc", "qcow2", ["-O", "qcow2"]),
        ("bench.raw", "raw", "vhdx", ["-O", "vhdx"]),
        ("bench.vhdx", "vhdx", "raw", ["-O", "raw"]),
        ("bench.vhdx", "vhdx", "qcow2", ["-O", "qcow2"]),
        ("bench.vhdx", "vhdx", "vhd", VPC),
        ("bench-zlib.qcow2", "qcow2", "raw", ["-O", "raw"]),
        ("bench-zstd.qcow2", "qcow2", "raw", ["-O", "raw"]),
        ("empty.qcow2", "qcow2", "qcow2", ["-O", "qcow2"]),
        # qemu-img takes many minutes for it.
        ("empty.vhdx", "vhdx", "qcow2", None),
        ("empty.raw", "raw", "vhd", None),
    ]:
        path = folder / source
        contestants = {"diskferry": [DISKFERRY, "convert", path, out, "-f", source_format, "-O", ours]}
        if theirs:
            peer = ["qemu-img", "convert", "-f", source_format, *theirs]
            contestants["qemu-img"] = [*peer, path, out]
            contestants["qemu-img -W -m 16"] = [*peer, *FAST, path, out]
            contestants["qemu-img -W -m 16 -t none"] = [*peer, *FAST, "-t", "none", path, out]
        yield f"{source} -> {ours}", contestants, path, out


def compressed_cases(folder):
    out = folder / "out.qcow2"
    for source, source_format, codec, more in [
        ("bench.raw", "raw", "zlib", []),
        ("bench.raw", "raw", "zlib", ["-o", "level=9"]),
        ("bench.raw", "raw", "zstd", []),
        ("bench-zlib.qcow2", "qcow2", "zlib", []),
        ("bench-zstd.qcow2", "qcow2", "zstd", []),
    ]:
        path = folder / source
        options = ["-f", source_format, "-O", "qcow2", "-c", "-o", f"compression_type={codec}"]
        yield f"{source} -> qcow2 -c {' '.join([codec, *more[1:]])}", {
            "diskferry": [DISKFERRY, "convert", path, out, *options, *more],
            "qemu-img -W -m 16": ["qemu-img", "convert", *FAST, *options, path, out],
        }, path, out


def package_cases(folder):
    """What people do today: tar, qemu-img, sha256sum, one after the other."""
    raw, ova = folder / "bench.raw", folder / "bench.ova"
    for title, ours, theirs in [
        ("bench.ova -> xva (tar and qemu-img: raw)", "xva", ["-O", "raw"]),
        ("bench.ova -> qcow2", "qcow2", ["-O", "qcow2"]),
        ("bench.ova -> vhd", "vhd", VPC),
    ]:
        out, unpacked = folder / f"out.{ours}", folder / "out.files"
        convert = " ".join(["qemu-img convert -f vmdk", *FAST, *theirs])
        yield title, {
            "diskferry": [DISKFERRY, "convert", ova, out],
            "tar -x, qemu-img -W -m 16": ["sh", "-c", f"""
                mkdir -p '{unpacked}' && tar -xf '{ova}' -C '{unpacked}' &&
                {convert} '{unpacked}'/bench-disk1.vmdk '{out}' && rm -r '{unpacked}'"""],
        }, ova, out
    out, vmdk = folder / "out.ova", folder / "out.vmdk"
    yield "bench.raw -> ova", {
        "diskferry": [DISKFERRY, "convert", raw, out, "--name", "bench"],
        "qemu-img, sha256sum, tar": ["sh", "-c", f"""
            qemu-img convert -f raw -O vmdk -o subformat=streamOptimized '{raw}' '{vmdk}' &&
            sha256sum '{vmdk}' >'{vmdk}.mf' && tar -cf '{out}' -C '{folder}' out.vmdk.mf out.vmdk &&
            rm '{vmdk}' '{vmdk}.mf'"""],
    }, raw, out
    yield "bench.ova -> ova", {"diskferry": [DISKFERRY, "convert", ova, out]}, ova, out


def reading_cases(folder):
    raw, qcow2, out = folder / "bench.raw", folder / "bench.qcow2", folder / "out"
    yield "compare bench.raw bench.qcow2", {
        "diskferry": [DISKFERRY, "compare", raw, qcow2],
        "qemu-img": ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow2],
    }, raw, out
    yield "check bench.qcow2", {
        "diskferry": [DISKFERRY, "check", qcow2],
        "qemu-img": ["qemu-img", "check", qcow2],
    }, qcow2, out
    yield "digest bench.raw", {
        "diskferry": [DISKFERRY, "digest", raw],
        "sha256sum": ["sha256sum", raw],
    }, raw, out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only cases whose title contains this")
    arguments = parser.parse_args()
    folder = arguments.folder
    cases = [*convert_cases(folder), *vmdk_cases(folder), *compressed_cases(folder), *package_cases(folder)]
    cases += reading_cases(folder)
    for title, contestants, source, target in cases:
        if arguments.only in title:
            # Also what is compared with it.
            prepare(folder, title)
            rounds = 1 if source.stat().st_size > 1 << 40 else arguments.rounds
            race(title, contestants, source, target, rounds)


main()
