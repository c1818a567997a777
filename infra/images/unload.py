"""Delete the CUDA libraries that PyTorch on a CPU never loads: run in the environment to shrink.

PyTorch's CUDA build links some of them, so they must stay; which, a step of training tells.
"""

from pathlib import Path

import torch


def step() -> None:
    """Run forward, backward and a fused AdamW step of a small transformer layer."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer(torch.randn(2, 3, 8)).sum().backward()
    torch.optim.AdamW(layer.parameters(), fused=True).step()


def mapped() -> set[Path]:
    """Return the files of which this process has parts in memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split()[-1]) for line in lines if "/" in line}


if __name__ == "__main__":
    step()
    kept = mapped()
    nvidia = Path(torch.__file__).parents[1].resolve() / "nvidia"
    freed = 0
    for path in nvidia.rglob("*"):
        if path.is_file() and path not in kept and path.suffix not in (".py", ".txt"):
            freed += path.lstat().st_size
            path.unlink()
    print(f"deleted {freed / 1e6:,.0f} MB of CUDA libraries that a CPU does not load")
