"""A stand-in for a guest. Behind a tap: a namespace with a network of its own whose only device is bridged, frame by frame,
to the tap that a fabric made; frames enter the fabric through the tap's file descriptor, as a VMM's do. Or in the
namespace that a fabric made, with more privilege than anything in a sandbox has.

usage: netns-guest.py tap <address> <guest namespace path> <fabric namespace path> <tap>
       netns-guest.py namespace <address> <sandbox namespace path>
One JSON command a line on stdin, one JSON answer a line on stdout; ends with its stdin.
"""
import ctypes, fcntl, json, os, select, socket, struct, subprocess, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
TUNSETIFF, IFF_TAP, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0002, 0x1000, 0x40000000


def enter(path):
    fd = os.open(path, os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns " + path)
    os.close(fd)


def open_tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def shuttle(a, b):
    while True:
        for fd in select.select([a, b], [], [])[0]:
            try:
                os.write(b if fd == a else a, os.read(fd, 65536))
            except OSError as error:
                # The fabric deleted the tap: the cable is out, the guest lives on.
                if error.errno == 77:
                    return


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(c):
    source, destination = socket.inet_aton(c["source"]), socket.inet_aton(c["destination"])
    protocol = {"tcp": 6, "udp": 17, "icmp": 1}[c["protocol"]]
    if protocol == 6:
        flags = {"syn": 2, "ack": 16, "synack": 18, "rst": 4}[c.get("flags", "syn")]
        body = struct.pack("!HHIIBBHHH", c["sport"], c["dport"], 1, 1, 5 << 4, flags, 8192, 0, 0)
    elif protocol == 17:
        data = c.get("data", "x").encode()
        body = struct.pack("!HHHH", c["sport"], c["dport"], 8 + len(data), 0) + data
    else:
        body = struct.pack("!BBHHH", 8, 0, 0, c["sport"], 1)
    pseudo = b"" if protocol == 1 else source + destination + struct.pack("!BBH", 0, protocol, len(body))
    at = {6: 16, 17: 6, 1: 2}[protocol]
    body = body[:at] + struct.pack("!H", checksum(pseudo + body)) + body[at + 2:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0, source, destination)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


def fail(error):
    if isinstance(error, socket.timeout):
        return {"error": "timeout"}
    import errno
    return {"error": errno.errorcode.get(error.errno, str(error))}


def plug_in(address, own, fabric, tap):
    enter(fabric)
    outer = open_tap(tap)
    enter(own)
    inner = open_tap("eth0")
    for line in [
        "link set lo up",
        "addr add %s/32 dev eth0" % address,
        "link set eth0 up",
        "route add 169.254.1.1 dev eth0",
        "route add default via 169.254.1.1 dev eth0",
    ]:
        subprocess.run(["ip"] + line.split(), check=True)
    threading.Thread(target=shuttle, args=(outer, inner), daemon=True).start()
    return lambda frame: os.write(outer, frame)


def main():
    kind, address, own = sys.argv[1:4]
    if kind == "tap":
        inject = plug_in(address, own, *sys.argv[4:6])
    else:
        enter(own)
        inject = lambda frame: link.send(frame)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    sockets = {}
    print(json.dumps({"ready": True}), flush=True)
    for text in sys.stdin:
        c = json.loads(text)
        answer = {"ok": True}
        try:
            if c["op"] == "connect":
                s = socket.socket()
                s.settimeout(c["timeout"])
                if "sport" in c:
                    s.bind(("", c["sport"]))
                s.connect((c["host"], c["port"]))
                sockets[c["name"]] = s
            elif c["op"] == "exchange":
                s = sockets[c["name"]]
                s.settimeout(c["timeout"])
                s.sendall(c["data"].encode())
                answer = {"data": s.recv(65536).decode()}
            elif c["op"] == "receive":
                s = sockets[c["name"]]
                s.settimeout(c["timeout"])
                answer = {"data": s.recv(65536).decode()}
            elif c["op"] == "udp":
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.settimeout(c["timeout"])
                s.connect((c["host"], c["port"]))
                s.send(c["data"].encode())
                answer = {"data": s.recv(65536).decode()}
                s.close()
            elif c["op"] == "ping":
                s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
                s.settimeout(c["timeout"])
                request = ip_packet({"source": address, "destination": c["host"], "protocol": "icmp", "sport": 77})
                s.sendto(request[20:], (c["host"], 0))
                while True:
                    reply, (peer, _) = s.recvfrom(65536)
                    if peer == c["host"] and reply[20] == 0:
                        break
                s.close()
            elif c["op"] == "listen":
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("", c["port"]))
                s.listen()
                sockets[c["name"]] = s
            elif c["op"] == "packets":
                for packet in c["packets"]:
                    raw.sendto(ip_packet(packet), (packet["destination"], 0))
            elif c["op"] == "inject":
                # Straight into the port, past the guest's own queue: none is lost on the way.
                known = json.loads(subprocess.run(["ip", "-j", "neigh"], capture_output=True, check=True).stdout)
                gateway = next(n["lladdr"] for n in known if n["dst"] == "169.254.1.1" and "lladdr" in n)
                header = bytes.fromhex(gateway.replace(":", "") + "0200000000010800")
                for packet in c["packets"]:
                    inject(header + ip_packet(packet))
            elif c["op"] == "frame":
                link.send(bytes.fromhex(c["hex"]))
            elif c["op"] == "run":
                done = subprocess.run(c["command"], capture_output=True, text=True)
                answer = {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        except OSError as error:
            answer = fail(error)
        print(json.dumps(answer), flush=True)


main()
