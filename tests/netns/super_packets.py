"""Watches the TCP that comes in by a device towards a port, as the kernel's packet sockets see it:
super-packets whole, with what their sender left undone beside them. Arguments: device, port, and
where to write what was seen once it is to end (SIGTERM); prints `ready` before.

Judged are checksums (of unfinished ones the sum of the pseudo-header), the lengths of IP, and the
order of sequence numbers: `behind` are packets with less than one before them had.
"""

import json
import select
import signal
import socket
import struct
import sys

device, port, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL, NEEDS_CSUM, TCP = 3, 1, 6

raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
raw.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
raw.bind((device, ETH_P_ALL))
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
print("ready", flush=True)

seen = dict(packets=0, supers=0, unfinished=0, longest=0, wrong=[], behind=0, sources=[])
furthest = {}


def folded(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def judge(data):
    flags, kind, _, size, start, offset = struct.unpack("=BBHHHH", data[:10])
    frame = data[10:]
    ethertype, ip = struct.unpack("!H", frame[12:14])[0], frame[14:]
    if ethertype == 0x0800 and ip[9] == TCP:
        header, addresses, family = (ip[0] & 15) * 4, ip[12:20], socket.AF_INET
        length = struct.unpack("!H", ip[2:4])[0]
        right = folded(ip[:header]) == 0xFFFF
    elif ethertype == 0x86DD and ip[6] == TCP:
        header, addresses, family = 40, ip[8:40], socket.AF_INET6
        length = 40 + struct.unpack("!H", ip[4:6])[0]
        right = True
    else:
        return
    tcp = ip[header:]
    source, target, sequence = struct.unpack("!HHI", tcp[:8])
    if target != port:
        return
    seen["packets"] += 1
    seen["longest"] = max(seen["longest"], len(ip))
    pseudo = addresses + struct.pack("!II", len(tcp), TCP)
    if flags & NEEDS_CSUM:
        seen["unfinished"] += 1
        right &= (start, offset) == (14 + header, 16)
        right &= tcp[16:18] == struct.pack("!H", folded(pseudo))
    else:
        right &= folded(pseudo + tcp) == 0xFFFF
    if kind & 0x7F:
        seen["supers"] += 1
        # TCP over IPv4 or IPv6; the size of a part.
        right &= kind & 0x7F == (1 if family == socket.AF_INET else 4)
        right &= header + (tcp[12] >> 4) * 4 + size <= 1500
    elif len(ip) > 1500:
        right = False
    if length != len(ip) or not right:
        seen["wrong"].append(data[:90].hex())
    address = socket.inet_ntop(family, addresses[: len(addresses) // 2])
    if address not in seen["sources"]:
        seen["sources"].append(address)
    flow = (address, source)
    ahead = (sequence - furthest.get(flow, sequence)) & 0xFFFFFFFF
    if ahead >> 31:
        seen["behind"] += 1
    else:
        furthest[flow] = sequence


while True:
    is_last = bool(ended)
    ready, _, _ = select.select([raw], [], [], 0 if is_last else 0.1)
    if ready:
        judge(raw.recv(70_000))
    elif is_last:
        break
seen["wrong"] = seen["wrong"][:5]
with open(out, "w") as file:
    json.dump(seen, file)
