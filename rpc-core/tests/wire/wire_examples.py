#!/usr/bin/env python3
"""Independent oracle for the wire protocol described in wire-protocol.md.

Standard library only.  Written from the rules in wire-protocol.md, not from any
implementation; it deliberately favours clarity over speed.

  wire_examples.py            run the self-check (exit status 0 = all good)
  wire_examples.py hex        print every worked example as an annotated hex dump
  wire_examples.py tsv        print the vectors, one a line:  name <TAB> kind <TAB> hex
                              (kind "ok" = must decode, otherwise the error kind expected)
  wire_examples.py decode HEX decode one frame (any framing) and print it
  wire_examples.py serve PORT a small echo server: methods Echo, BizFail, Fail, Slow
  wire_examples.py call HOST PORT [METHOD [TEXT]]   one unary call with TTHeader

The echo service used everywhere here:

  syntax = "proto3";
  package demo;
  message EchoRequest  { string message = 1; }
  message EchoResponse { string message = 1; }
  service EchoService  { rpc Echo(EchoRequest) returns (EchoResponse); }
"""

import json
import socket
import struct
import sys
import threading
import time

# --------------------------------------------------------------------------- constants

TT_MAGIC = 0x1000
PB_MAGIC = 0x9001
THRIFT_MAGIC = 0x8001
MESH_MAGIC = 0xFFAF
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

FLAG_OUT_OF_ORDER = 0x0001   # set by a multiplexing client
FLAG_STREAMING = 0x0002      # TTHeader Streaming frame
FLAG_DUPLEX_REVERSE = 0x0008
FLAG_SASL = 0x0010

PROTO_THRIFT_BINARY = 0x00   # what Kitex writes, for protobuf payloads too
PROTO_THRIFT_COMPACT_V2 = 0x03
PROTO_KITEX_PB = 0x04
PROTO_THRIFT_STRUCT = 0x10
PROTO_PB_STRUCT = 0x11
ACCEPTED_PROTOS = {0x00, 0x03, 0x04, 0x10, 0x11}

INFO_PADDING, INFO_STR, INFO_INT, INFO_ACL = 0x00, 0x01, 0x10, 0x11
ACL_KEY = "RPC_TRANSIT_gdpr-token"

INT_KEYS = [
    "MeshVersion", "TransportType", "LogID", "FromService", "FromCluster", "FromIDC",
    "ToService", "ToCluster", "ToIDC", "ToMethod", "Env", "DestAddress", "RPCTimeout",
    "ReadTimeout", "RingHashKey", "DDPTag", "WithMeshHeader", "ConnectTimeout",
    "SpanContext", "ShortConnection", "FromMethod", "StressTag", "MsgType",
    "HTTPContentType", "RawRingHashKey", "LBType", "ClusterShardID", "FrameType",
]
(TRANSPORT_TYPE, FROM_SERVICE, TO_SERVICE, TO_METHOD, RPC_TIMEOUT, CONNECT_TIMEOUT,
 FROM_METHOD, MSG_TYPE, FRAME_TYPE) = 1, 3, 6, 9, 12, 17, 20, 22, 27

CALL, REPLY, EXCEPTION, ONEWAY, STREAM, HEARTBEAT = 1, 2, 3, 4, 5, 6
META, HEADER, DATA, TRAILER, RST = "1", "2", "3", "4", "5"

MAX_HEADER = 4 * 0xFFFF          # 262,140
MAX_FRAME = 0x3FFFFFFF           # declared upper bound of the LENGTH field


class WireError(Exception):
    """kind is one of: short magic length header_size protocol_id transform info_id kv
    too_large payload msg_type method thrift"""

    def __init__(self, kind, msg=""):
        super().__init__("%s: %s" % (kind, msg))
        self.kind = kind


# --------------------------------------------------------------------------- TTHeader

def _s16(s):
    b = s.encode() if isinstance(s, str) else s
    if len(b) > 0xFFFF:
        raise WireError("too_large", "header string of %d bytes" % len(b))
    return struct.pack(">H", len(b)) + b


def tth_encode(seq, payload, flags=0, proto=PROTO_THRIFT_BINARY, ints=(), strs=()):
    """ints: [(int key, str value)], strs: [(str key, str value)], kept in the given order.
    The ACL token, when present among strs, is moved into its own info block."""
    h = bytes([proto, 0])                                   # protocol id, 0 transforms
    plain = [(k, v) for k, v in strs if k != ACL_KEY]
    for k, v in strs:
        if k == ACL_KEY:
            h += bytes([INFO_ACL]) + _s16(v)
    if plain:
        h += bytes([INFO_STR]) + struct.pack(">H", len(plain))
        for k, v in plain:
            h += _s16(k) + _s16(v)
    ints = list(ints)
    if ints:
        h += bytes([INFO_INT]) + struct.pack(">H", len(ints))
        for k, v in ints:
            h += struct.pack(">H", k) + _s16(v)
    h += b"\x00" * (-len(h) % 4)                            # no padding when aligned
    if len(h) > MAX_HEADER:
        raise WireError("header_size", str(len(h)))
    body = struct.pack(">HHIH", TT_MAGIC, flags, seq & 0xFFFFFFFF, len(h) // 4) + h + payload
    return struct.pack(">I", len(body)) + body


def tth_decode(buf, max_frame=MAX_FRAME):
    """Decodes exactly one frame at the start of buf; returns (dict, rest)."""
    if len(buf) < 14:
        raise WireError("short", "need the 14 fixed bytes")
    length, magic, flags, seq, units = struct.unpack(">IHHiH", buf[:14])
    if magic != TT_MAGIC:
        raise WireError("magic", "%04x" % magic)
    if length > max_frame:
        raise WireError("too_large", "frame of %d" % (length + 4))
    hsize = units * 4
    if hsize < 2:
        raise WireError("header_size", "0 units")
    if length + 4 < 14 + hsize:
        raise WireError("length", "LENGTH smaller than the header it announces")
    if len(buf) < length + 4:
        raise WireError("short", "need %d bytes, have %d" % (length + 4, len(buf)))
    info = buf[14:14 + hsize]
    proto, ntrans = info[0], info[1]
    if proto not in ACCEPTED_PROTOS:
        raise WireError("protocol_id", "%#x" % proto)
    if hsize - 2 < ntrans:
        raise WireError("transform", "%d ids announced" % ntrans)
    i = 2 + ntrans                                          # ids are skipped, not applied
    ints, strs = [], []

    def u16():
        nonlocal i
        if i + 2 > hsize:
            raise WireError("kv", "truncated u16 at %d" % i)
        v = (info[i] << 8) | info[i + 1]
        i += 2
        return v

    def s16():
        nonlocal i
        n = u16()
        if i + n > hsize:
            raise WireError("kv", "truncated string of %d at %d" % (n, i))
        v = info[i:i + n]
        i += n
        return v.decode("utf-8", "surrogateescape")

    while i < hsize:
        kind = info[i]
        i += 1
        if kind == INFO_PADDING:
            continue
        if kind == INFO_STR:
            for _ in range(u16()):
                k = s16()
                strs.append((k, s16()))
        elif kind == INFO_INT:
            for _ in range(u16()):
                k = u16()
                ints.append((k, s16()))
        elif kind == INFO_ACL:
            strs.append((ACL_KEY, s16()))
        else:
            raise WireError("info_id", "%#x at %d" % (kind, i - 1))
    frame = {
        "flags": flags, "seq": seq, "proto": proto, "ints": ints, "strs": strs,
        "header_len": 14 + hsize, "payload": bytes(buf[14 + hsize:length + 4]),
    }
    return frame, bytes(buf[length + 4:])


# --------------------------------------------------------------------------- Kitex Protobuf

def pb_message(msg_type, method, seq, body):
    m = method.encode()
    return (struct.pack(">HHI", PB_MAGIC, msg_type, len(m)) + m
            + struct.pack(">I", seq & 0xFFFFFFFF) + body)


def framed(b):
    return struct.pack(">I", len(b)) + b


def pb_frame_decode(buf):
    """buf starts at the 4-byte length. Returns (dict, rest)."""
    if len(buf) < 8:
        raise WireError("short", "need 8 payload bytes")
    n, magic, mt = struct.unpack(">IHH", buf[:8])
    if magic != PB_MAGIC:
        raise WireError("payload", "magic %04x" % magic)
    if n < 12:
        raise WireError("payload", "length %d below the 12 fixed bytes" % n)
    if len(buf) < 4 + n:
        raise WireError("payload", "need %d, have %d" % (4 + n, len(buf)))
    p = buf[4:4 + n]
    if mt not in (CALL, REPLY, EXCEPTION, ONEWAY, STREAM):
        raise WireError("msg_type", str(mt))
    ml = struct.unpack(">I", p[4:8])[0]
    if ml == 0 or 12 + ml > n:
        raise WireError("method", "name length %d in a payload of %d" % (ml, n))
    seq = struct.unpack(">i", p[8 + ml:12 + ml])[0]
    out = {"type": mt, "method": p[8:8 + ml].decode(), "seq": seq, "body": bytes(p[12 + ml:])}
    return out, bytes(buf[4 + n:])


# minimal protobuf, enough for the echo messages and ErrorProto

def _varint(v):
    v &= (1 << 64) - 1
    out = b""
    while True:
        b, v = v & 0x7F, v >> 7
        out += bytes([b | (0x80 if v else 0)])
        if not v:
            return out


def pb_str(num, s):
    b = s.encode()
    return b"" if not b else _varint(num << 3 | 2) + _varint(len(b)) + b


def pb_int(num, v):
    return b"" if v == 0 else _varint(num << 3) + _varint(v)


def pb_fields(b):
    i, out = 0, {}

    def rd():
        nonlocal i
        sh = v = 0
        while True:
            c = b[i]
            i += 1
            v |= (c & 0x7F) << sh
            sh += 7
            if not c & 0x80:
                return v
    while i < len(b):
        t = rd()
        if t & 7 == 0:
            v = rd()
            out[t >> 3] = v - (1 << 64) if v >> 63 else v
        elif t & 7 == 2:
            n = rd()
            out[t >> 3] = b[i:i + n]
            i += n
        else:
            raise WireError("payload", "wire type %d" % (t & 7))
    return out


def error_proto(type_id, message):
    return pb_int(1, type_id) + pb_str(2, message)


def echo_msg(s):
    return pb_str(1, s)


# --------------------------------------------------------------------------- Thrift bits
# Needed for two things only: the mux control frame and exceptions of TTHeader Streaming.

def thrift_msg(mt, method, seq, body):
    m = method.encode()
    return (struct.pack(">HHI", THRIFT_MAGIC, mt, len(m)) + m
            + struct.pack(">I", seq & 0xFFFFFFFF) + body)


def thrift_appex(method, seq, type_id, message):
    m = message.encode()
    body = (b"\x0b\x00\x01" + struct.pack(">I", len(m)) + m
            + b"\x08\x00\x02" + struct.pack(">i", type_id) + b"\x00")
    return thrift_msg(EXCEPTION, method, seq, body)


def thrift_appex_decode(b):
    magic, mt, ml = struct.unpack(">HHI", b[:8])
    if magic != THRIFT_MAGIC or mt != EXCEPTION:
        raise WireError("thrift", "not an exception message")
    method, seq = b[8:8 + ml].decode(), struct.unpack(">i", b[8 + ml:12 + ml])[0]
    i, msg, tid = 12 + ml, "", 0
    while b[i] != 0:
        ty, fid = b[i], struct.unpack(">H", b[i + 1:i + 3])[0]
        i += 3
        if ty == 0x0B:
            n = struct.unpack(">I", b[i:i + 4])[0]
            if fid == 1:
                msg = b[i + 4:i + 4 + n].decode()
            i += 4 + n
        elif ty == 0x08:
            if fid == 2:
                tid = struct.unpack(">i", b[i:i + 4])[0]
            i += 4
        else:
            raise WireError("thrift", "field type %#x" % ty)
    return {"method": method, "seq": seq, "type_id": tid, "message": msg}


# --------------------------------------------------------------------------- detection

def classify(b):
    """What the first 8 bytes of a connection (or of a TTHeader payload) announce."""
    if len(b) < 8:
        return "need-more"
    if b[:8] == H2_PREFACE[:8]:
        return "http2"
    w0, w1 = struct.unpack(">II", b[:8])
    if w1 >> 16 == TT_MAGIC:
        return "ttheader-streaming" if w1 & FLAG_STREAMING else "ttheader"
    if w0 >> 16 == MESH_MAGIC:
        return "mesh"
    if w0 >> 16 == THRIFT_MAGIC:
        return "thrift"
    if w1 >> 16 == THRIFT_MAGIC:
        return "thrift-framed"
    if w1 >> 16 == PB_MAGIC:
        return "pb-framed"
    return "unknown"


def decode_any(buf):
    """Full strict decode of one unary frame; the profile of wire-protocol.md section 9."""
    kind = classify(buf)
    if kind == "need-more":
        raise WireError("short", "need 8 bytes to classify")
    if kind in ("ttheader", "ttheader-streaming"):
        f, rest = tth_decode(buf)
        f["kind"] = kind
        if kind == "ttheader":
            inner = classify(f["payload"])
            if inner == "pb-framed":
                f["msg"], left = pb_frame_decode(f["payload"])
                if left:
                    raise WireError("length", "%d bytes after the inner message" % len(left))
            elif inner in ("thrift", "thrift-framed"):
                f["thrift"] = f["payload"]
            else:
                raise WireError("payload", "inner kind %s" % inner)
        return f, rest
    if kind == "pb-framed":
        m, rest = pb_frame_decode(buf)
        return {"kind": kind, "msg": m}, rest
    raise WireError("magic", kind)


# --------------------------------------------------------------------------- crc32c

def crc32c(data):
    crc = 0xFFFFFFFF
    for c in data:
        crc ^= c
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# --------------------------------------------------------------------------- worked examples

def call_ints(msg_type, from_svc="caller.svc", from_method="", to_svc="demo.echo",
              method="Echo", rpc_ms=None, conn_ms=None):
    """The integer keys a Kitex client with its TTHeader meta handler writes (ascending)."""
    out = [(TRANSPORT_TYPE, "framed"), (FROM_SERVICE, from_svc), (TO_SERVICE, to_svc),
           (TO_METHOD, method)]
    if rpc_ms is not None:
        out.append((RPC_TIMEOUT, str(rpc_ms)))
    if conn_ms is not None:
        out.append((CONNECT_TIMEOUT, str(conn_ms)))
    out += [(FROM_METHOD, from_method), (MSG_TYPE, str(msg_type))]
    return out


def stream_frame(sid, ftype, method, strs=(), payload=b"", proto=PROTO_THRIFT_STRUCT):
    return tth_encode(sid, payload, FLAG_STREAMING, proto,
                      [(TO_METHOD, method), (FRAME_TYPE, ftype)], strs)


def thrift_struct_string1(s):
    b = s.encode()
    return b"\x0b\x00\x01" + struct.pack(">I", len(b)) + b + b"\x00"


def examples():
    hello = echo_msg("hello")
    body = framed(pb_message(CALL, "Echo", 1, hello))
    reply = framed(pb_message(REPLY, "Echo", 1, hello))
    ex = []

    def add(name, note, data):
        ex.append((name, note, data))

    add("E1-call-minimal",
        "unary call exactly as a default Kitex pb client sends it (no TTHeader meta handler): "
        "empty info section, TTHeader + 4-byte length + Kitex Protobuf",
        tth_encode(1, body))
    add("E2-call-full",
        "the same call from a client with the TTHeader meta handler: int keys and isn",
        tth_encode(1, body, ints=call_ints(CALL), strs=[("isn", "EchoService")]))
    add("E3-reply",
        "reply of a server with the TTHeader meta handler (MsgType only)",
        tth_encode(1, reply, ints=[(MSG_TYPE, "2")]))
    add("E3b-reply-minimal", "reply of a server without the meta handler", tth_encode(1, reply))
    add("E3c-reply-closing",
        "reply during graceful shutdown: the client must not reuse the connection",
        tth_encode(1, reply, ints=[(MSG_TYPE, "2")], strs=[("crrst", "1")]))
    add("E4-exception-unknown-method",
        "isn named a known service, the method does not exist: type id 1; the server closes next",
        tth_encode(2, framed(pb_message(EXCEPTION, "Nope", 2, error_proto(
            1, "unknown method Nope (service EchoService)"))),
            ints=[(MSG_TYPE, "3")], strs=[("crrst", "1")]))
    add("E4b-exception-handler-error",
        "the handler returned a plain error: type id 6; the connection stays usable",
        tth_encode(3, framed(pb_message(EXCEPTION, "Echo", 3, error_proto(
            6, "biz error: disk full"))), ints=[(MSG_TYPE, "3")]))
    add("E5-call-metainfo-timeout",
        "persistent + transient metainfo, RPC timeout 500 ms, connect timeout 50 ms, ACL token",
        tth_encode(7, framed(pb_message(CALL, "Echo", 7, hello)),
                   ints=call_ints(CALL, from_method="Front", rpc_ms=500, conn_ms=50),
                   strs=[(ACL_KEY, "tok-abc"), ("RPC_PERSIST_TENANT", "acme"),
                         ("RPC_TRANSIT_HOP", "1"), ("isn", "EchoService")]))
    add("E5b-reply-backward",
        "reply carrying one backward metainfo pair: the key has NO prefix on TTHeader",
        tth_encode(7, framed(pb_message(REPLY, "Echo", 7, hello)),
                   ints=[(MSG_TYPE, "2")], strs=[("server-zone", "eu-1")]))
    add("E6-oneway",
        "message type 4; nothing may be awaited (see the section on oneway before using it)",
        tth_encode(8, framed(pb_message(ONEWAY, "Echo", 8, hello)),
                   ints=call_ints(ONEWAY), strs=[("isn", "EchoService")]))
    add("E7-biz-status-reply",
        "business status error: an ordinary Reply with an empty body, the status in string keys",
        tth_encode(9, framed(pb_message(REPLY, "Echo", 9, b"")), ints=[(MSG_TYPE, "2")],
                   strs=[("biz-status", "404"), ("biz-message", "not found"),
                         ("biz-extra", '{"id":"42"}')]))
    add("E8-framed-call", "bare Kitex Protobuf without TTHeader (4-byte length only)", body)
    add("E8b-framed-reply", "its reply: the server answers in the framing of the request", reply)
    add("E9-mux-call", "call on a multiplexed connection: FLAGS bit 0 set, any non-zero seq",
        tth_encode(0x12345678, framed(pb_message(CALL, "Echo", 0x12345678, hello)),
                   FLAG_OUT_OF_ORDER, ints=call_ints(CALL), strs=[("isn", "EchoService")]))
    add("E9b-mux-control-close",
        "mux control frame: seq 0, crrst=1, UNFRAMED Thrift reply named none with an empty struct",
        tth_encode(0, thrift_msg(REPLY, "none", 0, b"\x00"), strs=[("crrst", "1")]))
    crc_payload = framed(pb_message(CALL, "Echo", 10, hello))
    add("E10-call-crc32c",
        "payload checksum: crc32c of everything after the TTHeader, 8 lower-case hex digits",
        tth_encode(10, crc_payload, strs=[("crc32c", "%08x" % crc32c(crc_payload))]))
    add("E11-call-proto4", "as E1 but PROTOCOL ID 0x04: must be accepted, is never sent by Kitex",
        tth_encode(1, body, proto=PROTO_KITEX_PB))
    add("E12-empty-message", "a request whose protobuf message is empty (0 bytes of body)",
        tth_encode(11, framed(pb_message(CALL, "Echo", 11, b""))))

    th = thrift_struct_string1
    add("S1-c2s-header", "stream 1 opens (client to server)",
        stream_frame(1, HEADER, "EchoBidi",
                     [("isn", "EchoService"), ("RPC_PERSIST_TENANT", "acme")]))
    add("S2-c2s-data", "one message, Thrift struct payload as Kitex sends today",
        stream_frame(1, DATA, "EchoBidi", payload=th("hello")))
    add("S3-s2c-header", "the server's header frame, before its first data or trailer",
        stream_frame(1, HEADER, "EchoBidi", [("server-zone", "eu-1")]))
    add("S4-s2c-data", "one message back", stream_frame(1, DATA, "EchoBidi", payload=th("hello")))
    add("S5-c2s-trailer", "client half-close: trailer without payload",
        stream_frame(1, TRAILER, "EchoBidi"))
    add("S6-s2c-trailer-ok", "the server ends the stream normally",
        stream_frame(1, TRAILER, "EchoBidi"))
    add("S7-s2c-trailer-exception", "or with an error: a Thrift application exception as payload",
        stream_frame(1, TRAILER, "EchoBidi",
                     payload=thrift_appex("EchoBidi", 1, 6, "biz error: disk full")))
    add("S8-s2c-trailer-biz", "or with a business status: string keys, no payload",
        stream_frame(1, TRAILER, "EchoBidi",
                     [("biz-status", "404"), ("biz-message", "not found")]))
    add("S9-c2s-rst", "client cancel: rst with exception 12007 and the cancel path",
        stream_frame(1, RST, "EchoBidi", [("ttscp", "caller.svc")],
                     thrift_appex("EchoBidi", 1, 12007, "canceled")))
    add("P1-c2s-data-pb",
        "PROPOSED protobuf profile of streaming: PROTOCOL ID 0x11, payload = the bare message",
        stream_frame(1, DATA, "EchoBidi", payload=hello, proto=PROTO_PB_STRUCT))
    return ex


def negatives():
    """(name, bytes, error kind).  A receiver must reject each of these."""
    ok = dict((n, d) for n, _, d in examples())
    e1, e8 = ok["E1-call-minimal"], ok["E8-framed-call"]

    def patch(b, off, new):
        return b[:off] + new + b[off + len(new):]
    inner = e1[18:]
    return [
        ("N1-http1", b"GET / HTTP/1.1\r\n\r\n", "magic"),
        ("N2-apache-theader-magic", patch(e1, 4, b"\x0f\xff"), "magic"),
        ("N3-header-size-zero", patch(e1, 12, b"\x00\x00"), "header_size"),
        ("N4-length-below-header", patch(e1, 0, b"\x00\x00\x00\x0a"), "length"),
        ("N5-protocol-id-2", patch(e1, 14, b"\x02"), "protocol_id"),
        ("N6-transforms-overrun", patch(e1, 15, b"\x09"), "transform"),
        ("N7-unknown-info-id", patch(e1, 16, b"\x7f"), "info_id"),
        ("N8-str-count-overrun", patch(ok["E3c-reply-closing"], 17, b"\x00\xff"), "kv"),
        ("N9-str-length-overrun", patch(ok["E3c-reply-closing"], 19, b"\xff\xff"), "kv"),
        ("N10-frame-too-large", patch(e1, 0, b"\x7f\xff\xff\xff"), "too_large"),
        ("N11-truncated", e1[:-1], "short"),
        ("N12-inner-length-beyond-outer",
         patch(e1, 18, struct.pack(">I", len(inner) - 4 + 1)), "payload"),
        ("N13-inner-length-below-outer",
         patch(e1, 18, struct.pack(">I", len(inner) - 4 - 1)), "length"),
        ("N14-method-name-empty", framed(struct.pack(">HHII", PB_MAGIC, CALL, 0, 1)), "method"),
        ("N15-method-name-overrun", patch(e8, 8, b"\x7f\xff\xff\xff"), "method"),
        ("N16-message-type-9", patch(e8, 6, b"\x00\x09"), "msg_type"),
        ("N17-payload-magic", patch(e1, 22, b"\x12\x34"), "payload"),
        ("N18-no-payload", tth_encode(1, b""), "payload"),
    ]


# --------------------------------------------------------------------------- self-check

def check():
    n = 0

    def eq(a, b, what):
        nonlocal n
        n += 1
        if a != b:
            raise SystemExit("FAIL %s\n  got  %r\n  want %r" % (what, a, b))

    # 1. numeric facts asserted by gopkg's own tests (encode_test.go, decode_test.go)
    def hlen(strs):
        return struct.unpack(">H", tth_encode(1, b"", strs=strs)[12:14])[0] * 4
    eq(hlen([("key", "v" * 65524)]), 65536, "header of exactly 64 KiB")
    eq(hlen([("k" * 65522, "v" * 65535), ("x" * 65535, "y" * 65535)]), 262140, "largest header")
    try:
        tth_encode(1, b"", strs=[(str(i), "v" * 60) for i in range(5000)])
        raise SystemExit("FAIL oversized header accepted")
    except WireError as e:
        eq(e.kind, "header_size", "oversized header")
    for units in (16, 16384, 16385, 32768, 65535):
        b = struct.pack(">IHHIH", 10 + units * 4, TT_MAGIC, 0, 1, units) + bytes(units * 4)
        eq(tth_decode(b)[0]["header_len"], 14 + units * 4, "header units %d" % units)

    # 2. protobuf bodies against hand-computed bytes
    eq(echo_msg("hello").hex(), "0a0568656c6c6f", "echo message")
    eq(error_proto(1, "x").hex(), "0801120178", "ErrorProto")
    eq(error_proto(0, "x").hex(), "120178", "ErrorProto with type id 0 omits the field")
    eq(pb_int(1, -1).hex(), "08ffffffffffffffffff01", "negative int32 is a 10-byte varint")
    eq("%08x" % crc32c(b"123456789"), "e3069283", "crc32c check value")

    # 3. examples round-trip
    for name, _, data in examples():
        f, rest = decode_any(data)
        eq(rest, b"", name + " rest")
        if f["kind"] == "pb-framed":
            again = framed(pb_message(f["msg"]["type"], f["msg"]["method"], f["msg"]["seq"],
                                      f["msg"]["body"]))
        else:
            payload = f["payload"]
            if "msg" in f:
                m = f["msg"]
                eq(framed(pb_message(m["type"], m["method"], m["seq"], m["body"])), payload,
                   name + " inner")
                eq(m["seq"], f["seq"], name + " both sequence numbers agree")
            again = tth_encode(f["seq"], payload, f["flags"], f["proto"], f["ints"], f["strs"])
        eq(again.hex(), data.hex(), name + " round trip")
        for cut in range(len(data)):         # every prefix is "not yet", never a misparse
            try:
                decode_any(data[:cut])
                raise SystemExit("FAIL %s: prefix of %d accepted" % (name, cut))
            except WireError as e:
                if f["kind"] != "pb-framed" and e.kind != "short":
                    raise SystemExit("FAIL %s: prefix of %d gave %s" % (name, cut, e))
        n += 1
    ex = dict((a, d) for a, _, d in examples())
    m = decode_any(ex["E4-exception-unknown-method"])[0]["msg"]
    eq((m["type"], pb_fields(m["body"])[1]), (EXCEPTION, 1), "exception type id")
    eq(decode_any(ex["E7-biz-status-reply"])[0]["msg"]["body"], b"", "biz reply has no body")
    e = thrift_appex_decode(tth_decode(ex["S9-c2s-rst"])[0]["payload"])
    eq((e["type_id"], e["seq"]), (12007, 1), "rst exception")

    # 4. rejections
    for name, data, kind in negatives():
        try:
            decode_any(data)
            raise SystemExit("FAIL %s accepted" % name)
        except WireError as e:
            eq(e.kind, kind, name)

    # 5. detection
    for b, want in [(H2_PREFACE, "http2"), (ex["E1-call-minimal"], "ttheader"),
                    (ex["S1-c2s-header"], "ttheader-streaming"), (ex["E8-framed-call"], "pb-framed"),
                    (thrift_msg(CALL, "Echo", 1, b"\0"), "thrift"),
                    (framed(thrift_msg(CALL, "Echo", 1, b"\0")), "thrift-framed"),
                    (bytes.fromhex("ffaf000400000000"), "mesh"), (b"GET / HT", "unknown"),
                    (b"PRI * H", "need-more")]:
        eq(classify(b), want, "classify %r" % b[:8])

    # 6. two frames back to back, and the wire size of the smallest call
    f, rest = decode_any(ex["E1-call-minimal"] + ex["E9-mux-call"])
    eq(rest, ex["E9-mux-call"], "pipelined frames split")
    eq(len(tth_encode(1, b"")), 18, "smallest TTHeader frame")
    print("ok: %d checks, %d examples, %d rejections" % (n, len(examples()), len(negatives())))


# --------------------------------------------------------------------------- printing

def describe(data):
    out = []
    f, _ = decode_any(data)
    if f["kind"] != "pb-framed":
        L, mg, fl, sq, un = struct.unpack(">IHHiH", data[:14])
        out.append("LENGTH=%d MAGIC=%04x FLAGS=%04x SEQ=%d HEADER=%d*4 PROTOCOL=%#04x"
                   % (L, mg, fl, sq, un, f["proto"]))
        for k, v in f["strs"]:
            out.append("  str  %s = %r" % (k, v))
        for k, v in f["ints"]:
            nm = INT_KEYS[k] if k < len(INT_KEYS) else "?"
            out.append("  int  %d(%s) = %r" % (k, nm, v))
    m = f.get("msg")
    if m:
        out.append("  pb   type=%d method=%s seq=%d body=%s"
                   % (m["type"], m["method"], m["seq"], m["body"].hex() or "(empty)"))
    elif "payload" in f:
        out.append("  payload %s" % (f["payload"].hex() or "(empty)"))
    return out


def dump(data, width=16):
    for i in range(0, len(data), width):
        row = data[i:i + width]
        txt = "".join(chr(c) if 32 <= c < 127 else "." for c in row)
        yield "%04x  %-*s  %s" % (i, width * 3, " ".join("%02x" % c for c in row), txt)


def print_hex():
    for name, note, data in examples():
        print("### %s  (%d bytes)\n%s\n" % (name, len(data), note))
        print("```\n" + "\n".join(dump(data)) + "\n```")
        print("```\n" + "\n".join(describe(data)) + "\n```\n")


def print_tsv():
    for name, _, data in examples():
        print("%s\tok\t%s" % (name, data.hex()))
    for name, data, kind in negatives():
        print("%s\t%s\t%s" % (name, kind, data.hex()))


# --------------------------------------------------------------------------- tiny peer

def read_frame(sock, buf):
    while True:
        if len(buf) >= 8:
            need = 4 + struct.unpack(">I", buf[:4])[0]
            if classify(buf) not in ("ttheader", "ttheader-streaming", "pb-framed"):
                raise WireError("magic", buf[:8].hex())
            if len(buf) >= need:
                return buf[:need], buf[need:]
        more = sock.recv(65536)
        if not more:
            raise EOFError()
        buf += more


def answer(frame):
    """The reply bytes for one unary request, and whether to close afterwards."""
    f, _ = decode_any(frame)
    m = f["msg"]
    tt = f["kind"] == "ttheader"
    isn = dict(f.get("strs", [])).get("isn", "")

    def out(mt, body, strs=(), close=False):
        msg = framed(pb_message(mt, m["method"], m["seq"], body))
        strs = list(strs) + ([("crrst", "1")] if close else [])
        data = tth_encode(m["seq"], msg, ints=[(MSG_TYPE, str(mt))], strs=strs) if tt else msg
        return data, close
    if m["method"] not in ("Echo", "BizFail", "Fail", "Slow"):
        if isn == "EchoService":
            return out(EXCEPTION, error_proto(1, "unknown method %s (service %s)"
                                              % (m["method"], isn)), close=True)
        return out(EXCEPTION, error_proto(20, "unknown service %s, method %s"
                                          % (isn, m["method"])), close=True)
    if m["method"] == "BizFail":
        return out(REPLY, b"", [("biz-status", "404"), ("biz-message", "not found"),
                                ("biz-extra", json.dumps({"id": "42"}, separators=(",", ":")))])
    if m["method"] == "Fail":
        return out(EXCEPTION, error_proto(6, "biz error: disk full"))
    if m["method"] == "Slow":
        time.sleep(0.2)  # what the method is for
    back = [(k[len("RPC_TRANSIT_"):], v) for k, v in f.get("strs", [])
            if k.startswith("RPC_TRANSIT_") and k != ACL_KEY]      # echo transients backward
    return out(REPLY, m["body"], back)


def serve(port):
    ln = socket.create_server(("127.0.0.1", port))
    print("listening on 127.0.0.1:%d" % ln.getsockname()[1], flush=True)

    def one(s):
        buf = b""
        with s:
            try:
                while True:
                    frame, buf = read_frame(s, buf)
                    data, close = answer(frame)
                    s.sendall(data)
                    if close:
                        return
            except (EOFError, WireError, OSError) as e:
                if not isinstance(e, EOFError):
                    print("closed: %s" % e, flush=True)
    while True:
        s, _ = ln.accept()
        threading.Thread(target=one, args=(s,), daemon=True).start()


def call(host, port, method="Echo", text="hello"):
    with socket.create_connection((host, port), 5) as s:
        s.settimeout(5)
        s.sendall(tth_encode(1, framed(pb_message(CALL, method, 1, echo_msg(text))),
                             ints=call_ints(CALL, method=method), strs=[("isn", "EchoService")]))
        frame, _ = read_frame(s, b"")
    print("\n".join(describe(frame)))


def main(a):
    if not a or a[0] == "check":
        check()
    elif a[0] == "hex":
        print_hex()
    elif a[0] == "tsv":
        print_tsv()
    elif a[0] == "decode":
        print("\n".join(describe(bytes.fromhex("".join(a[1:])))))
    elif a[0] == "serve":
        serve(int(a[1]))
    elif a[0] == "call":
        call(a[1], int(a[2]), *a[3:5])
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
