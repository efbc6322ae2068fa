"""What a run takes of its machine, now and then: MLflow shows metrics named `system/...` on a page of their own."""

import sys
import time

import psutil

EVERY_S = 30.0


class Machine:
    """Measures at most every half minute, which takes a millisecond."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._last = float("-inf")

    def measure(self) -> dict[str, float]:
        """Load and memory; nothing when the last time was not long ago, or the system does not tell."""
        if time.monotonic() - self._last < EVERY_S:
            return {}
        self._last = time.monotonic()
        try:
            return {
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
                "system/process_memory_gb": self._process.memory_info().rss / 1e9,
                **_gpu(),
            }
        except (OSError, psutil.Error):
            return {}


def _gpu() -> dict[str, float]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"system/gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9}
