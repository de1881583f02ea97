"""What the stub's phones say that they are: an Android 9 emulator, as the original experiments use."""

from __future__ import annotations

DENSITY = 440
PROPERTIES = {
    "ro.build.version.sdk": "28",
    "ro.build.version.release": "9",
    "ro.build.characteristics": "emulator",
    "ro.product.manufacturer": "digiq-ray",
    "ro.product.model": "simulated phone",
    "ro.product.brand": "digiq-ray",
    "ro.product.cpu.abi": "x86_64",
    "sys.boot_completed": "1",
    "dev.bootcomplete": "1",
    "init.svc.bootanim": "stopped",
    "persist.sys.locale": "en-US",
    "persist.sys.timezone": "Etc/UTC",
}
