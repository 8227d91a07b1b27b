"""The arithmetic peak of a device, measured between the rounds of other work."""

import torch

from pcvpt.analysis.latency import seconds


class Peak:
    """The best rate so far, in multiply-accumulates per second, of one large matrix product.

    Args:
        device: Device of the product.
        dtype: Type of both matrices.
        size: Rows and columns of both. The default is bound by arithmetic and takes little time.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, size: int | None = None) -> None:
        self.device = device
        size = size or (8192 if device.type == "cuda" else 2048)
        self._first, self._second = torch.randn(2, size, size, device=device).to(dtype)
        self.rate = 0.0

    def __call__(self) -> None:
        """Measure three times more."""
        for _ in range(3):
            taken = seconds(lambda: self._first @ self._second, self.device)
            self.rate = max(self.rate, len(self._first) ** 3 / taken)
