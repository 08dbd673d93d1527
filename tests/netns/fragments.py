"""Sends UDP datagrams as fragments, as an ill-willed or unlucky network would. Arguments: own
address and port, address and port of the server, what to do, and the numbers of the datagrams.

shuffled   every datagram of 60,000 bytes, its fragments in random order
headless   the same without the first fragment
holey      the same without one of the others
flood      fragments of as many datagrams, never a first one
"""

import random
import socket
import struct
import sys
import time

own, own_port, server, server_port, what, *numbers = sys.argv[1:]
PIECE = 1480
# Nobody is faster than a busy machine here: what counts is what becomes of each.
PAUSE_S = 0.002
PIECES_AT_ONCE = 16
random.seed(7)
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
sent = 0


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def header(length, number, word):
    fields = (0x45, 0, 20 + length, number, word, 64, 17, 0)
    return struct.pack("!BBHHHBBH4s4s", *fields, socket.inet_aton(own), socket.inet_aton(server))


def fragments(number):
    data = struct.pack("!H", number) + bytes(at % 251 for at in range(59_998))
    length = 8 + len(data)
    udp = struct.pack("!HHHH", int(own_port), int(server_port), length, 0)
    pseudo = socket.inet_aton(own) + socket.inet_aton(server) + struct.pack("!HH", 17, length)
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp + data) or 0xFFFF)
    whole = udp + data
    for at in range(0, length, PIECE):
        part = whole[at : at + PIECE]
        more = 0x2000 if at + PIECE < length else 0
        yield header(len(part), number, more | at // 8) + part


def send(piece):
    global sent
    out.sendto(piece, (server, 0))
    sent += 1
    if sent % PIECES_AT_ONCE == 0:
        time.sleep(PAUSE_S)


for number in map(int, numbers):
    if what == "flood":
        send(header(PIECE, number, 0x2000 | 185) + bytes(PIECE))
        continue
    pieces = list(fragments(number))
    if what == "headless":
        pieces.pop(0)
    if what == "holey":
        pieces.pop(random.randrange(1, len(pieces)))
    random.shuffle(pieces)
    for piece in pieces:
        send(piece)
print(sent, flush=True)
