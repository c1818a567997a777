"""Getting the objects of a policy for a robot, in a thread that may wait for a store."""

import logging
import time
from collections.abc import Callable

from infra.store import MissingObject, ObjectStore, StoreUnavailable
from schemas.tensors import ObjectRef

logger = logging.getLogger("ralo.run")

TRIES = 30
EVERY_S = 1.0


def patient_fetch(
    store: Callable[[], ObjectStore],
    tries: int = TRIES,
    sleep: Callable[[float], object] = time.sleep,
) -> Callable[[ObjectRef], bytes]:
    """Gets objects, so many times while the store is away or has them not; raises as `get` then.

    `store` is called when an object is asked for: connecting may take as long as all else of a
    controller's start.
    """

    def fetch(ref: ObjectRef) -> bytes:
        for again in range(tries - 1):
            try:
                return store().get(ref)
            except (MissingObject, StoreUnavailable) as error:
                if not again:
                    logger.warning("trying again for %.0f s: %s", tries * EVERY_S, error)
                sleep(EVERY_S)
        return store().get(ref)

    return fetch
