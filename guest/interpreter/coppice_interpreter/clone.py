"""Makes this process unlike every other process that grew from the same checkpoint."""

import base64
import hashlib
import sys


def reseed(entropy):
    """`entropy`: base64, at least 16 bytes, unique to this sandbox. Mixed with what the kernel gives now.

    os.urandom, secrets, uuid4 and numpy's default_rng ask the kernel, whose generator the agent reseeds. What holds
    a state of its own in this process is seeded here. The seed of Python's string hashing cannot be changed.
    """
    secret = base64.b64decode(entropy, validate=True)
    if len(secret) < 16:
        raise ValueError("entropy is shorter than 16 bytes")
    import os

    secret += os.urandom(32)

    def derive(label):
        return hashlib.blake2b(secret, person=label.ljust(16, b"\0")[:16]).digest()

    modules = sys.modules
    if "random" in modules:
        modules["random"].seed(int.from_bytes(derive(b"random"), "big"))
    if "numpy" in modules and "numpy.random" in modules:
        words = memoryview(derive(b"numpy")).cast("I").tolist()
        modules["numpy.random"].seed(words)
    if "_ssl" in modules:
        # OpenSSL keeps a generator of its own in this process.
        modules["_ssl"].RAND_add(derive(b"openssl"), 64.0)
    if "torch" in modules:
        modules["torch"].manual_seed(int.from_bytes(derive(b"torch")[:7], "big"))
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None
    if "uuid" in modules:
        modules["uuid"]._node = None
        modules["uuid"]._last_timestamp = None
