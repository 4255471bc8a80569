# SPDX-License-Identifier: GPL-2.0-or-later
"""How devices of a PC are brought into the states that depended on the host.

Each function takes a bench whose board has the device in PCI slot 4 and leaves the device with the
state set: what a guest's driver does in its place, and no more.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from bench import Bench, Qtest
from deadlines import Deadline

SLOT = 4
PORTS, WINDOW = 0xc000, 0xe0000000          # where its registers are put
QUEUE, BUFFERS = 0x100000, 0x200000         # the guest's memory that a virtio device is given


class Pci:
    """The device in the slot, with its registers mapped."""

    def __init__(self, qtest: Qtest):
        self.qtest = qtest

    def set(self, register: int, value: int, size: int = 4) -> None:
        self.qtest.out(0xcf8, 0x80000000 | SLOT << 11 | register & ~3, 4)
        self.qtest.out(0xcfc + (register & 3), value, size)

    def map(self, bar: int, address: int) -> None:
        self.set(0x10 + 4 * bar, address)
        self.set(4, 7, 2)                   # ports, memory, bus master


def piix4(bench: Bench) -> None:
    """Enable events 1 to 3 and 8."""
    bench.qtest.out(0xafe2, 0x0e)
    bench.qtest.out(0xafe3, 0x01)


def vga(bench: Bench) -> None:
    """Write another byte to each plane and read the address, which loads the latch."""
    q = bench.qtest

    def indexed(port: int, index: int, value: int) -> None:
        q.out(port, index)
        q.out(port + 1, value)

    indexed(0x3c4, 4, 6)                    # planar
    indexed(0x3ce, 6, 5)                    # graphics, at 0xa0000
    indexed(0x3ce, 8, 0xff)
    for plane in range(4):
        indexed(0x3c4, 2, 1 << plane)
        q.write(0xa0000, bytes([0x11 * (plane + 1)]))
    q.read(0xa0000, 1)


def lsi53c895a(bench: Bench) -> None:
    """Leave a number in a scratch register."""
    Pci(bench.qtest).map(1, WINDOW)
    bench.qtest.write(WINDOW + 0x34, bytes.fromhex("11223344"))


def am53c974(bench: Bench) -> None:
    """Program the length and address of a transfer."""
    Pci(bench.qtest).map(0, PORTS)
    bench.qtest.out(PORTS + 0x44, 0x1000, 4)
    bench.qtest.out(PORTS + 0x48, 0x123456, 4)


def pvscsi(bench: Bench) -> None:
    """Begin a command and write the first words of its data."""
    Pci(bench.qtest).map(0, WINDOW)
    for register, value in ((0, 3), (4, 1), (4, 2), (4, 0x1234)):
        bench.qtest.write(WINDOW + register, struct.pack("<I", value))


def vmcoreinfo(bench: Bench) -> None:
    """Tell where the guest's note is, by way of fw_cfg's file of that name."""
    q = bench.qtest

    def dma(control: int, address: int, size: int) -> None:
        q.write(QUEUE, struct.pack(">IIQ", control, size, address))
        q.out(0x518, int.from_bytes(QUEUE.to_bytes(4, "big"), "little"), 4)

    dma(0x19 << 16 | 8 | 2, BUFFERS, 4)     # select the directory, read
    count = int.from_bytes(q.read(BUFFERS, 4), "big")
    dma(2, BUFFERS, 64 * count)
    for at in range(0, 64 * count, 64):
        entry = q.read(BUFFERS + at, 64)
        if entry[8:].rstrip(b"\0") == b"etc/vmcoreinfo":
            q.write(BUFFERS, struct.pack("<HHIQ", 1, 1, 1024, 0x3456789))
            dma(int.from_bytes(entry[4:6], "big") << 16 | 8 | 16, BUFFERS, 16)
            return
    raise AssertionError("fw_cfg has no etc/vmcoreinfo")


# Virtio


class Virtio:
    """A modern virtio device and the one queue of it that is used, split or packed.

    The places of its registers within the window are QEMU's own and fixed.
    """

    NOTIFY = WINDOW + 0x3000
    VERSION_1, RING_PACKED = 1 << 32, 1 << 34

    def __init__(self, qtest: Qtest, queue: int, features: int = 0, packed: bool = False):
        self.qtest = qtest
        self.queue = queue
        self.packed = packed
        pci = Pci(qtest)
        pci.set(0x24, WINDOW >> 32 << 32)
        pci.map(4, WINDOW & 0xffffffff)
        features |= self.VERSION_1 | (self.RING_PACKED if packed else 0)
        for status in (1, 3):
            self._set(0x14, status, 1)
        for half in range(2):
            self._set(0x08, half)
            self._set(0x0c, features >> 32 * half & 0xffffffff)
        self._set(0x14, 11, 1)
        self._set(0x16, queue, 2)
        self._set(0x18, 16, 2)
        for register, address in ((0x20, QUEUE), (0x28, QUEUE + 0x1000), (0x30, QUEUE + 0x2000)):
            self._set(register, address)
            self._set(register + 4, 0)
        self._set(0x1c, 1, 2)
        self._set(0x14, 15, 1)
        self._sent = 0
        self._slot = 0

    def _set(self, register: int, value: int, size: int = 4) -> None:
        self.qtest.write(WINDOW + register, value.to_bytes(size, "little"))

    def send(self, *buffers: tuple[int, int, bool]) -> None:
        """Offer one request: buffers are (address, size, whether the device writes it)."""
        last = len(buffers) - 1
        slots = [(self._slot + i) % 16 for i in range(len(buffers))]
        for i, (address, size, written) in enumerate(buffers):
            flags = (i < last) | written << 1
            if self.packed:
                tail = struct.pack("<HH", 0, flags | 1 << 7)
            else:
                tail = struct.pack("<HH", flags, slots[i + 1] if i < last else 0)
            self.qtest.write(QUEUE + 16 * slots[i], struct.pack("<QI", address, size) + tail)
        if not self.packed:
            self.qtest.write(QUEUE + 0x1004 + 2 * (self._sent % 16),
                             struct.pack("<H", slots[0]))
            self._sent += 1
            self.qtest.write(QUEUE + 0x1002, struct.pack("<H", self._sent))
        self._slot += len(buffers)
        self.qtest.write(self.NOTIFY + 4 * self.queue, struct.pack("<H", self.queue))


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = Deadline(30, what)
    while not condition():
        deadline.left()


def virtio_net(bench: Bench) -> None:
    """Ask for VLANs 1 and 100 through the control queue."""
    control_vq, control_vlan = 1 << 17, 1 << 19
    device = Virtio(bench.qtest, 2, control_vq | control_vlan)
    for vlan in (1, 100):
        bench.qtest.write(BUFFERS, bytes([2, 0]) + struct.pack("<H", vlan) + b"\xff")
        device.send((BUFFERS, 2, False), (BUFFERS + 2, 2, False), (BUFFERS + 4, 1, True))
        wait(lambda: bench.qtest.read(BUFFERS + 4, 1) == b"\0", "an answer of the network card")


DATA, STATUS = BUFFERS + 0x1000, BUFFERS + 0x2000


def _read_block(bench: Bench, *, packed: bool) -> None:
    mark = bench.qmp.mark()
    device = Virtio(bench.qtest, 0, packed=packed)
    bench.qtest.write(BUFFERS, struct.pack("<IIQ", 0, 0, 3))
    bench.qtest.write(STATUS, b"\xff")
    device.send((BUFFERS, 16, False), (DATA, 512, True), (STATUS, 1, True))
    bench.qmp.wait_event("STOP", since=mark)


def virtio_blk(bench: Bench) -> None:
    """Read a block from a disk that fails: the machine stops with the request in flight."""
    _read_block(bench, packed=False)


def virtio_blk_packed(bench: Bench) -> None:
    _read_block(bench, packed=True)


def virtio_scsi(bench: Bench) -> None:
    """The same through SCSI; the first command is answered with the disk's attention."""
    mark = bench.qmp.mark()
    device = Virtio(bench.qtest, 2)
    for number, command in enumerate(("00" * 6, "28" + "00" * 4 + "03" + "0000" + "01" + "00")):
        cdb = bytes.fromhex(command).ljust(32, b"\0")
        tag = number << 56 | number     # the same in both orders: docs/compatibility.rst
        header = bytes([1, 0, 0x40, 0, 0, 0, 0, 0]) + struct.pack("<QBBB", tag, 0, 0, 0) + cdb
        bench.qtest.write(BUFFERS, header)
        bench.qtest.write(STATUS, b"\xff" * 108)
        if number == 0:
            device.send((BUFFERS, len(header), False), (STATUS, 108, True))
            wait(lambda: bench.qtest.read(STATUS + 11, 1) != b"\xff", "an answer of the disk")
        else:
            device.send((BUFFERS, len(header), False), (STATUS, 108, True), (DATA, 512, True))
    bench.qmp.wait_event("STOP", since=mark)


# USB


def usb_storage(bench: Bench) -> None:
    """Send a stick a command and leave its answer unread: one transfer by a UHCI controller."""
    q = bench.qtest
    Pci(q).map(4, PORTS)
    head, transfer, wrapper = QUEUE + 0x1000, QUEUE + 0x1010, BUFFERS
    q.write(wrapper, struct.pack("<4sIIBBB16s", b"USBC", 0x12345678, 0, 0x80, 0, 6, bytes(16)))
    q.write(transfer, struct.pack("<IIII", 1, 1 << 23 | 3 << 27, 30 << 21 | 2 << 15 | 0xe1,
                                  wrapper))
    q.write(head, struct.pack("<II", 1, transfer))
    q.write(QUEUE, struct.pack("<I", head | 2) * 1024)
    q.out(PORTS + 8, QUEUE, 4)
    for port_status in (0x200, 0, 4):       # reset, then enable the port
        q.out(PORTS + 0x10, port_status, 2)
    q.out(PORTS, 1, 2)
    for _ in range(10):
        q.step(1000000)
        if not q.read(transfer + 4, 4)[2] & 0x80:
            break
    assert q.read(transfer + 4, 4)[2] == 0, "the transfer failed"


# What the tests take


def _bad_disk(device: str) -> tuple[str, ...]:
    return ("-blockdev", "null-co,node-name=plain,size=1048576,read-zeroes=on",
            "-blockdev", "blkdebug,node-name=disk,image=plain,inject-error.0.event=none,"
            "inject-error.0.iotype=read,inject-error.0.errno=5", "-device", device)


def good_disk(devices: tuple[str, ...]) -> tuple[str, ...]:
    """The same board, whose disk does not fail."""
    return ("-blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on", *devices[4:])


@dataclass(frozen=True)
class Case:
    """A device, how it is brought into a state, and the field that stock hosts send unlike."""

    name: str
    provoke: Callable[[Bench], None]
    field: str
    devices: tuple[str, ...] = ()
    machine: str = "pc-i440fx-10.0"


def _device(name: str, **options: str) -> tuple[str, ...]:
    words = [name, f"addr={SLOT}", *(f"{k}={v}" for k, v in options.items())]
    return ("-device", ",".join(words))


CASES = (
    Case("piix4", piix4, "piix4_pm/0: ar.gpe.en"),
    Case("vga", vga, "latch", _device("VGA", romfile="")),
    Case("lsi53c895a", lsi53c895a, "scratch", _device("lsi53c895a", romfile="")),
    Case("am53c974", am53c974, "dma_regs", _device("am53c974", romfile="")),
    Case("pvscsi", pvscsi, "curr_cmd_data", _device("pvscsi")),
    Case("vmcoreinfo", vmcoreinfo, "vmcoreinfo", ("-device", "vmcoreinfo")),
    Case("virtio-net", virtio_net, "virtio-net",
         ("-netdev", "hubport,id=net0,hubid=0",
          *_device("virtio-net-pci", netdev="net0", romfile="", mac="52:54:00:51:53:01"))),
    Case("virtio-blk", virtio_blk, "virtio-blk",
         _bad_disk(f"virtio-blk-pci,addr={SLOT},drive=disk,rerror=stop")),
    Case("usb-storage", usb_storage, "csw.tag",
         ("-blockdev", "null-co,node-name=disk,size=1048576,read-zeroes=on",
          *_device("piix3-usb-uhci", id="usb0"),
          "-device", "usb-storage,bus=usb0.0,drive=disk")),
    Case("virtio-scsi", virtio_scsi, "requests",
         (*_bad_disk(f"virtio-scsi-pci,addr={SLOT},id=bus0"),
          "-device", "scsi-hd,bus=bus0.0,drive=disk,rerror=stop")),
)
PACKED = Case("virtio-blk-packed", virtio_blk_packed, "virtio-blk",
              _bad_disk(f"virtio-blk-pci,addr={SLOT},packed=on,drive=disk,rerror=stop"))
