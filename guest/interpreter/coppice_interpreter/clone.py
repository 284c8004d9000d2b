"""Makes this process unlike every other process that grew from the same checkpoint."""

import base64
import hashlib
import sys


def reseed(entropy, seeds, keep_given=False):
    """`entropy`: base64, at least 16 bytes, unique to this sandbox. Mixed with what the kernel gives now.

    os.urandom, secrets, uuid4 and numpy's default_rng ask the kernel, whose generator the agent reseeds. What holds
    a state of its own in this process is seeded here; with `keep_given`, unless user code has seeded it. The seed of
    Python's string hashing cannot be changed. Raises the first failure, after all have been tried.
    """
    secret = base64.b64decode(entropy, validate=True)
    if len(secret) < 16:
        raise ValueError("entropy is shorter than 16 bytes")
    import os

    secret += os.urandom(32)

    def derive(label):
        return hashlib.blake2b(secret, person=label.ljust(16, b"\0")[:16]).digest()

    modules = sys.modules

    def seed_random():
        modules["random"].seed(int.from_bytes(derive(b"random"), "big"))

    def seed_numpy():
        modules["numpy.random"].seed(memoryview(derive(b"numpy")).cast("I").tolist())

    def seed_torch():
        modules["torch"].manual_seed(int.from_bytes(derive(b"torch")[:7], "big"))

    failure = None
    for name, seed in (("random", seed_random), ("numpy.random", seed_numpy), ("torch", seed_torch)):
        if name not in modules or (keep_given and seeds.given(name)):
            continue
        try:
            seed()
        except Exception as error:
            failure = failure or error
        seeds.forget(name)
    if "_ssl" in modules:
        # OpenSSL keeps a generator of its own in this process.
        modules["_ssl"].RAND_add(derive(b"openssl"), 64.0)
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None
    if "uuid" in modules:
        modules["uuid"]._node = None
        modules["uuid"]._last_timestamp = None
    if failure is not None:
        raise failure
