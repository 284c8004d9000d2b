/** What is run in a clone to learn what it is and what its generators give. Each prints one JSON object. */

/** Of a template that has Node, and of the JavaScript interpreter alike. */
const NODE_DRAW = `(() => {
  const c = process.getBuiltinModule('node:crypto');
  return JSON.stringify({
    random: String(Math.random()), randomBytes: c.randomBytes(16).toString('hex'), randomUUID: c.randomUUID(),
    randomInt: String(c.randomInt(2 ** 47)), getRandomValues: Buffer.from(c.getRandomValues(new Uint8Array(16))).toString('hex'),
  });
})()`;

/** For Node of a distribution, which may be too old for `getBuiltinModule`. */
const OLD_NODE_DRAW = NODE_DRAW.replace("process.getBuiltinModule('node:crypto')", "require('crypto')").replace(
  'c.getRandomValues(',
  'c.webcrypto.getRandomValues(',
);

/** A fresh process, as root. */
export const PROCESS_DRAW = `import glob, json, os, random, re, secrets, shutil, subprocess, tempfile, uuid

def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None

def said(*command):
    if shutil.which(command[0]) is None:
        return None
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

def connections():
    found = 0
    for table, loopback in (("tcp", ("0100007F",)), ("tcp6", ("0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F"))):
        for line in (read(f"/proc/net/{table}") or "").splitlines()[1:]:
            _, near, far, state = line.split()[:4]
            ends = (near.split(":")[0], far.split(":")[0])
            if state not in ("06", "07", "0A") and not any(end in loopback for end in ends):
                found += 1
    return found

before = read("/home/user/own")
with open("/home/user/own", "w") as own:
    own.write(os.uname().nodename)
node = json.loads(said("node", "-p", ${JSON.stringify(OLD_NODE_DRAW)}) or "{}")
address = re.search(r"inet ([0-9.]+)", said("ip", "-4", "addr", "show", "dev", "eth0") or "")
complaint = r"soft lockup|blocked for more than|detected stalls|clocksource.*(unstable|skew)|time went backwards"
print(json.dumps({
    "values": {
        "urandom": os.urandom(16).hex(), "secrets": secrets.token_hex(16), "random": repr(random.random()),
        "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()), "tempname": next(tempfile._get_candidate_names()),
        "kernel_uuid": read("/proc/sys/kernel/random/uuid"), "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "openssl": said("openssl", "rand", "-hex", "16"), "machine_id": read("/etc/machine-id"),
        "hostname": os.uname().nodename, "generation": read("/run/coppice/generation"),
        "address": address and address[1], "mac": read("/sys/class/net/eth0/address"),
        **{f"node_{name}": value for name, value in node.items()},
    },
    "facts": {
        "hostnameFile": read("/etc/hostname"), "generationVariable": os.environ.get("COPPICE_GENERATION"),
        "keptSeeds": glob.glob("/etc/ssh/ssh_host_*") + glob.glob("/var/lib/systemd/random-seed"),
        "ownBefore": before, "connections": connections(),
        "outward": read("/tmp/connection-outward"), "loopback": read("/tmp/connection-loopback"),
        "complaints": [line for line in said("dmesg").splitlines() if re.search(complaint, line, re.I)],
    },
}))
`;

/** In the interpreter that was started before the checkpoint. RNG: a generator that its owner made. */
export const PYTHON_DRAW = `import json, os, random, secrets, ssl, tempfile, uuid
try:
    import numpy
    _drawn = {"numpy": repr(numpy.random.random()), "default_rng": repr(numpy.random.default_rng().random())}
except ImportError:
    _drawn = {}
print(json.dumps({
    "values": {
        "urandom": os.urandom(16).hex(), "secrets": secrets.token_hex(16), "random": repr(random.random()),
        "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()), "tempname": next(tempfile._get_candidate_names()),
        "openssl": ssl.RAND_bytes(16).hex(), "hash": str(hash("coppice")), **_drawn,
        "owners_rng": repr(RNG.random()) if "RNG" in globals() else None,
    },
    "facts": {"generationVariable": os.environ.get("COPPICE_GENERATION")},
}))`;

/** In a sandbox that is about to be captured: a generator whose state nobody else can know of. */
export const OWNERS_RNG = `import random\nRNG = random.Random()`;

export const JAVASCRIPT_DRAW = `console.log(${NODE_DRAW})`;

/**
 * Holds two connections between sockets of its own, by the sandbox's address and by the loopback, and writes down how each
 * ends. Prints `held`.
 */
export const HOLD_CONNECTIONS = `import errno, socket, threading, time

def hold(name, address):
    listener = socket.create_server((address, 0))
    dialled = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    def note(text):
        with open(f"/tmp/connection-{name}", "w") as file:
            file.write(text)
    def wait():
        try:
            accepted.recv(1)
            note("closed")
        except OSError as error:
            note(errno.errorcode.get(error.errno, str(error)))
    note("alive")
    threading.Thread(target=wait, daemon=True).start()
    return listener, dialled

kept = [hold("loopback", "127.0.0.1")]
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    probe.connect(("198.51.100.1", 9))
    kept.append(hold("outward", probe.getsockname()[0]))
except OSError:
    pass
print("held", flush=True)
time.sleep(1e6)
`;
