"""Which partition a key goes to: murmur2, as Java, aiokafka and `murmur2_random` have it.

Source: Apache Kafka, `org.apache.kafka.common.utils.Utils.murmur2`; the function itself is
Austin Appleby's MurmurHash2.
"""

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash, unsigned."""
    h = (_SEED ^ len(data)) & _MASK
    whole = len(data) - len(data) % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def partition_for(key: bytes, count: int) -> int:
    """The partition of a topic with `count` partitions that records with this key go to."""
    return (murmur2(key) & 0x7FFFFFFF) % count
