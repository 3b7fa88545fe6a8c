"""Pictures of the trade-off, and of who leaves where."""

from ._exit_display import ExitDisplay
from ._tradeoff_display import TradeoffDisplay

__all__ = ["ExitDisplay", "TradeoffDisplay"]
