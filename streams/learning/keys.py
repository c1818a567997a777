"""Where the learning loop's objects lie in the store: the one place that writes and reads keys."""


def samples_key(policy: str, group_id: str, sha256: str) -> str:
    """The key of the rollouts of a group that is too large for its event.

    Their hash is in it: a sampler that was stalled while another took over cannot replace them.
    """
    return f"samples/{policy}/{group_id}-{sha256[:12]}.json"


def episodes_key(policy: str, group_id: str, sha256: str) -> str:
    """The key of the episodes of a group."""
    return f"samples/{policy}/{group_id}-{sha256[:12]}.safetensors"


def gradients_prefix(policy: str) -> str:
    """Below it lie all gradients of a policy, in folders by base version."""
    return f"gradients/{policy}/"


def gradient_key(policy: str, base: int, upload_id: str, index: int, sha256: str) -> str:
    """The key of one chunk; its hash is in it, so work done again differently replaces nothing."""
    return f"{gradients_prefix(policy)}{base}/{upload_id}/{index:05d}-{sha256[:12]}"


def gradient_fields_key(policy: str, base: int, upload_id: str, sha256: str) -> str:
    """The key of what was moved out of an upload's event; it lies, and goes, with the chunks."""
    return f"{gradients_prefix(policy)}{base}/{upload_id}/fields-{sha256[:12]}"


def base_and_upload(policy: str, key: str) -> tuple[int, str] | None:
    """The base version and upload id in the key of an upload's object, or None elsewhere."""
    match key.removeprefix(gradients_prefix(policy)).split("/"):
        case [base, upload_id, _] if base.isdecimal():
            return int(base), upload_id
    return None


def weights_prefix(policy: str) -> str:
    """Below it lie the weights and optimizer state of a policy, in folders by version."""
    return f"weights/{policy}/"


def weights_key(policy: str, version: int, content: str, name: str) -> str:
    """The key of one file of a version; `content` is an id derived from all that it is made of."""
    return f"{weights_prefix(policy)}{version}-{content}/{name}"


def manifest_key(policy: str, version: int, sha256: str) -> str:
    """The key of what was moved out of a version's event."""
    return weights_key(policy, version, sha256[:20], "manifest.json")


def version_of(policy: str, key: str) -> int | None:
    """The version in a key below `weights_prefix`, or None where it is none."""
    number, dash, _ = key.removeprefix(weights_prefix(policy)).partition("-")
    return int(number) if dash and number.isdecimal() else None
