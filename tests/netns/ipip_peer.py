"""The far end of an IPIP tunnel: answers pings through it, and compares each packet of the other
end byte for byte with one of its own making. Arguments: device, own address, address of the other
end. Prints a line for each packet: `same`, or both packets."""

import sys

from scapy.all import ICMP, IP, Ether, Raw, conf, sniff, sendp

conf.verb = 0
device, own, other = sys.argv[1:4]


def wanted(inner):
    # One router is on the way, which takes one from the outer TTL of 64.
    return IP(src=other, dst=own, proto=4, ttl=63, id=0, flags="DF", tos=inner.tos) / inner


def answer(frame):
    received = bytes(frame[IP])[: frame[IP].len]
    inner = frame[IP].payload
    expected = bytes(wanted(IP(bytes(inner)[: inner.len])))
    same = received == expected
    print("same" if same else f"got {received.hex()} wanted {expected.hex()}", flush=True)
    if ICMP not in inner or inner[ICMP].type != 8:
        return
    echo = inner[ICMP]
    reply = IP(src=inner.dst, dst=inner.src, ttl=63, tos=inner.tos) / ICMP(
        type=0, id=echo.id, seq=echo.seq
    ) / Raw(bytes(echo.payload))
    outer = IP(src=own, dst=other, proto=4, ttl=64, id=7) / reply
    sendp(Ether(src=frame.dst, dst=frame.src) / outer, iface=device)


print("ready", flush=True)
sniff(
    iface=device,
    prn=answer,
    store=False,
    timeout=30,
    lfilter=lambda frame: IP in frame and frame[IP].proto == 4 and frame[IP].dst == own,
)
