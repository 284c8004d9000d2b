"""The internet of a test: owns every IPv4 address beyond one device, echoes TCP and UDP on port 80, and remembers each
packet that arrives.

usage: netns-world.py <namespace path> <device>
One JSON command a line on stdin, one JSON answer a line on stdout; ends with its stdin.
"""
import ctypes, json, os, socket, struct, subprocess, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
seen, peers, lock = [], [], threading.Lock()


def enter(path):
    fd = os.open(path, os.O_RDONLY)
    if libc.setns(fd, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns " + path)


def sniff(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    # 33 is SO_RCVBUFFORCE: no packet may be missed.
    s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
    s.bind((device, 0))
    while True:
        frame, where = s.recvfrom(65536)
        # 4 is PACKET_OUTGOING: what the world itself sends.
        if where[2] == 4:
            continue
        kind = struct.unpack("!H", frame[12:14])[0]
        if kind == 0x86DD:
            # The link's own chatter does not count, only what was meant for the internet.
            if frame[38:42] == bytes.fromhex("20010db8"):
                with lock:
                    seen.append({"family": 6})
            continue
        if kind != 0x0800:
            continue
        ip = frame[14:]
        size = (ip[0] & 15) * 4
        sport, dport = struct.unpack("!HH", ip[size:size + 4])
        protocol = {1: "icmp", 6: "tcp", 17: "udp"}.get(ip[9], str(ip[9]))
        with lock:
            seen.append({"family": 4, "source": socket.inet_ntoa(ip[12:16]), "destination": socket.inet_ntoa(ip[16:20]),
                         "protocol": protocol, "sport": sport, "dport": dport})


def echo_stream(s):
    try:
        while True:
            data = s.recv(65536)
            if not data:
                return
            s.sendall(data)
    except OSError:
        pass


def serve_tcp(s):
    while True:
        peer, _ = s.accept()
        peers.append(peer)
        threading.Thread(target=echo_stream, args=(peer,), daemon=True).start()


def serve_udp(s):
    while True:
        data, peer = s.recvfrom(65536)
        try:
            s.sendto(data, peer)
        except OSError:
            # A sender that the world has no route to.
            pass


def main():
    enter(sys.argv[1])
    device = sys.argv[2]
    subprocess.run(["ip", "rule", "del", "pref", "1"], stderr=subprocess.DEVNULL)
    for line in ["route replace local 0.0.0.0/0 dev lo table 100", "rule add iif %s lookup 100 pref 1" % device]:
        subprocess.run(["ip"] + line.split(), check=True)
    threading.Thread(target=sniff, args=(device,), daemon=True).start()
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("", 80))
    tcp.listen(64)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # Answers to 203.0.113.1 only: an unconnected socket would else answer from another address than was asked.
    udp.bind(("203.0.113.1", 80))
    threading.Thread(target=serve_tcp, args=(tcp,), daemon=True).start()
    threading.Thread(target=serve_udp, args=(udp,), daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    for text in sys.stdin:
        c = json.loads(text)
        answer = {"ok": True}
        if c["op"] == "seen":
            with lock:
                answer = {"packets": seen[:]}
        elif c["op"] == "forget":
            with lock:
                seen.clear()
        elif c["op"] == "push":
            # Through every stream it ever accepted, the newest last.
            for peer in peers:
                try:
                    peer.sendall(c["data"].encode())
                except OSError:
                    pass
        elif c["op"] == "datagram":
            udp.sendto(c["data"].encode(), (c["host"], c["port"]))
        print(json.dumps(answer), flush=True)


main()
